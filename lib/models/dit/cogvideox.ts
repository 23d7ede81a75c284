/** CogVideoX, 1.0 and 1.5. */
import * as tf from "@tensorflow/tfjs";
import {
  chunks,
  feedForward,
  layerNorm,
  linear,
  mlp,
  modulate,
  patchify,
  requireShape,
  type Rotation,
  type Scope,
  silu,
  tableTensor,
  timesOf,
} from "./_layers.ts";
import { makeTransformer, type Network } from "./_network.ts";
import { SpecList } from "./_specs.ts";
import { ConfigReader, type RawConfig } from "./config.ts";
import { cropRegion, rotary3d, type RotaryTables, sinCos3d, timestepEmbedding } from "./embeddings.ts";
import { rotationOf } from "./hunyuan.ts";
import { requireWholePatches } from "./pixart.ts";
import type { DiffusionTransformer, ParameterSpecs, WeightSource } from "./types.ts";

/** `CogVideoXTransformer3DModel` of diffusers. */
export interface CogVideoXConfig {
  readonly heads: number;
  readonly dim: number;
  readonly layers: number;
  readonly inChannels: number;
  readonly outChannels: number;
  readonly patchSize: number;
  /** Frames of a patch in 1.5; null in 1.0, which has single frames. */
  readonly patchFrames: number | null;
  readonly patchBias: boolean;
  readonly timeChannels: number;
  /** Channels of the embedding of an offset (1.5, image to video); null where there is none. */
  readonly offsetChannels: number | null;
  readonly textChannels: number;
  readonly textLength: number;
  /** Latents it was trained on. */
  readonly sampleFrames: number;
  readonly sampleHeight: number;
  readonly sampleWidth: number;
  readonly spatialInterpolationScale: number;
  readonly temporalInterpolationScale: number;
  /** How positions come in: added sines and cosines, rotation of q and k, or rotation and added learned ones. */
  readonly positions: "sin-cos" | "rotary" | "rotary and learned";
  readonly attentionBias: boolean;
  readonly affine: boolean;
  readonly epsilon: number;
}

/** What CogVideoX sees in a pass. */
export interface CogVideoXInputs {
  /** [batch, frames, channels, height, width] */
  readonly sample: tf.Tensor5D;
  /** One time, or one for each row. */
  readonly timestep: number | ArrayLike<number>;
  /** Text embedding, [batch, length, textChannels] */
  readonly text: tf.Tensor3D;
  /** Default: as the pipeline of diffusers makes them for the size of the sample. */
  readonly rotary?: RotaryTables;
  /** One number for each row; with offset channels only. */
  readonly offset?: number | ArrayLike<number>;
}

/** @throws {RangeError} on a config that is incomplete, or asks for what CogVideoX does not have */
export function cogvideoxConfig(raw: RawConfig): CogVideoXConfig {
  const read = new ConfigReader(raw, "CogVideoX");
  read.only("activation_fn", ["gelu-approximate"]);
  read.only("timestep_activation_fn", ["silu"]);
  read.only("flip_sin_to_cos", [true]);
  read.only("freq_shift", [0]);
  const rotary = read.flag("use_rotary_positional_embeddings", false);
  if (!rotary) read.only("use_learned_positional_embeddings", [false]);
  const learned = read.flag("use_learned_positional_embeddings", false);
  const ratio = read.size("temporal_compression_ratio", 4);
  return {
    heads: read.size("num_attention_heads", 30),
    dim: read.size("attention_head_dim", 64),
    layers: read.size("num_layers", 30),
    inChannels: read.size("in_channels", 16),
    outChannels: read.size("out_channels", 16),
    patchSize: read.size("patch_size", 2),
    patchFrames: read.has("patch_size_t") ? read.size("patch_size_t") : null,
    patchBias: read.flag("patch_bias", true),
    timeChannels: read.size("time_embed_dim", 512),
    offsetChannels: read.has("ofs_embed_dim") ? read.size("ofs_embed_dim") : null,
    textChannels: read.size("text_embed_dim", 4096),
    textLength: read.size("max_text_seq_length", 226),
    sampleFrames: Math.floor((read.size("sample_frames", 49) - 1) / ratio) + 1,
    sampleHeight: read.size("sample_height", 60),
    sampleWidth: read.size("sample_width", 90),
    spatialInterpolationScale: read.number("spatial_interpolation_scale", 1.875),
    temporalInterpolationScale: read.number("temporal_interpolation_scale", 1),
    positions: learned ? "rotary and learned" : rotary ? "rotary" : "sin-cos",
    attentionBias: read.flag("attention_bias", true),
    affine: read.flag("norm_elementwise_affine", true),
    epsilon: read.number("norm_eps", 1e-5),
  };
}

