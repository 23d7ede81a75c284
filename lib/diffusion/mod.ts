/**
 * # diffusion: from noise to latents
 *
 * {@linkcode makeScheduler} reads what diffusers writes (scheduler_config.json) and gives a {@linkcode Scheduler}: DDPM, DDIM, DPM-Solver++ of
 * second order, the two of CogVideoX, and Euler steps for flow matching. A scheduler remembers nothing; where a run is, is a plain value that
 * each step makes anew. {@linkcode sample} is the loop around one: it calls any {@linkcode ModelFunction}, with guidance if that is
 * {@linkcode guided}, draws its noise from the kit's streams by step, and can be stopped after any step, saved ({@linkcode saveSampling}) and
 * gone on with to the same latents, bit for bit.
 *
 * {@linkcode psnr}, {@linkcode ssimGaussianValid}, {@linkcode ssimGaussianReflect} and {@linkcode frameConsistency} tell how far pictures and
 * videos are from a reference.
 *
 * This room imports only `tensor`; models come in as arguments.
 *
 * @module
 */
export type { Scheduler, SchedulerState, SchedulerStep } from "./types.ts";
export {
  dynamicShift,
  type DynamicShiftSettings,
  makeScheduler,
  parseSchedulerConfig,
  readScheduler,
  type SchedulerConfig,
  type SchedulerOptions,
} from "./schedulers/config.ts";
export type { FlowOptions } from "./schedulers/flow_euler.ts";
export * from "./guidance.ts";
export * from "./sampling.ts";
export * from "./checkpoint.ts";
export * from "./metrics.ts";
