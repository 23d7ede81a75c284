import type * as tf from "@tensorflow/tfjs";
import type { Parameter } from "../layers/mod.ts";

/** Called with the output [n, h, w, c] of the stem, of each stage and of the last norm-activation; `tf.keep` what is to stay. */
export type StageVisitor = (stage: string, output: tf.Tensor4D) => void;

/** A classifier of images: parameters by name, and logits [n, classes] from images [n, h, w, c]. */
export interface ImageModel {
  readonly parameters: readonly Parameter[];
  /** Logits; in training, batch statistics are used and moving ones updated. */
  forward(x: tf.Tensor4D, training: boolean, visit?: StageVisitor): tf.Tensor2D;
  /** Frees every variable. */
  dispose(): void;
}

/**
 * `small`: for images of some 32 pixels, the first two reductions of the published network have stride 1. `large`: the published
 * network, which divides 224 pixels by 32.
 */
export type ImageSize = "small" | "large";

/** `same`: as TensorFlow pads, more on the far side where the number is odd. `symmetric`: as PyTorch does. */
export type Padding = "same" | "symmetric";

/** How many numbers a model trains (moving statistics not counted). */
export function parameterCount(model: ImageModel): number {
  return model.parameters.filter(({ kind }) => kind !== "statistic").reduce(
    (sum, { variable }) => sum + variable.size,
    0,
  );
}
