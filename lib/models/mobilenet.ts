/** MobileNetV2, for small images and for large ones, with any layer graph as its normalization-activation. */
import type { Stream } from "../tensor/mod.ts";
import { type InvertedNetwork, invertedNetwork, type InvertedOptions, type Stage } from "./_inverted.ts";
import type { ImageModel } from "./model.ts";

/** The shape of a MobileNetV2. */
export interface MobileNetConfig extends InvertedOptions {}

const stage = (expansion: number, channels: number, blocks: number, stride: number): Stage => ({
  expansion,
  channels,
  blocks,
  stride,
  kernel: 3,
});

/** Sandler, Howard, Zhu, Zhmoginov, Chen 2018, arXiv 1801.04381, table 2. */
const published: InvertedNetwork = {
  name: "MobileNetV2",
  stem: 32,
  stages: [
    stage(1, 16, 1, 1),
    stage(6, 24, 2, 2),
    stage(6, 32, 3, 2),
    stage(6, 64, 4, 2),
    stage(6, 96, 3, 1),
    stage(6, 160, 3, 2),
    stage(6, 320, 1, 1),
  ],
  head: 1280,
  // Its authors apply multipliers below one to every layer but the last convolution.
  narrowsHead: false,
  squeeze: 0,
};

/**
 * Builds a MobileNetV2: 17 inverted bottlenecks in seven stages, each conv 1x1 - layer - depthwise 3x3 - layer - conv 1x1 - affine
 * (of a layer with an activation of its own, such as BN-ReLU: the rest of it, BN). Of the five reductions the first two (the stem,
 * stage 2) have stride 1 where `images` is "small".
 *
 * @example
 * ```ts
 * import * as tf from "@tensorflow/tfjs";
 * import { mobileNet } from "@normlab/normlab/models";
 * import { stream, useBackend } from "@normlab/normlab/tensor";
 * await useBackend("wasm");
 * const model = mobileNet(
 *   { width: 0.5, blocks: [1, 1, 1, 1], classes: 10, layer: "EvoNorm-S0" },
 *   stream(0).child("init"),
 * );
 * const logits = tf.tidy(() => model.forward(tf.zeros([2, 32, 32, 3]), false));
 * console.log(logits.shape); // [2, 10]
 * ```
 * @throws {RangeError} if a size is out of range
 */
export function mobileNet(config: MobileNetConfig, stream: Stream): ImageModel {
  return invertedNetwork(published, config, stream);
}
