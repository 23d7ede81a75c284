/** The autoencoder between pictures and latents. */
import * as tf from "@tensorflow/tfjs";
import { attend } from "../../attention/mod.ts";
import { linear, requireShape, Scope, silu } from "./_layers.ts";
import { SpecList } from "./_specs.ts";
import { type LoadOptions, loadWeights, openCheckpoint } from "./checkpoint.ts";
import { ConfigReader, type RawConfig } from "./config.ts";
import type { ParameterSpecs, WeightSource } from "./types.ts";

/** `AutoencoderKL` of diffusers. */
export interface AutoencoderConfig {
  readonly inChannels: number;
  readonly outChannels: number;
  readonly latentChannels: number;
  /** Channels at each size, from that of the picture to that of the latents. */
  readonly channels: readonly number[];
  readonly layersPerBlock: number;
  readonly groups: number;
  readonly midAttention: boolean;
  readonly quantConvolution: boolean;
  readonly postQuantConvolution: boolean;
  /** Latents of a transformer are those of the encoder, less `shiftFactor`, times this. */
  readonly scalingFactor: number;
  readonly shiftFactor: number;
}

/** A loaded autoencoder; pictures are from -1 to 1. */
export interface Autoencoder {
  readonly config: AutoencoderConfig;
  readonly parameters: ParameterSpecs;
  /** [batch, latentChannels, height, width] -> [batch, outChannels, 2^(sizes - 1) height, ...]; the caller's own. */
  decode(latents: tf.Tensor4D): tf.Tensor4D;
  /** Mean and logarithm of the variance of the latents of pictures [batch, inChannels, height, width]; the caller's own. */
  encode(images: tf.Tensor4D): { mean: tf.Tensor4D; logVariance: tf.Tensor4D };
  dispose(): void;
}

/** @throws {RangeError} on a config that is incomplete, or asks for what the kit does not have */
export function autoencoderConfig(raw: RawConfig): AutoencoderConfig {
  const read = new ConfigReader(raw, "the autoencoder");
  read.only("_class_name", ["AutoencoderKL"]);
  read.only("act_fn", ["silu"]);
  const channels = read.sizes("block_out_channels");
  for (
    const [name, block] of [["down_block_types", "DownEncoderBlock2D"], [
      "up_block_types",
      "UpDecoderBlock2D",
    ]]
  ) {
    const wanted = JSON.stringify(channels.map(() => block));
    if (read.has(name!) && JSON.stringify(raw[name!]) !== wanted) read.only(name!, [wanted]);
  }
  const groups = read.size("norm_num_groups", 32);
  const odd = channels.find((count) => count % groups !== 0);
  if (odd !== undefined) {
    throw new RangeError(
      `Cannot make the autoencoder as 'block_out_channels' must be multiples of ${groups}, the groups of its norms: current ones have ${odd}`,
    );
  }
  return {
    inChannels: read.size("in_channels", 3),
    outChannels: read.size("out_channels", 3),
    latentChannels: read.size("latent_channels", 4),
    channels,
    layersPerBlock: read.size("layers_per_block", 1),
    groups,
    midAttention: read.flag("mid_block_add_attention", true),
    quantConvolution: read.flag("use_quant_conv", true),
    postQuantConvolution: read.flag("use_post_quant_conv", true),
    scalingFactor: read.number("scaling_factor", 0.18215),
    shiftFactor: read.has("shift_factor") ? read.number("shift_factor") : 0,
  };
}

/** The parameters of the autoencoder. */
export function autoencoderParameters(config: AutoencoderConfig): ParameterSpecs {
  const { channels, latentChannels, layersPerBlock } = config;
  const list = new SpecList();
  const [first, last] = [channels[0]!, channels.at(-1)!];
  const encoder = list.in("encoder").convolution("conv_in", config.inChannels, first, 3);
  channels.forEach((count, size) => {
    const block = encoder.in(`down_blocks.${size}`);
    for (let layer = 0; layer < layersPerBlock; layer++) {
      residualSpecs(block.in(`resnets.${layer}`), layer === 0 ? channels[size - 1] ?? first : count, count);
    }
    if (size < channels.length - 1) block.convolution("downsamplers.0.conv", count, count, 3);
  });
  midSpecs(encoder.in("mid_block"), last, config);
  encoder.norm("conv_norm_out", last).convolution("conv_out", last, 2 * latentChannels, 3);
  const decoder = list.in("decoder").convolution("conv_in", latentChannels, last, 3);
  midSpecs(decoder.in("mid_block"), last, config);
  channels.toReversed().forEach((count, size, reversed) => {
    const block = decoder.in(`up_blocks.${size}`);
    for (let layer = 0; layer <= layersPerBlock; layer++) {
      residualSpecs(block.in(`resnets.${layer}`), layer === 0 ? reversed[size - 1] ?? last : count, count);
    }
    if (size < channels.length - 1) block.convolution("upsamplers.0.conv", count, count, 3);
  });
  decoder.norm("conv_norm_out", first).convolution("conv_out", first, config.outChannels, 3);
  if (config.quantConvolution) list.convolution("quant_conv", 2 * latentChannels, 2 * latentChannels, 1);
  if (config.postQuantConvolution) list.convolution("post_quant_conv", latentChannels, latentChannels, 1);
  return list.all;
}

