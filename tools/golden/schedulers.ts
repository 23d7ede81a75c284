/** The group `schedulers`: whole runs of each noise scheduler, given the outputs of a model. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { makeScheduler, type SchedulerConfig, type SchedulerOptions } from "../../lib/diffusion/mod.ts";
import { readSafetensors } from "../../lib/tensor/mod.ts";
import { compare, type Comparison } from "./report.ts";

interface Case {
  file: string;
  cls: string;
  steps: number;
  config: SchedulerConfig;
  set_timesteps: { num_inference_steps?: number; sigmas?: number[]; mu?: number };
  step_kwargs: { eta?: number };
  /** The draws that each step makes; it uses the last. */
  noise_used_per_step: number[][] | null;
}

/**
 * As a share of the largest value of a run. float32 on both sides, operation by operation; but the square root, `exp` and `log` of PyTorch may be
 * off by one in the last place (6e-8), for which values depends on the machine. The reference values have such coefficients, in up to 50 steps:
 */
const LATENTS = 5e-6;
/** Early in a run originals are differences of numbers of order 3, divided by the share of the signal, 0.006 at the least. */
const ORIGINALS = 3e-5;
/** A rounding; by way of products and square roots, in float32, where levels are stretched to a share of 0. */
const ALPHAS = 5e-7;

/** Compares timesteps, levels, and every step's latents and predicted originals; no backend is needed. */
export async function checkSchedulers(
  folder: string,
): Promise<{ comparisons: Comparison[]; skipped: string[] }> {
  const { cases }: { cases: Case[] } = JSON.parse(await readFile(join(folder, "index.json"), "utf8"));
  const comparisons: Comparison[] = [];
  for (const one of cases) {
    comparisons.push(...checkCase(one, readSafetensors(await readFile(join(folder, "..", one.file)))));
  }
  return { comparisons, skipped: [] };
}

function checkCase(one: Case, tensors: ReturnType<typeof readSafetensors>): Comparison[] {
  const values = (key: string) => tensors.get(key)?.data as Float32Array | undefined;
  const name = one.file.replace(/\.safetensors$/, "");
  const options: SchedulerOptions = { ...one.step_kwargs };
  if (one.set_timesteps.mu !== undefined) Object.assign(options, { mu: one.set_timesteps.mu });
  if (one.set_timesteps.sigmas) Object.assign(options, { sigmas: one.set_timesteps.sigmas });
  const scheduler = makeScheduler({ ...one.config, _class_name: one.cls }, options);
  let state = scheduler.begin(one.steps);
  const outputs = values("model_output")!;
  const size = outputs.length / one.steps;
  const previous = new Float32Array(outputs.length);
  const originals = new Float32Array(outputs.length);
  let sample = values("in.sample")!;
  for (let step = 0; step < one.steps; step++) {
    const draw = one.noise_used_per_step?.[step]?.at(-1);
    const noise = draw === undefined
      ? undefined
      : values("in.noise")!.subarray(draw * size, (draw + 1) * size);
    const output = outputs.subarray(step * size, (step + 1) * size);
    const stepped = scheduler.step(state, output, sample, noise);
    previous.set(stepped.previous, step * size);
    originals.set(stepped.predictedOriginal, step * size);
    ({ previous: sample, state } = stepped);
  }
  const shape = tensors.get("prev_sample")!.shape;
  const results: [string, ArrayLike<number>, Float32Array | undefined, number[], number][] = [
    ["timesteps", state.timesteps, values("timesteps"), [one.steps], scheduler.alphasCumprod ? 0 : 1e-7],
    ["alphas", scheduler.alphasCumprod ?? [], values("alphas_cumprod"), [1000], ALPHAS],
    ["latents", previous, values("prev_sample"), shape, LATENTS],
    ["originals", originals, values("pred_original_sample"), shape, ORIGINALS],
  ];
  return results.flatMap(([kind, measured, reference, shape, tolerance]) =>
    reference ? [compare(`${name}/${kind}`, measured, reference, shape, tolerance)] : []
  );
}
