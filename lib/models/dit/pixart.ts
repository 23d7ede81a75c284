/** PixArt-alpha and PixArt-Sigma. */
import * as tf from "@tensorflow/tfjs";
import {
  chunks,
  crossAttention,
  feedForward,
  gelu,
  type KeptTokens,
  keptTokens,
  layerNorm,
  linear,
  mlp,
  modulate,
  patchify,
  requireElements,
  requireShape,
  type Scope,
  silu,
  tableTensor,
  timesOf,
  unpatchify,
} from "./_layers.ts";
import { makeTransformer, type Network } from "./_network.ts";
import { SpecList } from "./_specs.ts";
import { ConfigReader, type RawConfig } from "./config.ts";
import { sinCos2d, timestepEmbedding } from "./embeddings.ts";
import type { DiffusionTransformer, ParameterSpecs, WeightSource } from "./types.ts";

/** `PixArtTransformer2DModel` of diffusers. */
export interface PixArtConfig {
  readonly heads: number;
  readonly dim: number;
  readonly layers: number;
  readonly inChannels: number;
  readonly outChannels: number;
  readonly patchSize: number;
  /** Height and width of the latents it was trained on. */
  readonly sampleSize: number;
  /** Channels of the text embedding. */
  readonly captionChannels: number;
  readonly interpolationScale: number;
  /** Whether resolution and aspect ratio are conditions. */
  readonly additionalConditions: boolean;
  readonly attentionBias: boolean;
  readonly epsilon: number;
}

/** What PixArt sees in a pass. */
export interface PixArtInputs {
  /** [batch, channels, height, width] */
  readonly sample: tf.Tensor4D;
  /** One time, or one for each row. */
  readonly timestep: number | ArrayLike<number>;
  /** Text embedding, [batch, length, captionChannels] */
  readonly text: tf.Tensor3D;
  /** 1 where a token of the text counts, [batch * length]. Default: all. */
  readonly textMask?: ArrayLike<number>;
  /** Height and width of the picture in pixels, [batch * 2]; with additional conditions only. */
  readonly resolution?: ArrayLike<number>;
  /** Height / width, [batch]. */
  readonly aspectRatio?: ArrayLike<number>;
}

/** @throws {RangeError} on a config that is incomplete, or asks for what PixArt does not have */
export function pixartConfig(raw: RawConfig): PixArtConfig {
  const read = new ConfigReader(raw, "PixArt");
  read.only("norm_type", ["ada_norm_single"]);
  read.only("activation_fn", ["gelu-approximate"]);
  read.only("attention_type", ["default"]);
  read.only("norm_elementwise_affine", [false]);
  const sampleSize = read.size("sample_size");
  const inChannels = read.size("in_channels", 4);
  return {
    heads: read.size("num_attention_heads", 16),
    dim: read.size("attention_head_dim", 72),
    layers: read.size("num_layers", 28),
    inChannels,
    outChannels: read.size("out_channels", inChannels),
    patchSize: read.size("patch_size", 2),
    sampleSize,
    captionChannels: read.size("caption_channels"),
    interpolationScale: read.number("interpolation_scale", Math.max(Math.floor(sampleSize / 64), 1)),
    additionalConditions: read.flag("use_additional_conditions", sampleSize === 128),
    attentionBias: read.flag("attention_bias", true),
    epsilon: read.number("norm_eps", 1e-6),
  };
}

/** The parameters of PixArt. */
export function pixartParameters(config: PixArtConfig): ParameterSpecs {
  const width = config.heads * config.dim;
  const list = new SpecList();
  list.linear("pos_embed.proj", [config.inChannels, config.patchSize, config.patchSize], width);
  list.in("adaln_single.emb").mlp("timestep_embedder", TIME_CHANNELS, width);
  if (config.additionalConditions) {
    const part = Math.floor(width / 3);
    list.in("adaln_single.emb").mlp("resolution_embedder", TIME_CHANNELS, part).mlp(
      "aspect_ratio_embedder",
      TIME_CHANNELS,
      part,
    );
  }
  list.linear("adaln_single.linear", width, 6 * width);
  list.mlp("caption_projection", config.captionChannels, width);
  for (let layer = 0; layer < config.layers; layer++) {
    const attention = { width, bias: config.attentionBias };
    list.in(`transformer_blocks.${layer}`).plain("scale_shift_table", [6, width])
      .attention("attn1", attention).attention("attn2", attention).feedForward("ff", width, 4 * width);
  }
  return list.plain("scale_shift_table", [2, width]).linear(
    "proj_out",
    width,
    config.patchSize ** 2 * config.outChannels,
  ).all;
}

const TIME_CHANNELS = 256;

/**
 * PixArt: self-attention, cross-attention to the text, feed-forward; each block scales and shifts by one embedding of the time plus a table
 * of its own (ada-norm-single). sample [batch, channels, height, width] -> [batch, outChannels, height, width].
 *
 * Chen et al. 2023, arXiv 2310.00426; Chen et al. 2024, arXiv 2403.04692; `PixArtTransformer2DModel` of diffusers.
 */
export function pixart(
  config: PixArtConfig,
  source: WeightSource,
): DiffusionTransformer<PixArtInputs, PixArtConfig> {
  return makeTransformer(network(config), source);
}

interface Facts {
  readonly rotation: null;
  readonly rows: number;
  readonly columns: number;
  readonly kept: readonly KeptTokens[];
}