function residualSpecs(list: SpecList, input: number, output: number): void {
  list.norm("norm1", input).convolution("conv1", input, output, 3)
    .norm("norm2", output).convolution("conv2", output, output, 3);
  if (input !== output) list.convolution("conv_shortcut", input, output, 1);
}

function midSpecs(list: SpecList, width: number, { midAttention }: AutoencoderConfig): void {
  residualSpecs(list.in("resnets.0"), width, width);
  if (midAttention) list.in("attentions.0").norm("group_norm", width);
  if (midAttention) list.attention("attentions.0", { width });
  residualSpecs(list.in("resnets.1"), width, width);
}

/**
 * The autoencoder of latent diffusion: residual blocks with group norm at falling sizes, attention at the smallest.
 *
 * Rombach et al. 2022, arXiv 2112.10752; `AutoencoderKL` of diffusers.
 */
export function autoencoder(config: AutoencoderConfig, source: WeightSource): Autoencoder {
  const scope = new Scope(source.outer);
  const { groups, channels } = config;
  const sizes = channels.length;
  return {
    config,
    parameters: autoencoderParameters(config),
    decode(latents) {
      requireShape("latents", latents, [null, config.latentChannels, null, null]);
      return tf.tidy(() => {
        const own = scope.in("decoder");
        let x = tf.transpose(latents, [0, 2, 3, 1]);
        if (config.postQuantConvolution) x = convolution(scope, "post_quant_conv", x);
        x = middle(own.in("mid_block"), convolution(own, "conv_in", x), config);
        for (let size = 0; size < sizes; size++) {
          const block = own.in(`up_blocks.${size}`);
          for (let layer = 0; layer <= config.layersPerBlock; layer++) {
            x = step(x, () => residual(block.in(`resnets.${layer}`), x, groups));
          }
          if (size < sizes - 1) x = step(x, () => convolution(block, "upsamplers.0.conv", doubled(x)));
        }
        x = step(x, () => silu(groupNorm(own, "conv_norm_out", x, groups)));
        return tf.transpose(convolution(own, "conv_out", x), [0, 3, 1, 2]);
      });
    },
    encode(images) {
      requireShape("images", images, [null, config.inChannels, null, null]);
      return tf.tidy(() => {
        const own = scope.in("encoder");
        let x = convolution(own, "conv_in", tf.transpose(images, [0, 2, 3, 1]));
        for (let size = 0; size < sizes; size++) {
          const block = own.in(`down_blocks.${size}`);
          for (let layer = 0; layer < config.layersPerBlock; layer++) {
            x = step(x, () => residual(block.in(`resnets.${layer}`), x, groups));
          }
          if (size < sizes - 1) x = step(x, () => halved(block, "downsamplers.0.conv", x));
        }
        x = middle(own.in("mid_block"), x, config);
        x = convolution(own, "conv_out", silu(groupNorm(own, "conv_norm_out", x, groups)));
        if (config.quantConvolution) x = convolution(scope, "quant_conv", x);
        const [mean, logVariance] = tf.split(tf.transpose(x, [0, 3, 1, 2]), 2, 1) as [
          tf.Tensor4D,
          tf.Tensor4D,
        ];
        return { mean, logVariance: tf.clipByValue(logVariance, -30, 20) };
      });
    },
    dispose: () => source.dispose(),
  };
}

