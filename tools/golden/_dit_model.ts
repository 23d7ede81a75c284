/** Tiny diffusion transformers with their reference inputs, and their forward passes. */
import * as tf from "@tensorflow/tfjs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { attend, type Implementation } from "../../lib/attention/mod.ts";
import {
  type DiffusionTransformer,
  type LoadedTransformer,
  loadTransformer,
  type RotaryTables,
  type SelfAttention,
} from "../../lib/models/mod.ts";
import { readSafetensors, type SafetensorsTensor } from "../../lib/tensor/mod.ts";
import { compare, type Comparison } from "./report.ts";

/** Reference tensors by name. */
export type Tensors = ReadonlyMap<string, SafetensorsTensor>;

/** A model, and what it sees at any sample and time. */
export interface BoundModel {
  readonly kind: LoadedTransformer["kind"];
  readonly model: DiffusionTransformer<unknown>;
  /** Tokens of text in self-attention. */
  readonly textTokens: number;
  /** [batch, heads, tokens, dim] after the output projection of a self-attention, without its bias: [batch, tokens, width]. */
  readonly projected: (layer: number, x: tf.Tensor4D) => tf.Tensor3D;
  /** Tokens of self-attention, of latents of a shape. */
  tokens(shape: readonly number[]): number;
  inputs(sample: tf.Tensor, timestep: number | ArrayLike<number>): unknown;
  dispose(): void;
}

/** The tensors of a reference file. */
export async function readTensors(path: string): Promise<Tensors> {
  return readSafetensors(await readFile(path));
}

/** Loads the model of a folder and binds it to the conditions `in.*` of reference tensors. */
export async function bindModel(folder: string, tensors: Tensors): Promise<BoundModel> {
  const loaded = await loadTransformer(folder);
  const values = (name: string) => tensors.get(`in.${name}`)?.data as Float32Array | Int32Array | undefined;
  const tensor = (name: string) => {
    const { data, shape } = tensors.get(`in.${name}`)!;
    return tf.tensor(data as Float32Array, shape);
  };
  const hasText = tensors.has("in.encoder_hidden_states");
  const text = hasText ? tensor("encoder_hidden_states") : null;
  const t5 = tensors.has("in.encoder_hidden_states_t5") ? tensor("encoder_hidden_states_t5") : null;
  const rotary = tensors.has("in.rope_cos") ? { rotary: rotaryOf(tensors) } : {};
  const conditions: Record<LoadedTransformer["kind"], Record<string, unknown>> = {
    pixart: {
      text,
      textMask: values("encoder_attention_mask"),
      resolution: values("resolution"),
      aspectRatio: values("aspect_ratio"),
    },
    hunyuan: {
      text,
      t5,
      textMask: values("text_embedding_mask"),
      t5Mask: values("text_embedding_mask_t5"),
      imageSize: values("image_meta_size"),
      style: values("style"),
      ...rotary,
    },
    cogvideox: { text, ...rotary },
    dit: { labels: values("class_labels") },
  };
  const model = loaded.model as DiffusionTransformer<unknown>;
  const stored = await readTensors(join(folder, "transformer", "diffusion_pytorch_model.safetensors"));
  return {
    kind: loaded.kind,
    model,
    textTokens: loaded.kind === "cogvideox" ? text!.shape[1]! : 0,
    projected(layer, x) {
      const name = `${
        loaded.kind === "hunyuan" ? "blocks" : "transformer_blocks"
      }.${layer}.attn1.to_out.0.weight`;
      const { data, shape } = stored.get(name)!;
      const weight = tf.tensor2d(data as Float32Array, shape as [number, number]);
      const [batch, heads, tokens, dim] = x.shape;
      const rows = tf.reshape<tf.Rank.R2>(tf.transpose(x, [0, 2, 1, 3]), [batch * tokens, heads * dim]);
      return tf.reshape(tf.matMul(rows, weight, false, true), [batch, tokens, shape[0]!]);
    },
    tokens: (shape) => model.tokens({ ...conditions[loaded.kind], sample: { shape } }),
    inputs: (sample, timestep) => ({ ...conditions[loaded.kind], sample, timestep }),
    dispose() {
      model.dispose();
      tf.dispose([text, t5].filter((tensor) => tensor !== null));
    },
  };
}

function rotaryOf(tensors: Tensors): RotaryTables {
  const table = (name: string) => {
    const { data, shape } = tensors.get(name)!;
    return { data: data as Float32Array, shape: shape as [number, number] };
  };
  return { cos: table("in.rope_cos"), sin: table("in.rope_sin") };
}

/** How far float32 was from float64 where the reference values were made, by tensor. */
export type Deviations = Readonly<Record<string, number>>;

/** Where none was measured: those of the other models are within it. */
const USUAL_DEVIATION = 1e-6;

/** Orders of summation and of roundings differ: ten times what another float32 implementation was off. */
const MARGIN = 10;

/**
 * The time table of DiT alone has exponents that are no short binary fractions, and PyTorch's float32 exp of them is off by a last digit;
 * at t = 700 that is 4e-5 of an angle.
 */
const DIT_TIME_ERROR = 3e-6;

/** Compares a forward pass: output, blocks, self-attentions, embeddings. Errors are absolute: the values are of order 1. */
export async function checkForward(
  folder: string,
  name: string,
  implementation: Implementation,
  deviations: Deviations,
): Promise<Comparison[]> {
  const tensors = await readTensors(join(folder, "forward.safetensors"));
  const bound = await bindModel(folder, tensors);
  const { data, shape } = tensors.get("in.sample")!;
  const sample = tf.tensor(data as Float32Array, shape);
  const seen = new Map<string, tf.Tensor>();
  const attention: SelfAttention = (_layer, q, k, v) => attend(q!, k!, v!, { implementation }).output;
  const output = bound.model.forward(bound.inputs(sample, tensors.get("in.timestep")!.data as Int32Array), {
    attention,
    visit: (part, tensor) => seen.set(part, tf.keep(tensor.clone())),
  });
  seen.set("output", output);
  const comparisons: Comparison[] = [];
  for (const [key, reference] of tensors) {
    if (!key.startsWith("out.")) continue;
    const part = key.slice("out.".length);
    const found = tf.tidy(() => partOf(part, seen, bound.textTokens).clone());
    const deviation = deviations[part] ?? USUAL_DEVIATION;
    const tolerance = Math.max(MARGIN * deviation, bound.kind === "dit" ? DIT_TIME_ERROR : 0);
    const values = await found.data();
    comparisons.push(
      compare(
        `${name}/forward/${part}`,
        values,
        reference.data as Float32Array,
        reference.shape,
        tolerance,
        1,
      ),
    );
    found.dispose();
  }
  tf.dispose([sample, ...seen.values()]);
  bound.dispose();
  return comparisons;
}

/** The tensor that the reference calls `part`: of two streams `.0` is video and `.1` text. */
function partOf(part: string, seen: ReadonlyMap<string, tf.Tensor>, textTokens: number): tf.Tensor {
  const [, whole, stream] = /^(block\d+(?:\.attn1)?)(?:\.([01]))?$/.exec(part) ?? [];
  if (whole === undefined) return seen.get(part)!;
  if (!whole.endsWith("attn1")) return seen.get(`${whole}.${stream === "1" ? "text" : "hidden"}`)!;
  const both = seen.get(whole) as tf.Tensor3D;
  if (stream === undefined) return both;
  return stream === "1"
    ? tf.slice(both, [0, 0, 0], [-1, textTokens, -1])
    : tf.slice(both, [0, textTokens, 0]);
}
