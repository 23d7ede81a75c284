/** Hunyuan-DiT. */
import * as tf from "@tensorflow/tfjs";
import {
  chunks,
  crossAttention,
  feedForward,
  layerNorm,
  linear,
  mlp,
  modulate,
  patchify,
  requireElements,
  requireShape,
  type Rotation,
  type Scope,
  silu,
  tableTensor,
  timesOf,
  unpatchify,
} from "./_layers.ts";
import { makeTransformer, type Network } from "./_network.ts";
import { SpecList } from "./_specs.ts";
import { ConfigReader, type RawConfig } from "./config.ts";
import { cropRegion, rotary2d, type RotaryTables, timestepEmbedding } from "./embeddings.ts";
import { requireWholePatches } from "./pixart.ts";
import type { DiffusionTransformer, ParameterSpecs, WeightSource } from "./types.ts";

/** `HunyuanDiT2DModel` of diffusers. */
export interface HunyuanConfig {
  readonly heads: number;
  readonly dim: number;
  readonly layers: number;
  readonly inChannels: number;
  readonly outChannels: number;
  readonly patchSize: number;
  readonly feedForward: number;
  /** Channels and tokens of the CLIP embedding. */
  readonly textChannels: number;
  readonly textLength: number;
  /** Channels and tokens of the T5 embedding. */
  readonly t5Channels: number;
  readonly t5Length: number;
  readonly pooledChannels: number;
  /** Whether style and picture size are conditions (up to version 1.1). */
  readonly sizeAndStyle: boolean;
}

/** What Hunyuan-DiT sees in a pass. */
export interface HunyuanInputs {
  /** [batch, channels, height, width] */
  readonly sample: tf.Tensor4D;
  /** One time, or one for each row. */
  readonly timestep: number | ArrayLike<number>;
  /** CLIP embedding, [batch, textLength, textChannels] */
  readonly text: tf.Tensor3D;
  /** 1 where a token counts, [batch * textLength]; others are replaced by a learned embedding. Default: all. */
  readonly textMask?: ArrayLike<number>;
  /** T5 embedding, [batch, t5Length, t5Channels] */
  readonly t5: tf.Tensor3D;
  /** As `textMask`, [batch * t5Length]. */
  readonly t5Mask?: ArrayLike<number>;
  /** Original and target height and width, and crop, [batch * 6]; with size and style only. */
  readonly imageSize?: ArrayLike<number>;
  /** [batch]; default 0, the only one there is. */
  readonly style?: ArrayLike<number>;
  /** Default: as the pipeline of diffusers makes them for the size of the sample. */
  readonly rotary?: RotaryTables;
}

/** @throws {RangeError} on a config that is incomplete, or asks for what Hunyuan-DiT does not have */
export function hunyuanConfig(raw: RawConfig): HunyuanConfig {
  const read = new ConfigReader(raw, "Hunyuan-DiT");
  read.only("activation_fn", ["gelu-approximate"]);
  read.only("norm_type", ["layer_norm"]);
  const heads = read.size("num_attention_heads", 16);
  const dim = read.size("attention_head_dim", 88);
  read.only("hidden_size", [heads * dim]);
  const inChannels = read.size("in_channels", 4);
  const layers = read.size("num_layers", 28);
  if (layers % 2 !== 0) {
    throw new RangeError(
      `Cannot make Hunyuan-DiT as 'num_layers' of its config must be even, for long skips: current num_layers is ${layers}`,
    );
  }
  return {
    heads,
    dim,
    layers,
    inChannels,
    outChannels: read.flag("learn_sigma", true) ? 2 * inChannels : inChannels,
    patchSize: read.size("patch_size", 2),
    feedForward: Math.floor(heads * dim * read.number("mlp_ratio", 4)),
    textChannels: read.size("cross_attention_dim", 1024),
    textLength: read.size("text_len", 77),
    t5Channels: read.size("cross_attention_dim_t5", 2048),
    t5Length: read.size("text_len_t5", 256),
    pooledChannels: read.size("pooled_projection_dim", 1024),
    sizeAndStyle: read.flag("use_style_cond_and_image_meta_size", true),
  };
}