function network(config: PixArtConfig): Network<PixArtInputs, PixArtConfig, Facts> {
  const { heads, dim, patchSize, epsilon } = config;
  const width = heads * dim;
  const grid = ({ sample }: PixArtInputs) =>
    [sample.shape[2] / patchSize, sample.shape[3] / patchSize] as const;
  return {
    config,
    parameters: pixartParameters(config),
    layers: config.layers,
    heads,
    dim,
    blocks: "transformer_blocks",
    tokens: (inputs) => grid(inputs)[0] * grid(inputs)[1],
    facts(inputs) {
      const { sample, text, textMask } = inputs;
      requireShape("sample", sample, [null, config.inChannels, null, null]);
      const [rows, columns] = grid(inputs);
      requireWholePatches(sample, patchSize);
      requireShape("text", text, [sample.shape[0], null, config.captionChannels]);
      return { rotation: null, rows, columns, kept: keptTokens(textMask, sample.shape[0], text.shape[1]) };
    },
    begin(scope, inputs, { rows, columns }, visit) {
      const { sample, text } = inputs;
      const baseSize = Math.floor(config.sampleSize / patchSize);
      const { interpolationScale } = config;
      const positions = sinCos2d(width, { height: rows, width: columns, baseSize, interpolationScale });
      const patches = linear(scope, "pos_embed.proj", patchify(sample, patchSize));
      const hidden = tf.add(patches, tableTensor(positions));
      visit("pos_embed", hidden);
      const embedded = timeEmbedding(scope.in("adaln_single.emb"), inputs, config.additionalConditions);
      const time = linear(scope, "adaln_single.linear", silu(embedded));
      visit("adaln_single.0", time);
      visit("adaln_single.1", embedded);
      const caption = mlp(scope.in("caption_projection"), text, gelu);
      visit("caption_projection", caption);
      return { hidden, time, embedded, caption };
    },
    enter(scope, _layer, carried) {
      const [shift, scale, gate, ...rest] = modulation(scope, carried.time!);
      const hidden = carried.hidden as tf.Tensor3D;
      const input = modulate(layerNorm(hidden, epsilon), shift!, scale!);
      return {
        input,
        carried: { ...carried, gate: gate!, shift: rest[0]!, scale: rest[1]!, feedGate: rest[2]! },
      };
    },
    leave(scope, _layer, { hidden, gate, shift, scale, feedGate, ...carried }, attended, { kept }) {
      const afterSelf = tf.add<tf.Tensor3D>(hidden!, tf.mul(attended, gate!));
      const caption = carried.caption as tf.Tensor3D;
      const cross = crossAttention(scope.in("attn2"), afterSelf, caption, kept, { heads });
      const afterCross = tf.add<tf.Tensor3D>(afterSelf, cross);
      const fed = feedForward(scope.in("ff"), modulate(layerNorm(afterCross, epsilon), shift!, scale!));
      return { ...carried, hidden: tf.add(afterCross, tf.mul(fed, feedGate!)) };
    },
    end(scope, carried, { rows, columns }, visit) {
      const embedded = carried.embedded as tf.Tensor2D;
      const table = scope.get("scale_shift_table");
      const [shift, scale] = chunks(tf.add(tf.expandDims(table, 0), tf.expandDims(embedded, 1)), 2);
      const normed = modulate(layerNorm(carried.hidden as tf.Tensor3D, 1e-6), shift!, scale!);
      const projected = linear(scope, "proj_out", normed);
      visit("proj_out", projected);
      return unpatchify(projected, patchSize, rows, columns);
    },
  };
}

/** The block's table plus the embedding of the time, as six parts [batch, 1, width]. */
function modulation(scope: Scope, time: tf.Tensor): tf.Tensor3D[] {
  const table = scope.get("scale_shift_table");
  return chunks(tf.add(tf.reshape(time, [time.shape[0]!, 6, -1]), tf.expandDims(table, 0)), 6);
}

/** [batch, width] */
function timeEmbedding(scope: Scope, inputs: PixArtInputs, additional: boolean): tf.Tensor2D {
  const batch = inputs.sample.shape[0];
  const embed = (name: string, values: ArrayLike<number>): tf.Tensor2D =>
    mlp(scope.in(name), tableTensor(timestepEmbedding(values, TIME_CHANNELS)));
  const time = embed("timestep_embedder", timesOf(inputs.timestep, batch));
  if (!additional) return time;
  const { resolution = [], aspectRatio = [] } = inputs;
  requireElements("resolution", resolution, [batch, 2]);
  requireElements("aspectRatio", aspectRatio, [batch]);
  const sizes = tf.reshape(embed("resolution_embedder", resolution), [batch, -1]);
  const ratio = tf.reshape(embed("aspect_ratio_embedder", aspectRatio), [batch, -1]);
  return tf.add(time, tf.concat([sizes, ratio], 1));
}

/** @throws {TypeError} unless height and width are whole patches */
export function requireWholePatches(sample: tf.Tensor, size: number): void {
  const [height, width] = sample.shape.slice(-2) as [number, number];
  if (height % size === 0 && width % size === 0 && height > 0 && width > 0) return;
  throw new TypeError(
    `Cannot run a model as height and width of 'sample' must be multiples of ${size}: current shape is [${
      sample.shape.join(", ")
    }]`,
  );
}
