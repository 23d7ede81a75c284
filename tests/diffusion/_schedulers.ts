/** Schedulers of every class, and runs of them with a model of one line. */
import {
  makeScheduler,
  type Scheduler,
  type SchedulerConfig,
  type SchedulerState,
} from "../../lib/diffusion/mod.ts";
import { stream } from "../../lib/tensor/mod.ts";

export const video: SchedulerConfig = {
  prediction_type: "v_prediction",
  timestep_spacing: "trailing",
  rescale_betas_zero_snr: true,
};

/** One of each class and of each order, by a name for messages. */
export const schedulers: Record<string, Scheduler> = {
  DDPM: makeScheduler({ _class_name: "DDPMScheduler" }),
  "DDPM, large variance": makeScheduler({
    _class_name: "DDPMScheduler",
    prediction_type: "v_prediction",
    variance_type: "fixed_large",
  }),
  DDIM: makeScheduler({ _class_name: "DDIMScheduler", prediction_type: "sample" }),
  "DDIM with noise": makeScheduler(
    { _class_name: "DDIMScheduler", clip_sample: false, set_alpha_to_one: false },
    { eta: 0.5 },
  ),
  "DPM-Solver++": makeScheduler({ _class_name: "DPMSolverMultistepScheduler" }),
  "DPM-Solver++, first order": makeScheduler({
    _class_name: "DPMSolverMultistepScheduler",
    solver_order: 1,
    use_karras_sigmas: true,
  }),
  "CogVideoX DDIM": makeScheduler({ _class_name: "CogVideoXDDIMScheduler", ...video }),
  "CogVideoX DPM": makeScheduler({ _class_name: "CogVideoXDPMScheduler", ...video }),
  "flow matching": makeScheduler({ _class_name: "FlowMatchEulerDiscreteScheduler", shift: 3 }),
};

export const SIZE = 6;

/** Standard normal numbers by name. */
export function draw(name: string, size = SIZE): Float32Array {
  return stream(11).child(name).normal(size);
}

/** What a model of no meaning makes of latents: not linear, other at each time. */
export function model(latents: Float32Array, timestep: number): Float32Array {
  return latents.map((value, i) => 0.4 * Math.tanh(value) + 0.1 * Math.sin(0.01 * timestep + i));
}

/** Latents and state after each step, from `state` to the end or `until`. */
export function run(
  scheduler: Scheduler,
  state: SchedulerState,
  latents: Float32Array,
  until: number = state.timesteps.length,
): { latents: Float32Array; original: Float32Array; state: SchedulerState }[] {
  const made: { latents: Float32Array; original: Float32Array; state: SchedulerState }[] = [];
  while (state.step < until) {
    const noise = scheduler.needsNoise(state) ? draw(`noise ${state.step}`, latents.length) : undefined;
    const output = model(latents, state.timesteps[state.step]!);
    const stepped = scheduler.step(state, output, latents, noise);
    ({ previous: latents, state } = stepped);
    made.push({ latents, original: stepped.predictedOriginal, state });
  }
  return made;
}