/** The parameters of Hunyuan-DiT. */
export function hunyuanParameters(config: HunyuanConfig): ParameterSpecs {
  const { heads, dim, layers, textChannels, t5Channels, pooledChannels } = config;
  const width = heads * dim;
  const list = new SpecList();
  list.plain("text_embedding_padding", [config.textLength + config.t5Length, textChannels]);
  list.linear("pos_embed.proj", [config.inChannels, config.patchSize, config.patchSize], width);
  list.mlp("text_embedder", t5Channels, 4 * t5Channels, textChannels);
  const time = list.in("time_extra_emb").mlp("timestep_embedder", TIME_CHANNELS, width);
  const extra = pooledChannels + (config.sizeAndStyle ? SIZES * TIME_CHANNELS + width : 0);
  time.mlp("extra_embedder", extra, 4 * width, width);
  if (config.sizeAndStyle) time.plain("style_embedder.weight", [1, width]);
  const pooler = time.in("pooler").plain("positional_embedding", [config.t5Length + 1, t5Channels]);
  for (const part of ["q", "k", "v"]) pooler.linear(`${part}_proj`, t5Channels, t5Channels);
  pooler.linear("c_proj", t5Channels, pooledChannels);
  for (let layer = 0; layer < layers; layer++) {
    const block = list.in(`blocks.${layer}`);
    if (skips(layer, layers)) block.norm("skip_norm", 2 * width).linear("skip_linear", 2 * width, width);
    block.norm("norm1.norm", width).linear("norm1.linear", width, width)
      .attention("attn1", { width, normDim: dim })
      .norm("norm2", width).attention("attn2", { width, context: textChannels, normDim: dim })
      .norm("norm3", width).feedForward("ff", width, config.feedForward);
  }
  return list.linear("norm_out.linear", width, 2 * width).linear(
    "proj_out",
    width,
    config.patchSize ** 2 * config.outChannels,
  ).all;
}

const TIME_CHANNELS = 256;
/** Numbers that tell a picture's size and crop. */
const SIZES = 6;
const EPSILON = 1e-6;
/** Heads of the pooling of the T5 embedding. */
const POOL_HEADS = 8;
/** Rows and columns of the grid that it was trained on: 512 pixels by 8 of the autoencoder by 2 of a patch. */
const OWN_GRID = 32;

/** Whether a layer takes the output of its mirror image in the first half. */
function skips(layer: number, layers: number): boolean {
  return layer > Math.floor(layers / 2);
}

/**
 * Hunyuan-DiT: self-attention with rotary positions and normed q and k, cross-attention to CLIP and T5 tokens, feed-forward; the second half
 * of the blocks takes outputs of the first by long skips. sample [batch, channels, height, width] -> [batch, outChannels, height, width].
 *
 * Li et al. 2024, arXiv 2405.08748; `HunyuanDiT2DModel` of diffusers.
 */
export function hunyuan(
  config: HunyuanConfig,
  source: WeightSource,
): DiffusionTransformer<HunyuanInputs, HunyuanConfig> {
  return makeTransformer(network(config), source);
}

interface Facts {
  readonly rows: number;
  readonly columns: number;
  readonly rotation: Rotation;
}

