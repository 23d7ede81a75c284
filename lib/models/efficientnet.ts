/** EfficientNet-B0, for small images and for large ones, with any layer graph as its normalization-activation. */
import type { Stream } from "../tensor/mod.ts";
import { type InvertedNetwork, invertedNetwork, type InvertedOptions, type Stage } from "./_inverted.ts";
import type { ImageModel } from "./model.ts";

/** The shape of an EfficientNet-B0. */
export interface EfficientNetConfig extends InvertedOptions {}

const stage = (
  expansion: number,
  kernel: number,
  channels: number,
  blocks: number,
  stride: number,
): Stage => ({
  expansion,
  kernel,
  channels,
  blocks,
  stride,
});

/** Tan, Le 2019, arXiv 1905.11946, table 1. */
const published: InvertedNetwork = {
  name: "EfficientNet",
  stem: 32,
  stages: [
    stage(1, 3, 16, 1, 1),
    stage(6, 3, 24, 2, 2),
    stage(6, 5, 40, 2, 2),
    stage(6, 3, 80, 3, 2),
    stage(6, 5, 112, 3, 1),
    stage(6, 5, 192, 4, 2),
    stage(6, 3, 320, 1, 1),
  ],
  head: 1280,
  narrowsHead: true,
  squeeze: 0.25,
};

/**
 * Builds an EfficientNet-B0: 16 inverted bottlenecks in seven stages, each conv 1x1 - layer - depthwise 3x3 or 5x5 - layer -
 * squeeze-excite - conv 1x1 - affine (of a layer with an activation of its own, such as BN-SiLU: the rest of it, BN). The
 * squeeze-excite keeps its own SiLU and sigmoid. No dropout and no stochastic depth, whose draws would differ between layers. Of the
 * five reductions the first two (the stem, stage 2) have stride 1 where `images` is "small".
 *
 * @example
 * ```ts
 * import * as tf from "@tensorflow/tfjs";
 * import { efficientNet } from "@normlab/normlab/models";
 * import { stream, useBackend } from "@normlab/normlab/tensor";
 * await useBackend("wasm");
 * const model = efficientNet(
 *   { width: 0.5, blocks: [1, 1, 1, 1], classes: 10, layer: "EvoNorm-B0" },
 *   stream(0).child("init"),
 * );
 * const logits = tf.tidy(() => model.forward(tf.zeros([2, 32, 32, 3]), false));
 * console.log(logits.shape); // [2, 10]
 * ```
 * @throws {RangeError} if a size is out of range
 */
export function efficientNet(config: EfficientNetConfig, stream: Stream): ImageModel {
  return invertedNetwork(published, config, stream);
}
