/** DiT, conditioned on a class. */
import * as tf from "@tensorflow/tfjs";
import {
  chunks,
  feedForward,
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
import { requireWholePatches } from "./pixart.ts";
import type { DiffusionTransformer, ParameterSpecs, WeightSource } from "./types.ts";

/** `DiTTransformer2DModel` of diffusers. */
export interface DiTConfig {
  readonly heads: number;
  readonly dim: number;
  readonly layers: number;
  readonly inChannels: number;
  readonly outChannels: number;
  readonly patchSize: number;
  readonly sampleSize: number;
  /** Classes, without the empty one, whose label is `classes`. */
  readonly classes: number;
  readonly attentionBias: boolean;
  readonly epsilon: number;
}

/** What DiT sees in a pass. */
export interface DiTInputs {
  /** [batch, channels, height, width] */
  readonly sample: tf.Tensor4D;
  /** One time, or one for each row. */
  readonly timestep: number | ArrayLike<number>;
  /** [batch] */
  readonly labels: ArrayLike<number>;
}

/** @throws {RangeError} on a config that is incomplete, or asks for what DiT does not have */
export function ditConfig(raw: RawConfig): DiTConfig {
  const read = new ConfigReader(raw, "DiT");
  read.only("norm_type", ["ada_norm_zero"]);
  read.only("activation_fn", ["gelu-approximate"]);
  read.only("norm_elementwise_affine", [false]);
  const inChannels = read.size("in_channels", 4);
  return {
    heads: read.size("num_attention_heads", 16),
    dim: read.size("attention_head_dim", 72),
    layers: read.size("num_layers", 28),
    inChannels,
    outChannels: read.size("out_channels", inChannels),
    patchSize: read.size("patch_size", 2),
    sampleSize: read.size("sample_size", 32),
    classes: read.size("num_embeds_ada_norm", 1000),
    attentionBias: read.flag("attention_bias", true),
    epsilon: read.number("norm_eps", 1e-5),
  };
}

/** The parameters of DiT. */
export function ditParameters(config: DiTConfig): ParameterSpecs {
  const width = config.heads * config.dim;
  const list = new SpecList();
  list.linear("pos_embed.proj", [config.inChannels, config.patchSize, config.patchSize], width);
  for (let layer = 0; layer < config.layers; layer++) {
    const block = list.in(`transformer_blocks.${layer}`);
    block.in("norm1.emb").mlp("timestep_embedder", TIME_CHANNELS, width)
      .plain("class_embedder.embedding_table.weight", [config.classes + 1, width]);
    block.linear("norm1.linear", width, 6 * width)
      .attention("attn1", { width, bias: config.attentionBias }).feedForward("ff", width, 4 * width);
  }
  return list.linear("proj_out_1", width, 2 * width).linear(
    "proj_out_2",
    width,
    config.patchSize ** 2 * config.outChannels,
  ).all;
}

const TIME_CHANNELS = 256;

/**
 * DiT: blocks of self-attention and feed-forward, each scaled, shifted and gated by its own embedding of time and class (adaLN-Zero).
 * sample [batch, channels, height, width] -> [batch, outChannels, height, width].
 *
 * Peebles and Xie 2022, arXiv 2212.09748; `DiTTransformer2DModel` of diffusers.
 */
export function dit(config: DiTConfig, source: WeightSource): DiffusionTransformer<DiTInputs, DiTConfig> {
  return makeTransformer(network(config), source);
}

interface Facts {
  readonly rotation: null;
  readonly rows: number;
  readonly columns: number;
  readonly labels: readonly number[];
}

function network(config: DiTConfig): Network<DiTInputs, DiTConfig, Facts> {
  const { heads, dim, patchSize } = config;
  const width = heads * dim;
  const grid = ({ sample }: DiTInputs) => [sample.shape[2] / patchSize, sample.shape[3] / patchSize] as const;
  return {
    config,
    parameters: ditParameters(config),
    layers: config.layers,
    heads,
    dim,
    blocks: "transformer_blocks",
    tokens: (inputs) => grid(inputs)[0] * grid(inputs)[1],
    facts(inputs) {
      requireShape("sample", inputs.sample, [null, config.inChannels, null, null]);
      requireWholePatches(inputs.sample, patchSize);
      const [rows, columns] = grid(inputs);
      return { rotation: null, rows, columns, labels: checkLabels(inputs, config.classes) };
    },
    begin(scope, inputs, { rows, columns }, visit) {
      const baseSize = Math.floor(config.sampleSize / patchSize);
      const interpolationScale = Math.max(Math.floor(config.sampleSize / 64), 1);
      const positions = sinCos2d(width, { height: rows, width: columns, baseSize, interpolationScale });
      const patches = linear(scope, "pos_embed.proj", patchify(inputs.sample, patchSize));
      const hidden = tf.add(patches, tableTensor(positions));
      visit("pos_embed", hidden);
      const times = timesOf(inputs.timestep, inputs.sample.shape[0]);
      return { hidden, time: tableTensor(timestepEmbedding(times, TIME_CHANNELS, { frequencyShift: 1 })) };
    },
    enter(scope, layer, carried, { labels }) {
      const condition = conditioning(scope, carried.time as tf.Tensor2D, labels);
      const parts = chunks(linear(scope, "norm1.linear", silu(condition)), 6);
      const [shift, scale, gate, feedShift, feedScale, feedGate] = parts as [
        tf.Tensor3D,
        tf.Tensor3D,
        tf.Tensor3D,
        tf.Tensor3D,
        tf.Tensor3D,
        tf.Tensor3D,
      ];
      const input = modulate(layerNorm(carried.hidden as tf.Tensor3D, 1e-6), shift, scale);
      // The last layer goes by the embedding of the first block.
      const first = layer === 0 ? { first: condition } : {};
      return { input, carried: { ...carried, ...first, gate, feedShift, feedScale, feedGate } };
    },
    leave(scope, _layer, { hidden, gate, feedShift, feedScale, feedGate, ...carried }, attended) {
      const between = tf.add<tf.Tensor3D>(hidden!, tf.mul(attended, gate!));
      const normed = modulate(layerNorm(between, config.epsilon), feedShift!, feedScale!);
      const fed = feedForward(scope.in("ff"), normed);
      return { ...carried, hidden: tf.add(between, tf.mul(fed, feedGate!)) };
    },
    end(scope, { hidden, first }, { rows, columns }, visit) {
      const modulation = linear(scope, "proj_out_1", silu(first as tf.Tensor2D));
      visit("proj_out_1", modulation);
      const [shift, scale] = chunks(modulation, 2);
      const normed = modulate(layerNorm(hidden as tf.Tensor3D, 1e-6), shift!, scale!);
      const projected = linear(scope, "proj_out_2", normed);
      visit("proj_out_2", projected);
      return unpatchify(projected, patchSize, rows, columns);
    },
  };
}

/** [batch, width] */
function conditioning(scope: Scope, time: tf.Tensor2D, labels: readonly number[]): tf.Tensor2D {
  const own = scope.in("norm1.emb");
  const table = own.get<tf.Tensor2D>("class_embedder.embedding_table.weight");
  return tf.add(mlp(own.in("timestep_embedder"), time), tf.gather(table, tf.tensor1d([...labels], "int32")));
}

function checkLabels({ labels, sample }: DiTInputs, classes: number): number[] {
  requireElements("labels", labels, [sample.shape[0]]);
  for (const label of Array.from(labels)) {
    if (Number.isInteger(label) && label >= 0 && label <= classes) continue;
    throw new RangeError(
      `Cannot run DiT as 'labels' must be whole numbers from 0 to ${classes}: current label is ${label}`,
    );
  }
  return Array.from(labels);
}
