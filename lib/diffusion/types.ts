/** What a noise scheduler is, and what it remembers of a run. */

/**
 * Where a run is, all that a scheduler needs to go on with it. A plain value: steps make new ones and change none, so a state can be kept,
 * written to a file or stepped from twice.
 */
export interface SchedulerState {
  /** The label of the scheduler that began it. */
  readonly scheduler: string;
  /** What the model is told at each step, [steps], falling: training timesteps, or 1000 sigma for flow matching. */
  readonly timesteps: readonly number[];
  /** Steps made. */
  readonly step: number;
  /** Predictions of earlier steps that a step of higher order uses, the latest first. Not to be written to. */
  readonly history: readonly Float32Array[];
}

/** What a step gives back; arrays of the size of the latents. */
export interface SchedulerStep {
  /** The latents of the next step. */
  readonly previous: Float32Array;
  /** The clean latents as the model's output tells them. */
  readonly predictedOriginal: Float32Array;
  readonly state: SchedulerState;
}

/**
 * How noise is taken from latents over a run. A scheduler itself remembers nothing: runs with states of their own can take turns. Its
 * arithmetic is float32, operation by operation as in diffusers 0.42, and the same on every machine but for the last digit of `exp` and
 * `log` in a few coefficients.
 *
 * @example
 * ```ts
 * import { makeScheduler } from "@normlab/normlab/diffusion";
 *
 * const scheduler = makeScheduler({ _class_name: "DDIMScheduler", clip_sample: false });
 * let latents: Float32Array = Float32Array.of(1, -0.5);
 * let state = scheduler.begin(20);
 * while (state.step < state.timesteps.length) {
 *   const output = latents.map((value) => 0.5 * value); // what a model makes of them at state.timesteps[state.step]
 *   ({ previous: latents, state } = scheduler.step(state, output, latents));
 * }
 * ```
 */
export interface Scheduler {
  /** The class in diffusers: "DDIMScheduler" */
  readonly name: string;
  /** The name with all settings. Schedulers with equal labels can go on with each other's states. */
  readonly label: string;
  /** Settings of the config that this class does not know and that do nothing, as in diffusers. */
  readonly ignored: readonly string[];
  /**
   * Share of the signal in the variance at each training timestep, [timesteps]: x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise. Null for flow
   * matching.
   */
  readonly alphasCumprod: Float32Array | Float64Array | null;
  /**
   * The state before the first of `steps` steps.
   * @throws {RangeError} `steps` is no whole number from 1 to the training timesteps, or not the number that the settings are for
   */
  begin(steps: number): SchedulerState;
  /**
   * The state after `step` of `steps` steps, given what it held.
   * @throws {RangeError} as {@linkcode Scheduler.begin}, or on a step out of the run
   * @throws {TypeError} on another number of arrays than a state holds at that step, or arrays of different sizes
   */
  restore(steps: number, step: number, history: readonly Float32Array[]): SchedulerState;
  /** Whether the next step adds noise, and so must be given some. False when all steps are made. */
  needsNoise(state: SchedulerState): boolean;
  /** The arrays that a state holds after `step` of `steps` steps. */
  holds(steps: number, step: number): number;
  /**
   * One step. `modelOutput`, `sample` (the latents) and `noise` (standard normal) are of one size and stay as they are.
   * @throws {TypeError} on a state of another scheduler, arrays that are no Float32Array or of different sizes, or noise that is missing
   * @throws {RangeError} when all steps are made
   */
  step(
    state: SchedulerState,
    modelOutput: Float32Array,
    sample: Float32Array,
    noise?: Float32Array,
  ): SchedulerStep;
}