/** The parameters of CogVideoX. */
export function cogvideoxParameters(config: CogVideoXConfig): ParameterSpecs {
  const { patchSize, inChannels, timeChannels, affine, offsetChannels } = config;
  const width = config.heads * config.dim;
  const list = new SpecList();
  const patch = config.patchFrames
    ? inChannels * config.patchFrames * patchSize ** 2
    : [inChannels, patchSize, patchSize];
  list.in("patch_embed").linear("proj", patch, width, config.patchBias)
    .linear("text_proj", config.textChannels, width);
  if (config.positions === "rotary and learned") {
    const area = Math.floor(config.sampleHeight / patchSize) * Math.floor(config.sampleWidth / patchSize);
    const tokens = config.textLength + config.sampleFrames * area;
    list.plain("patch_embed.pos_embedding", [1, tokens, width]);
  }
  list.mlp("time_embedding", width, timeChannels);
  if (offsetChannels) list.mlp("ofs_embedding", offsetChannels, offsetChannels);
  for (let layer = 0; layer < config.layers; layer++) {
    const block = list.in(`transformer_blocks.${layer}`);
    for (const name of ["norm1", "norm2"]) {
      block.linear(`${name}.linear`, timeChannels, 6 * width).norm(`${name}.norm`, width, affine);
    }
    block.attention("attn1", { width, bias: config.attentionBias, normDim: config.dim })
      .feedForward("ff", width, 4 * width);
  }
  return list.norm("norm_final", width, affine).linear("norm_out.linear", timeChannels, 2 * width)
    .norm("norm_out.norm", width, affine)
    .linear("proj_out", width, patchSize ** 2 * (config.patchFrames ?? 1) * config.outChannels).all;
}

/**
 * CogVideoX: text and video in one sequence, text first; each block scales, shifts and gates the two by embeddings of the time of their own
 * (expert adaptive layer norm). sample [batch, frames, channels, height, width] -> [batch, frames, outChannels, height, width].
 *
 * Yang et al. 2024, arXiv 2408.06072; `CogVideoXTransformer3DModel` of diffusers.
 */
export function cogvideox(
  config: CogVideoXConfig,
  source: WeightSource,
): DiffusionTransformer<CogVideoXInputs, CogVideoXConfig> {
  return makeTransformer(network(config), source);
}

interface Facts {
  /** Of tokens, not latents. */
  readonly frames: number;
  readonly rows: number;
  readonly columns: number;
  readonly textLength: number;
  readonly rotation: Rotation | null;
}

