import type * as tf from "@tensorflow/tfjs";
import type { Parameter } from "../layers/mod.ts";

/** A classifier of images: parameters by name, and logits [n, classes] from images [n, h, w, c]. */
export interface ImageModel {
  readonly parameters: readonly Parameter[];
  /** Logits; in training, batch statistics are used and moving ones updated. */
  forward(x: tf.Tensor4D, training: boolean): tf.Tensor2D;
  /** Frees every variable. */
  dispose(): void;
}

/** How many numbers a model trains (moving statistics not counted). */
export function parameterCount(model: ImageModel): number {
  return model.parameters.filter(({ kind }) => kind !== "statistic").reduce(
    (sum, { variable }) => sum + variable.size,
    0,
  );
}
