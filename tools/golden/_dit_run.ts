/** Whole denoising runs of tiny diffusion transformers, with every attention method of the reference. */
import * as tf from "@tensorflow/tfjs";
import { join } from "node:path";
import {
  band,
  type DirectMethod,
  frameBand,
  fullAttention,
  type Mask,
  officialRettention,
  type PublishedModel,
  publishedSchedule,
  residualSharing,
  rettention,
  type ScheduledMethod,
} from "../../lib/attention/mod.ts";
import {
  beginSampling,
  guided,
  type ModelFunction,
  readScheduler,
  sample,
  type Scheduler,
} from "../../lib/diffusion/mod.ts";
import {
  type CogVideoXConfig,
  type MethodAttention,
  methodAttention,
  type SelfAttention,
} from "../../lib/models/mod.ts";
import { bindModel, type BoundModel, type Deviations, readTensors, type Tensors } from "./_dit_model.ts";
import { compare, type Comparison } from "./report.ts";

/** What the reference says of its runs. */
export interface RunFacts {
  readonly steps: number;
  readonly guidance: number;
  /** Of each variant; the run of DiT has one, at the top. */
  readonly variants?: Readonly<Record<string, { max_abs_f32_vs_f64?: number; final_max_abs?: number }>>;
  readonly max_abs_f32_vs_f64?: number;
  readonly final_std?: number;
}

/** Orders of summation and of roundings differ: ten times what another float32 implementation was off. */
const MARGIN = 10;

/** Compares all variants of a run: latents after steps, final latents, rho and R where they were taken. */
export async function checkRuns(
  folder: string,
  name: string,
  facts: RunFacts,
  deviations: Deviations,
): Promise<Comparison[]> {
  // rho and R, absolute: as far off as what self-attention gives.
  const attentions = Object.entries(deviations).filter(([part]) => part.includes("attn1"));
  const statistics = MARGIN * Math.max(...attentions.map(([, deviation]) => deviation));
  const tensors = await readTensors(join(folder, "run.safetensors"));
  const bound = await bindModel(folder, tensors);
  const scheduler = await readScheduler(join(folder, "scheduler", "scheduler_config.json"));
  const comparisons: Comparison[] = [];
  for (const variant of variantsOf(tensors)) {
    const method = methodOf(variant, bound, tensors, facts.steps);
    const tolerance = toleranceOf(variant, facts);
    const at = (part: string) => tensors.get(`${variant}.${part}`);
    const check = (part: string, values: ArrayLike<number>) => {
      const reference = at(part);
      if (!reference) return;
      comparisons.push(
        compare(
          `${name}/${variant}/${part}`,
          values,
          reference.data as Float32Array,
          reference.shape,
          tolerance,
        ),
      );
    };
    const latents = await runOf(bound, scheduler, method, tensors, facts, {
      async afterStep(step, latents, run) {
        check(`after_step${step}`, latents);
        const place = { name, variant, step, tolerance: statistics };
        comparisons.push(...await checkStatistics(place, run, bound, tensors));
      },
      timesteps: (timesteps) => {
        const { data, shape } = tensors.get("timesteps")!;
        comparisons.push(compare(`${name}/${variant}/timesteps`, timesteps, data as Int32Array, shape, 0));
      },
      guided(values) {
        const reference = tensors.get("guided_output_step0");
        if (variant !== "dense" || !reference) return;
        const { data, shape } = reference;
        // Guidance multiplies what the forward pass is off by at most 2 guidance + 1.
        const allowed = MARGIN * 2e-6 * (2 * facts.guidance + 1);
        comparisons.push(compare(`${name}/dense/guided`, values, data as Float32Array, shape, allowed, 1));
      },
    });
    check("final", latents);
  }
  bound.dispose();
  return comparisons;
}

/** As a share of the largest value; the variants of the formula are taken as the official code beside them. */
function toleranceOf(variant: string, { variants = {}, max_abs_f32_vs_f64, final_std }: RunFacts): number {
  const official = variants[variant.replace(/^formula_[a-z0]+/, "rettention")];
  return MARGIN * (official?.max_abs_f32_vs_f64 ?? max_abs_f32_vs_f64!) /
    (official?.final_max_abs ?? final_std!);
}

function variantsOf(tensors: Tensors): string[] {
  return [...tensors.keys()].filter((key) => key.endsWith(".final")).map((key) =>
    key.slice(0, -".final".length)
  );
}