/**
 * Loads an autoencoder as diffusers saves it, in `folder` or its sub-folder `vae`.
 *
 * @throws {RangeError} on a folder without a checkpoint, or a config that the kit cannot follow
 * @throws {SyntaxError} on files that are not what their names say
 * @throws {CheckpointError} on tensors that are missing, unexpected or of other shapes
 */
export async function loadAutoencoder(folder: string, options: LoadOptions = {}): Promise<Autoencoder> {
  const checkpoint = await openCheckpoint(folder, "vae", options);
  try {
    const config = autoencoderConfig(checkpoint.config);
    return autoencoder(config, await loadWeights(checkpoint, autoencoderParameters(config), options));
  } finally {
    await checkpoint.close();
  }
}

/** `compute`, and nothing else of it; frees `x` too, which at the size of a picture is large. */
function step(x: tf.Tensor4D, compute: () => tf.Tensor4D): tf.Tensor4D {
  const result = tf.tidy(compute);
  x.dispose();
  return result;
}

function convolution(scope: Scope, name: string, x: tf.Tensor4D): tf.Tensor4D {
  const filter = scope.get<tf.Tensor4D>(`${name}.weight`);
  return tf.add(tf.conv2d(x, filter, 1, "same"), scope.get(`${name}.bias`));
}

/** A convolution of stride 2, with a row and a column of zeros after the last ones. */
function halved(scope: Scope, name: string, x: tf.Tensor4D): tf.Tensor4D {
  const padded = tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]]);
  const filter = scope.get<tf.Tensor4D>(`${name}.weight`);
  return tf.add(tf.conv2d(padded, filter, 2, "valid"), scope.get(`${name}.bias`));
}

/** Each pixel four times. */
function doubled(x: tf.Tensor4D): tf.Tensor4D {
  const [batch, height, width, channels] = x.shape;
  // Two tilings of rank 3: of rank 5 and above WebGPU has none.
  const columns = tf.tile(tf.reshape(x, [batch * height * width, 1, channels]), [1, 2, 1]);
  const rows = tf.tile(tf.reshape(columns, [batch * height, 1, 2 * width * channels]), [1, 2, 1]);
  return tf.reshape(rows, [batch, 2 * height, 2 * width, channels]);
}

const EPSILON = 1e-6;

function groupNorm(scope: Scope, name: string, x: tf.Tensor4D, groups: number): tf.Tensor4D {
  const [batch, height, width, channels] = x.shape;
  const grouped = tf.reshape(x, [batch, height * width, groups, channels / groups]);
  const centered = tf.sub(grouped, tf.mean(grouped, [1, 3], true));
  const variance = tf.mean(tf.square(centered), [1, 3], true);
  const normed = tf.reshape(tf.mul(centered, tf.rsqrt(tf.add(variance, EPSILON))), x.shape);
  return tf.add<tf.Tensor4D>(tf.mul(normed, scope.get(`${name}.weight`)), scope.get(`${name}.bias`));
}

function residual(scope: Scope, x: tf.Tensor4D, groups: number): tf.Tensor4D {
  const first = convolution(scope, "conv1", silu(groupNorm(scope, "norm1", x, groups)));
  const second = convolution(scope, "conv2", silu(groupNorm(scope, "norm2", first, groups)));
  return tf.add(scope.find("conv_shortcut.weight") ? convolution(scope, "conv_shortcut", x) : x, second);
}

function middle(scope: Scope, x: tf.Tensor4D, config: AutoencoderConfig): tf.Tensor4D {
  const first = residual(scope.in("resnets.0"), x, config.groups);
  const attended = config.midAttention
    ? pixelAttention(scope.in("attentions.0"), first, config.groups)
    : first;
  return residual(scope.in("resnets.1"), attended, config.groups);
}

/** Attention of all pixels to all, with one head. */
function pixelAttention(scope: Scope, x: tf.Tensor4D, groups: number): tf.Tensor4D {
  const [batch, height, width, channels] = x.shape;
  const normed = tf.reshape<tf.Rank.R3>(groupNorm(scope, "group_norm", x, groups), [
    batch,
    height * width,
    channels,
  ]);
  const [q, k, v] = ["to_q", "to_k", "to_v"].map((name) =>
    tf.reshape(linear(scope, name, normed), [batch, 1, height * width, channels])
  ) as [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D];
  const output = tf.reshape<tf.Rank.R3>(attend(q, k, v).output, [batch, height * width, channels]);
  return tf.add(x, tf.reshape(linear(scope, "to_out.0", output), x.shape));
}