function network(config: HunyuanConfig): Network<HunyuanInputs, HunyuanConfig, Facts> {
  const { heads, dim, layers, patchSize } = config;
  const grid = ({ sample }: HunyuanInputs) =>
    [sample.shape[2] / patchSize, sample.shape[3] / patchSize] as const;
  return {
    config,
    parameters: hunyuanParameters(config),
    layers,
    heads,
    dim,
    blocks: "blocks",
    tokens: (inputs) => grid(inputs)[0] * grid(inputs)[1],
    facts(inputs) {
      const { sample, text, t5 } = inputs;
      requireShape("sample", sample, [null, config.inChannels, null, null]);
      requireWholePatches(sample, patchSize);
      requireShape("text", text, [sample.shape[0], config.textLength, config.textChannels]);
      requireShape("t5", t5, [sample.shape[0], config.t5Length, config.t5Channels]);
      const [rows, columns] = grid(inputs);
      const own = { height: OWN_GRID, width: OWN_GRID };
      const crop = cropRegion({ height: rows, width: columns }, own);
      const tables = inputs.rotary ?? rotary2d(dim, { height: rows, width: columns, crop });
      return { rows, columns, rotation: rotationOf(tables, rows * columns, dim, 0) };
    },
    begin(scope, inputs, _facts, visit) {
      const hidden = linear(scope, "pos_embed.proj", patchify(inputs.sample, patchSize));
      visit("pos_embed", hidden);
      const time = timeEmbedding(scope.in("time_extra_emb"), inputs, config);
      visit("time_extra_emb", time);
      return { hidden, time, text: textTokens(scope, inputs, config, visit) };
    },
    enter(scope, layer, carried) {
      let hidden = carried.hidden as tf.Tensor3D;
      const rest: Record<string, tf.Tensor> = { ...carried };
      if (skips(layer, layers)) {
        const from = `skip${layers - 1 - layer}`;
        const joined = tf.concat([hidden, rest[from] as tf.Tensor3D], 2);
        delete rest[from];
        hidden = linear(scope, "skip_linear", layerNorm(joined, EPSILON, scope, "skip_norm"));
      }
      const shift = linear(scope, "norm1.linear", silu(carried.time as tf.Tensor2D));
      const input = tf.add<tf.Tensor3D>(
        layerNorm(hidden, EPSILON, scope, "norm1.norm"),
        tf.expandDims(shift, 1),
      );
      return { input, carried: { ...rest, hidden } };
    },
    leave(scope, layer, carried, attended, { rotation }) {
      const afterSelf = tf.add<tf.Tensor3D>(carried.hidden!, attended);
      const normed = layerNorm(afterSelf, EPSILON, scope, "norm2");
      const kept = [{ first: 0, rows: normed.shape[0], tokens: null }];
      const projection = { heads, rotation, epsilon: EPSILON };
      const text = carried.text as tf.Tensor3D;
      const cross = crossAttention(scope.in("attn2"), normed, text, kept, projection);
      const afterCross = tf.add<tf.Tensor3D>(afterSelf, cross);
      const hidden = tf.add(
        afterCross,
        feedForward(scope.in("ff"), layerNorm(afterCross, EPSILON, scope, "norm3")),
      );
      const skip = layer < Math.floor(layers / 2) - 1 ? { [`skip${layer}`]: hidden } : {};
      return { ...carried, ...skip, hidden };
    },
    end(scope, { hidden, time }, { rows, columns }, visit) {
      const [scale, shift] = chunks(linear(scope, "norm_out.linear", silu(time as tf.Tensor2D)), 2);
      const normed = modulate(layerNorm(hidden as tf.Tensor3D, EPSILON), shift!, scale!);
      const projected = linear(scope, "proj_out", normed);
      visit("proj_out", projected);
      return unpatchify(projected, patchSize, rows, columns);
    },
  };
}

/**
 * Tables as a rotation of all tokens behind the first `skip`.
 * @throws {TypeError} on tables of another size
 */
export function rotationOf({ cos, sin }: RotaryTables, tokens: number, dim: number, skip: number): Rotation {
  for (const [name, { shape, data }] of Object.entries({ "rotary.cos": cos, "rotary.sin": sin })) {
    requireElements(name, data, [tokens, dim]);
    if (shape[0] === tokens && shape[1] === dim) continue;
    throw new TypeError(
      `Cannot run a model as '${name}' must be [${tokens}, ${dim}]: current shape is [${shape.join(", ")}]`,
    );
  }
  return { cos: tableTensor(cos), sin: tableTensor(sin), skip };
}