function network(config: CogVideoXConfig): Network<CogVideoXInputs, CogVideoXConfig, Facts> {
  const { heads, dim, patchSize, affine, epsilon } = config;
  const width = heads * dim;
  const patchFrames = config.patchFrames ?? 1;
  const grid = ({ sample }: CogVideoXInputs) => {
    const [, frames, , height, width] = sample.shape;
    return { frames: frames / patchFrames, rows: height / patchSize, columns: width / patchSize };
  };
  return {
    config,
    parameters: cogvideoxParameters(config),
    layers: config.layers,
    heads,
    dim,
    blocks: "transformer_blocks",
    tokens(inputs) {
      const { frames, rows, columns } = grid(inputs);
      return inputs.text.shape[1] + frames * rows * columns;
    },
    facts(inputs) {
      const { sample, text } = inputs;
      requireShape("sample", sample, [null, null, config.inChannels, null, null]);
      requireWholePatches(sample, patchSize);
      requireShape("text", text, [sample.shape[0], null, config.textChannels]);
      const { frames, rows, columns } = grid(inputs);
      if (!Number.isInteger(frames) || frames < 1) {
        throw new TypeError(
          `Cannot run CogVideoX as the frames of 'sample' must be a multiple of ${patchFrames}: current number is ${
            sample.shape[1]
          }`,
        );
      }
      const textLength = text.shape[1];
      const tables = () => inputs.rotary ?? rotaryOf(config, frames, rows, columns);
      const rotation = config.positions === "sin-cos"
        ? null
        : rotationOf(tables(), frames * rows * columns, dim, textLength);
      return { frames, rows, columns, textLength, rotation };
    },
    begin(scope, inputs, facts, visit) {
      const { sample } = inputs;
      const batch = sample.shape[0];
      const times = timesOf(inputs.timestep, batch);
      let time = mlp(scope.in("time_embedding"), tableTensor(timestepEmbedding(times, width)));
      visit("time_embedding", time);
      if (config.offsetChannels) {
        const table = timestepEmbedding(timesOf(inputs.offset ?? [], batch), config.offsetChannels);
        time = tf.add(time, mlp(scope.in("ofs_embedding"), tableTensor(table)));
      }
      const text = linear(scope, "patch_embed.text_proj", inputs.text);
      const video = linear(scope, "patch_embed.proj", videoPatches(sample, config));
      const { text: ownText, video: ownVideo } = withPositions(scope, text, video, facts, config);
      visit("patch_embed", tf.concat([ownText, ownVideo], 1));
      return { hidden: ownVideo, text: ownText, time };
    },
    enter(scope, _layer, carried) {
      const { shifted, gate, textGate } = adapted(scope, "norm1", carried, epsilon);
      return { input: tf.concat([shifted.text, shifted.video], 1), carried: { ...carried, gate, textGate } };
    },
    leave(scope, _layer, { gate, textGate, ...carried }, attended, { textLength }) {
      const [text, video] = parted(attended, textLength);
      const between = {
        hidden: tf.add(carried.hidden!, tf.mul(video, gate!)),
        text: tf.add(carried.text!, tf.mul(text, textGate!)),
      };
      const second = adapted(scope, "norm2", { ...carried, ...between }, epsilon);
      const fed = feedForward(scope.in("ff"), tf.concat([second.shifted.text, second.shifted.video], 1));
      const [fedText, fedVideo] = parted(fed, textLength);
      return {
        ...carried,
        hidden: tf.add(between.hidden, tf.mul(fedVideo, second.gate)),
        text: tf.add(between.text, tf.mul(fedText, second.textGate)),
      };
    },
    end(scope, carried, facts, visit) {
      const own = affine ? scope : undefined;
      const final = layerNorm(carried.hidden as tf.Tensor3D, epsilon, own, "norm_final");
      visit("norm_final", final);
      const [shift, scale] = chunks(linear(scope, "norm_out.linear", silu(carried.time as tf.Tensor2D)), 2);
      const normed = modulate(layerNorm(final, epsilon, own, "norm_out.norm"), shift!, scale!);
      const projected = linear(scope, "proj_out", normed);
      visit("proj_out", projected);
      return unpatched(projected, facts, config);
    },
  };
}

/** Both streams normed, scaled and shifted, and their gates [batch, 1, width]. */
function adapted(scope: Scope, name: string, carried: Readonly<Record<string, tf.Tensor>>, epsilon: number) {
  const parts = chunks(linear(scope, `${name}.linear`, silu(carried.time as tf.Tensor2D)), 6);
  const [shift, scale, gate, textShift, textScale, textGate] = parts;
  const normed = (x: tf.Tensor) => layerNorm(x as tf.Tensor3D, epsilon, scope, `${name}.norm`);
  return {
    shifted: {
      video: modulate(normed(carried.hidden!), shift!, scale!),
      text: modulate(normed(carried.text!), textShift!, textScale!),
    },
    gate: gate!,
    textGate: textGate!,
  };
}

