/** The sampling loop: from noise to clean latents, with any model, scheduler and kind of attention. */
import * as tf from "@tensorflow/tfjs";
import { stream } from "../tensor/mod.ts";
import type { ModelFunction } from "./guidance.ts";
import type { Scheduler, SchedulerState } from "./types.ts";

/** Where a run is: a plain value, as the scheduler's state is. What attention remembers is the model's, and its caller's. */
export interface SamplingState {
  /** All random numbers of the run follow from it: `stream(seed)`, children "latents" and "noise" / step. */
  readonly seed: number | string;
  /** [batch, ...] */
  readonly shape: readonly number[];
  readonly latents: Float32Array;
  readonly scheduler: SchedulerState;
}

/** A run to begin. */
export interface SamplingSetup {
  readonly scheduler: Scheduler;
  readonly steps: number;
  /** [batch, ...] */
  readonly shape: readonly number[];
  readonly seed: number | string;
  /** Standard normal numbers to begin with. Default: from the seed. */
  readonly latents?: Float32Array;
}

/** What a step of the loop has made. */
export interface SamplingProgress {
  /** Steps made, from 1. */
  readonly made: number;
  readonly steps: number;
  /** Of the step made. */
  readonly timestep: number;
  /** The run after the step: what to save. */
  readonly state: SamplingState;
  /** The clean latents as far as the model knows them, for a preview. */
  readonly predictedOriginal: Float32Array;
}

/** How to go on with a run. */
export interface SamplingOptions {
  readonly scheduler: Scheduler;
  readonly model: ModelFunction;
  /** Standard normal numbers for a step, instead of those from the seed. */
  readonly noise?: (step: number) => Float32Array;
  /** Stop when so many steps are made. Default: all. */
  readonly until?: number;
  /** Looked at between steps. */
  readonly signal?: AbortSignal;
  /** Called after each step, and waited for. */
  readonly onStep?: (progress: SamplingProgress) => void | Promise<void>;
}

/**
 * The state before the first step: standard normal latents, in C order from one stream, so that the first of a batch are those of a smaller
 * batch.
 * @throws {RangeError} as `scheduler.begin`, or on sizes that are no positive whole numbers
 * @throws {TypeError} on latents of another size than `shape`
 */
export function beginSampling({ scheduler, steps, shape, seed, latents }: SamplingSetup): SamplingState {
  const begun = scheduler.begin(steps);
  const size = shape.reduce((all, one) => all * one, 1);
  if (shape.length === 0 || !shape.every((one) => Number.isSafeInteger(one) && one > 0)) {
    throw new RangeError(
      `Cannot sample as 'shape' must be positive whole numbers: current shape is [${shape.join(", ")}]`,
    );
  }
  const source = stream(seed).child("latents");
  if (latents && latents.length !== size) {
    throw new TypeError(
      `Cannot sample as 'latents' must have the ${size} elements of 'shape': current latents have ${latents.length}`,
    );
  }
  return { seed, shape: [...shape], latents: latents?.slice() ?? source.normal(size), scheduler: begun };
}

/**
 * Makes the steps of a run that are left. Deterministic: a run that was stopped, saved and restored gives the same latents bit for bit as one
 * that was not, if what the model remembers is restored too.
 *
 * @example
 * ```ts
 * import * as tf from "@tensorflow/tfjs";
 * import { beginSampling, guided, makeScheduler, sample } from "@normlab/normlab/diffusion";
 * import { useBackend } from "@normlab/normlab/tensor";
 *
 * await useBackend("wasm");
 * const scheduler = makeScheduler({ _class_name: "DPMSolverMultistepScheduler" });
 * const model = guided((latents) => tf.mul(latents, 0.5), { scale: 4.5 });
 * const begun = beginSampling({ scheduler, steps: 20, shape: [1, 4, 8, 8], seed: 7 });
 * const { latents } = await sample(begun, { scheduler, model, onStep: ({ made }) => console.log(made) });
 * console.log(latents.length); // 256
 * ```
 *
 * @throws {TypeError} on a state of another scheduler, or an output of another shape than the latents
 * @throws {RangeError} on `until` before what is made, or an output that is not finite
 * @throws the reason of `signal`: the state of the last step made is the one that `onStep` was given
 */
export async function sample(state: SamplingState, options: SamplingOptions): Promise<SamplingState> {
  const { scheduler, model, signal, onStep } = options;
  const { seed, shape } = state;
  const { timesteps } = state.scheduler;
  const steps = timesteps.length;
  const { until = steps } = options;
  if (!(Number.isSafeInteger(until) && until >= state.scheduler.step && until <= steps)) {
    throw new RangeError(
      `Cannot sample as 'until' must be a whole number from ${state.scheduler.step} to ${steps}: current until is ${until}`,
    );
  }
  const size = state.latents.length;
  const draws = stream(seed).child("noise");
  const noise = options.noise ?? ((step) => draws.child(step).normal(size));

  let current = state;
  while (current.scheduler.step < until) {
    signal?.throwIfAborted();
    const { step } = current.scheduler;
    const timestep = timesteps[step]!;
    const output = await evaluate(model, current, { step, steps, timestep });
    const stepped = scheduler.step(
      current.scheduler,
      output,
      current.latents,
      scheduler.needsNoise(current.scheduler) ? noise(step) : undefined,
    );
    current = { seed, shape, latents: stepped.previous, scheduler: stepped.state };
    const { predictedOriginal } = stepped;
    await onStep?.({ made: step + 1, steps, timestep, state: current, predictedOriginal });
  }
  signal?.throwIfAborted();
  return current;
}

/** The model's output as numbers. */
async function evaluate(
  model: ModelFunction,
  { latents, shape }: SamplingState,
  place: Parameters<ModelFunction>[1],
): Promise<Float32Array> {
  // A copy, as a backend may keep the array.
  const input = tf.tensor(latents.slice(), [...shape]);
  let output: tf.Tensor;
  try {
    output = await model(input, place);
  } finally {
    input.dispose();
  }
  try {
    if (output.shape.join() !== shape.join()) {
      throw new TypeError(
        `Cannot sample as the model's output must have the shape of the latents, [${
          shape.join(", ")
        }]: current shape is [${output.shape.join(", ")}]`,
      );
    }
    const values = Float32Array.from(await output.data());
    const wrong = values.findIndex((value) => !Number.isFinite(value));
    if (wrong >= 0) {
      throw new RangeError(
        `Cannot sample as the model's output must be finite: current output at step ${place.step} is ${
          values[wrong]
        } at element ${wrong}`,
      );
    }
    return values;
  } finally {
    output.dispose();
  }
}