/** CLIP tokens, then projected T5 tokens; those that do not count are the learned padding. [batch, tokens, textChannels] */
function textTokens(
  scope: Scope,
  inputs: HunyuanInputs,
  config: HunyuanConfig,
  visit: (name: string, tensor: tf.Tensor) => void,
): tf.Tensor3D {
  const { text, t5 } = inputs;
  const batch = text.shape[0];
  const embedded = mlp(scope.in("text_embedder"), t5);
  visit("text_embedder", embedded);
  const all = (length: number) => new Float32Array(batch * length).fill(1);
  const { textMask = all(config.textLength), t5Mask = all(config.t5Length) } = inputs;
  requireElements("textMask", textMask, [batch, config.textLength]);
  requireElements("t5Mask", t5Mask, [batch, config.t5Length]);
  const one = (mask: ArrayLike<number>, length: number) =>
    tf.tensor3d(Float32Array.from(mask, (value) => (value ? 1 : 0)), [batch, length, 1]);
  const mask = tf.concat([one(textMask, config.textLength), one(t5Mask, config.t5Length)], 1);
  const padding = tf.expandDims(scope.get<tf.Tensor2D>("text_embedding_padding"), 0);
  return tf.add<tf.Tensor3D>(
    tf.mul(tf.concat([text, embedded], 1), mask),
    tf.mul(padding, tf.sub(1, mask)),
  );
}

/** Time, pooled T5 tokens, and size and style where the model has them. [batch, width] */
function timeEmbedding(scope: Scope, inputs: HunyuanInputs, config: HunyuanConfig): tf.Tensor2D {
  const batch = inputs.sample.shape[0];
  const times = timesOf(inputs.timestep, batch);
  const time = mlp(scope.in("timestep_embedder"), tableTensor(timestepEmbedding(times, TIME_CHANNELS)));
  const parts: tf.Tensor2D[] = [pooledText(scope.in("pooler"), inputs.t5)];
  if (config.sizeAndStyle) {
    const { imageSize = [], style = new Int32Array(batch) } = inputs;
    requireElements("imageSize", imageSize, [batch, SIZES]);
    requireElements("style", style, [batch]);
    if (Array.from(style).some((one) => one !== 0)) {
      throw new RangeError(
        `Cannot run Hunyuan-DiT as 'style' must be 0: current style is ${Array.from(style)}`,
      );
    }
    parts.push(tf.reshape(tableTensor(timestepEmbedding(imageSize, TIME_CHANNELS)), [batch, -1]));
    parts.push(tf.tile(scope.get<tf.Tensor2D>("style_embedder.weight"), [batch, 1]));
  }
  return tf.add(time, mlp(scope.in("extra_embedder"), tf.concat(parts, 1)));
}

/** Attention of the tokens' mean to itself and the tokens, [batch, pooledChannels]. */
function pooledText(scope: Scope, tokens: tf.Tensor3D): tf.Tensor2D {
  const [batch, , channels] = tokens.shape;
  const positions = tf.expandDims(scope.get<tf.Tensor2D>("positional_embedding"), 0);
  const all = tf.add<tf.Tensor3D>(tf.concat([tf.mean(tokens, 1, true) as tf.Tensor3D, tokens], 1), positions);
  const length = all.shape[1];
  const query = linear(scope, "q_proj", tf.slice(all, [0, 0, 0], [batch, 1, channels]));
  // One query: plain products, no kernel.
  const dim = channels / POOL_HEADS;
  const heads = (name: string) =>
    tf.reshape<tf.Rank.R4>(linear(scope, name, all), [batch, length, POOL_HEADS, dim]);
  const q = tf.reshape(query, [batch, 1, POOL_HEADS, dim]);
  const scores = tf.sum(tf.mul(heads("k_proj"), tf.mul(q, 1 / Math.sqrt(dim))), 3);
  const shares = tf.softmax(tf.transpose(scores, [0, 2, 1]));
  const weighted = tf.mul(heads("v_proj"), tf.expandDims(tf.transpose(shares, [0, 2, 1]), 3));
  return linear(scope, "c_proj", tf.reshape<tf.Rank.R2>(tf.sum(weighted, 1), [batch, channels]));
}
