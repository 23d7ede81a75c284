/** What every way of evaluating a whole layer takes. Room-private. */
import type * as tf from "@tensorflow/tfjs";
import type { PublishedLayer } from "../graph/mod.ts";
import type { VectorName } from "../compile/mod.ts";

/** A layer's graph and what follows the affine. */
export type LayerParts = Pick<PublishedLayer, "graph" | "post">;

/** Trained vectors [c] by name: those that the layer reads. */
export type LayerVectors = Readonly<Partial<Record<VectorName, tf.Tensor1D>>>;

/** x [n, h, w, c] and the vectors that the layer reads. */
export interface LayerInputs {
  readonly x: tf.Tensor4D;
  readonly vectors: LayerVectors;
}

/** Settings of an evaluation. */
export interface LayerOptions {
  readonly groups: number;
  readonly epsilon: number;
  /** Inference: the moving moment [c] of each node over the batch. Absent: training. */
  readonly movingMoments?: ReadonlyMap<number, tf.Tensor1D>;
  /** Training: called with each batch moment [c] (mean, mean of squares or variance). */
  readonly onBatchMoment?: (node: number, moment: tf.Tensor1D) => void;
}
