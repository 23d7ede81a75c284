/** A whole layer evaluated operation by operation: what the derived form is compared with and differentiated by. Room-private. */
import * as tf from "@tensorflow/tfjs";
import type { PublishedLayer } from "../graph/mod.ts";
import { repeatTo } from "../tensor/mod.ts";
import { isRelu, type VectorName } from "./_derived_program.ts";
import { add, multiply, relu } from "./_primitives.ts";
import { interpret } from "./interpret.ts";

/** What a layer reads: x [n, h, w, c] and vectors [c]; v1 is 1, gamma 1 and the others 0 where they are absent. */
export interface LayerInputs {
  readonly x: tf.Tensor4D;
  readonly vectors: Readonly<Partial<Record<VectorName, tf.Tensor1D>>>;
}

/** How a layer is evaluated. */
export interface LayerOptions {
  /** Number of channel groups of the index set whc/g; must divide the channels. */
  readonly groups: number;
  /** Added inside roots; keeps denominators and logarithms off zero. */
  readonly epsilon: number;
  /** Inference: the moving moment [c] (before any root) of each active node over the batch. */
  readonly statistics?: ReadonlyMap<number, tf.Tensor1D>;
  /** Called in training with each moment [c] over the batch, before any root. */
  readonly onBatchMoment?: (node: number, moment: tf.Tensor1D) => void;
}

/** y = post(gamma * graph(x) + beta), [n, h, w, c], by {@linkcode interpret}: differentiable as often as wanted. */
export function interpretLayer(
  { graph, post }: Pick<PublishedLayer, "graph" | "post">,
  { x, vectors }: LayerInputs,
  { groups, epsilon, statistics, onBatchMoment }: LayerOptions,
): tf.Tensor4D {
  const channels = x.shape[3];
  const vector = (name: VectorName) =>
    vectors[name] ?? tf.fill([channels], name === "v1" || name === "gamma" ? 1 : 0) as tf.Tensor1D;
  const perChannel = (name: VectorName) => vector(name).reshape([1, 1, 1, channels]) as tf.Tensor4D;
  const z = interpret(graph, { x, v0: vector("v0"), v1: vector("v1") }, {
    groups,
    epsilon,
    ...(statistics && { movingMoments: statistics }),
    ...(onBatchMoment && { onBatchMoment }),
  });
  const affine = add(multiply(z, perChannel("gamma")), perChannel("beta"));
  const y = affine.size === x.size ? affine : repeatTo(affine, x.shape);
  if (post === undefined) return y;
  return isRelu(post)
    ? relu(y)
    : interpret(post, { x: y, v0: vector("tau"), v1: vector("v1") }, { groups, epsilon });
}