/** Text, then video. */
function parted(x: tf.Tensor3D, textLength: number): [text: tf.Tensor3D, video: tf.Tensor3D] {
  const [batch, tokens, width] = x.shape;
  return [
    tf.slice(x, [0, 0, 0], [batch, textLength, width]),
    tf.slice(x, [0, textLength, 0], [batch, tokens - textLength, width]),
  ];
}

function rotaryOf(config: CogVideoXConfig, frames: number, height: number, width: number): RotaryTables {
  const grid = { frames, height, width };
  if (config.patchFrames) return rotary3d(config.dim, grid);
  const own = {
    height: Math.floor(config.sampleHeight / config.patchSize),
    width: Math.floor(config.sampleWidth / config.patchSize),
  };
  return rotary3d(config.dim, { ...grid, crop: cropRegion({ height, width }, own) });
}

/** [batch, tokens, channels of a patch], frame by frame in raster order; channels first in a patch, then its frames. */
function videoPatches(sample: tf.Tensor5D, config: CogVideoXConfig): tf.Tensor3D {
  const [batch, frames, channels, height, width] = sample.shape;
  const { patchSize, patchFrames } = config;
  const flat = (x: tf.Tensor5D) => tf.reshape<tf.Rank.R4>(x, [-1, x.shape[2], height, width]);
  if (!patchFrames) {
    return tf.reshape(patchify(flat(sample), patchSize), [batch, -1, channels * patchSize ** 2]);
  }
  // Frames of a patch become channels after the channels proper.
  const count = frames / patchFrames;
  const grouped = tf.transpose(tf.reshape(sample, [batch * count, patchFrames, channels, height * width]), [
    0,
    2,
    1,
    3,
  ]);
  const joined = tf.reshape<tf.Rank.R4>(grouped, [batch * count, channels * patchFrames, height, width]);
  return tf.reshape(patchify(joined, patchSize), [batch, -1, channels * patchFrames * patchSize ** 2]);
}

function withPositions(
  scope: Scope,
  text: tf.Tensor3D,
  video: tf.Tensor3D,
  { frames, rows, columns }: Facts,
  config: CogVideoXConfig,
): { text: tf.Tensor3D; video: tf.Tensor3D } {
  if (config.positions === "rotary") return { text, video };
  const width = config.heads * config.dim;
  if (config.positions === "sin-cos") {
    const { spatialInterpolationScale, temporalInterpolationScale } = config;
    const grid = { frames, height: rows, width: columns };
    const table = sinCos3d(width, { ...grid, spatialInterpolationScale, temporalInterpolationScale });
    return { text, video: tf.add(video, tableTensor(table)) };
  }
  const learned = scope.get<tf.Tensor3D>("patch_embed.pos_embedding");
  const tokens = text.shape[1] + video.shape[1];
  if (learned.shape[1] !== tokens) {
    throw new TypeError(
      `Cannot run CogVideoX as text and video must have the ${
        learned.shape[1]
      } tokens of its learned positions: current number is ${tokens}`,
    );
  }
  const [textPositions, videoPositions] = parted(learned, text.shape[1]);
  return { text: tf.add(text, textPositions), video: tf.add(video, videoPositions) };
}

/** [batch, tokens, channels of a patch] -> [batch, frames, channels, height, width]; channels first in a patch, then its frames. */
function unpatched(x: tf.Tensor3D, { frames, rows, columns }: Facts, config: CogVideoXConfig): tf.Tensor5D {
  const batch = x.shape[0];
  const { patchSize, outChannels } = config;
  const patchFrames = config.patchFrames ?? 1;
  const area = rows * columns;
  // At most six axes at a time, which is what every backend transposes.
  const split = tf.reshape(x, [batch * frames, area, outChannels, patchFrames, patchSize * patchSize]);
  const framed = tf.transpose(split, [0, 3, 2, 1, 4]);
  const planes = tf.reshape(framed, [-1, rows, columns, patchSize, patchSize]);
  const pixels = tf.transpose(planes, [0, 1, 3, 2, 4]);
  return tf.reshape(pixels, [
    batch,
    frames * patchFrames,
    outChannels,
    rows * patchSize,
    columns * patchSize,
  ]);
}