/** The method of a variant, `rettention_s0.0625`. */
function methodOf(
  variant: string,
  { kind, model, textTokens }: BoundModel,
  tensors: Tensors,
  steps: number,
): DirectMethod {
  if (variant === "dense") return fullAttention();
  const [, name, share] = /^(.*)_s([\d.]+)$/.exec(variant)!;
  const [, , third, fourth, fifth] = tensors.get("in.latents")!.shape;
  const mask: Mask = kind === "cogvideox" ? videoMask() : imageMask(third! / 2 * (fourth! / 2));
  const published = kind as PublishedModel;
  const setting = { mask, schedule: publishedSchedule(published, { steps, literal: true }) };
  const methods: Record<string, () => ScheduledMethod> = {
    rettention: () => officialRettention({ mask, model: published, steps }),
    ditfastattn: () => residualSharing(setting),
    formula_lam0: () => rettention({ ...setting, lambda: 0 }),
    formula_clamped: () => rettention({ ...setting, clamp: true }),
    formula_fullrows: () => rettention(setting),
  };
  return methods[name!]!();

  function imageMask(tokens: number): Mask {
    return band(tokens, Math.floor(Math.floor(tokens * Number(share)) / 2));
  }

  function videoMask(): Mask {
    const { patchSize } = model.config as CogVideoXConfig;
    const frames = tensors.get("in.latents")!.shape[1]!;
    const frameTokens = fourth! / patchSize * (fifth! / patchSize);
    const half = Math.floor(Math.floor(frameTokens * Number(share)) / 2);
    return frameBand({ text: textTokens, frames, frameTokens, half });
  }
}

/** What looks on. */
interface Watch {
  afterStep?(step: number, latents: Float32Array, run: MethodAttention): Promise<void> | void;
  timesteps?(timesteps: readonly number[]): void;
  guided?(values: ArrayLike<number>): void;
}

/** A guided run with the noise of the reference; the last latents. */
export async function runOf(
  bound: BoundModel,
  scheduler: Scheduler,
  method: DirectMethod,
  tensors: Tensors,
  { steps, guidance }: Pick<RunFacts, "steps" | "guidance">,
  watch: Watch = {},
): Promise<Float32Array> {
  const { data, shape } = tensors.get("in.latents")!;
  const state = beginSampling({ scheduler, steps, shape, seed: 0, latents: data as Float32Array });
  watch.timesteps?.(state.scheduler.timesteps);
  const run = attentionOf(bound, method, shape, steps);
  const predict = guidedModel(bound, () => run.attention, shape, guidance);
  const { latents } = await sample(state, {
    scheduler,
    async model(latents, place) {
      const output = await predict(latents, place);
      if (place.step === 0) watch.guided?.(await output.data());
      return output;
    },
    noise(step) {
      const { data: noise } = tensors.get("in.noise")!;
      return (noise as Float32Array).subarray(step * data.length, (step + 1) * data.length);
    },
    onStep: ({ made, state }) => watch.afterStep?.(made - 1, state.latents, run),
  });
  run.dispose();
  return latents;
}

/** A method at its first step, for both halves of a batch of latents. */
export function attentionOf(
  bound: BoundModel,
  method: DirectMethod,
  shape: readonly number[],
  steps: number,
): MethodAttention {
  const { layers, heads, dim } = bound.model;
  const tokens = bound.tokens(shape);
  const context = { layers, batch: 2 * shape[0]!, heads, dim, tokens, steps };
  const conditional = bound.kind === "dit" ? "first half" : "second half";
  return methodAttention(method, method.begin(context), { conditional });
}

/** The model with guidance of the channels that tell the noise. */
export function guidedModel(
  bound: BoundModel,
  attention: () => SelfAttention,
  shape: readonly number[],
  scale: number,
): ModelFunction {
  return guided(
    (latents, { timestep }) =>
      bound.model.forward(bound.inputs(latents, timestep), { attention: attention() }),
    {
      scale,
      conditionalHalf: bound.kind === "dit" ? "first" : "second",
      ...(bound.kind === "cogvideox" ? {} : { channels: shape[1]! }),
    },
  );
}

/** Sparse steps between two refreshes. */
const BETWEEN = 4;

/**
 * R after the output projection, of the layers and refreshes whose reference is there; and rho, whose reference is not what the refresh
 * found but what it had become by the sparse steps up to the next one, 4 lambda more.
 */
async function checkStatistics(
  { name, variant, step, tolerance }: { name: string; variant: string; step: number; tolerance: number },
  { state, method }: MethodAttention,
  { model, textTokens, projected }: BoundModel,
  tensors: Tensors,
): Promise<Comparison[]> {
  const comparisons: Comparison[] = [];
  for (let layer = 0; layer < model.layers; layer++) {
    const residual = () => projected(layer, state.layers[layer]!.residual as tf.Tensor4D);
    const parts: Record<string, () => tf.Tensor> = {
      [`rho.step${step - BETWEEN}`]: () => (method as ScheduledMethod).ratio(state, layer)!,
      [`residual.step${step}`]: residual,
      [`residual_text.step${step}`]: () => tf.slice(residual(), [0, 0, 0], [-1, textTokens, -1]),
      [`residual_video.step${step}`]: () => tf.slice(residual(), [0, textTokens, 0]),
    };
    for (const [part, measure] of Object.entries(parts)) {
      const reference = tensors.get(`${variant}.block${layer}.${part}`);
      if (!reference) continue;
      const measured = tf.tidy(measure);
      const [kind, at] = part.split(".");
      comparisons.push(
        compare(
          `${name}/${variant}/block${layer}.${at}/${kind}`,
          await measured.data(),
          reference.data as Float32Array,
          reference.shape,
          tolerance,
          1,
        ),
      );
      measured.dispose();
    }
  }
  return comparisons;
}
