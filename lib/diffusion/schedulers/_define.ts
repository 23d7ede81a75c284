/** What all schedulers have in common: the checks, and who makes which state. */
import type { Scheduler, SchedulerState } from "../types.ts";
import type { Settings } from "./_settings.ts";

/** What a scheduler computes of its settings and the number of steps. */
export interface Plan {
  /** [steps] */
  readonly timesteps: readonly number[];
}

/** The arrays of one step. */
export interface Arrays {
  readonly output: Float32Array;
  readonly sample: Float32Array;
  /** The predicted originals of earlier steps, the latest first. */
  readonly history: readonly Float32Array[];
  /** Given where `noisy` says so. */
  readonly noise: Float32Array | null;
}

/** A scheduler, less what all have in common. */
export interface Definition<P extends Plan> {
  readonly settings: Settings;
  readonly name: string;
  readonly alphasCumprod: Float32Array | Float64Array | null;
  readonly trainTimesteps: number;
  /** How many predicted originals later steps use. Default 0. */
  readonly remembers?: number;
  plan(steps: number): P;
  /** Whether a step adds noise. */
  noisy(plan: P, step: number): boolean;
  compute(
    plan: P,
    step: number,
    arrays: Arrays,
  ): { previous: Float32Array; predictedOriginal: Float32Array };
}

/** Makes a scheduler of what is its own. */
export function defineScheduler<P extends Plan>(definition: Definition<P>): Scheduler {
  const { name, settings, alphasCumprod, trainTimesteps, remembers = 0 } = definition;
  const { label, ignored } = settings;
  // Plans follow from the number of steps: kept, so that a step need not make them again.
  const plans = new Map<number, P>();
  const planOf = (steps: number): P => {
    const known = plans.get(steps);
    if (known) return known;
    if (!(Number.isSafeInteger(steps) && steps >= 1 && steps <= trainTimesteps)) {
      throw new RangeError(
        `Cannot begin ${name} as 'steps' must be a whole number from 1 to ${trainTimesteps}: current steps are ${steps}`,
      );
    }
    const plan = definition.plan(steps);
    plans.set(steps, plan);
    return plan;
  };
  // Nothing comes after the last step, which so leaves nothing behind.
  const holds = (steps: number, step: number) => step >= steps ? 0 : Math.min(step, remembers);
  const checkState = ({ scheduler }: SchedulerState) => {
    if (scheduler === label) return;
    throw new TypeError(`Cannot step as 'state' must be one of ${label}: current state is of ${scheduler}`);
  };

  return {
    name,
    label,
    ignored,
    alphasCumprod,
    holds,
    begin: (steps) => ({ scheduler: label, timesteps: planOf(steps).timesteps, step: 0, history: [] }),
    restore(steps, step, history) {
      const { timesteps } = planOf(steps);
      if (!(Number.isSafeInteger(step) && step >= 0 && step <= steps)) {
        throw new RangeError(
          `Cannot restore ${name} as 'step' must be a whole number from 0 to ${steps}: current step is ${step}`,
        );
      }
      if (history.length !== holds(steps, step)) {
        throw new TypeError(
          `Cannot restore ${name} as 'history' must hold ${
            holds(steps, step)
          } arrays after step ${step}: current history holds ${history.length}`,
        );
      }
      for (const past of history) checkArray("restore", "history", past, history[0]!.length);
      return { scheduler: label, timesteps, step, history: [...history] };
    },
    needsNoise(state) {
      checkState(state);
      const { timesteps, step } = state;
      return step < timesteps.length && definition.noisy(planOf(timesteps.length), step);
    },
    step(state, output, sample, noise) {
      checkState(state);
      const { timesteps, step, history } = state;
      const steps = timesteps.length;
      if (step >= steps) {
        throw new RangeError(`Cannot step as the run must have steps left: all ${steps} are made`);
      }
      const plan = planOf(steps);
      const noisy = definition.noisy(plan, step);
      checkArray("step", "sample", sample, sample?.length);
      checkArray("step", "modelOutput", output, sample.length);
      for (const past of history) checkArray("step", "state", past, sample.length);
      if (noisy) checkArray("step", "noise", noise, sample.length);
      const made = definition.compute(plan, step, { output, sample, history, noise: noisy ? noise! : null });
      const held = [made.predictedOriginal, ...history].slice(0, holds(steps, step + 1));
      return { ...made, state: { scheduler: label, timesteps, step: step + 1, history: held } };
    },
  };
}

function checkArray(what: string, name: string, array: unknown, size: number): void {
  const cannot = `Cannot ${what} as '${name}' must be`;
  if (!(array instanceof Float32Array)) {
    const given = array === undefined || array === null ? "missing" : `a ${array.constructor?.name}`;
    throw new TypeError(`${cannot} a Float32Array: current ${name} is ${given}`);
  }
  if (array.length !== size) {
    throw new TypeError(
      `${cannot} of the size of the latents, ${size}: current ${name} has ${array.length} elements`,
    );
  }
}
