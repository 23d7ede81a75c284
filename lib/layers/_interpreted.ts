/** A whole layer evaluated operation by operation. Room-private. */
import * as tf from "@tensorflow/tfjs";
import { isRelu } from "../compile/mod.ts";
import { add, multiply, relu } from "./_primitives.ts";
import { interpret } from "./interpret.ts";
import type { LayerInputs, LayerOptions, LayerParts } from "./_layer_inputs.ts";

/** y = post(gamma * graph(x) + beta), [n, h, w, c]: the specification of every faster evaluation. */
export function interpretLayer(
  { graph, post }: LayerParts,
  { x, vectors }: LayerInputs,
  { groups, epsilon, movingMoments, onBatchMoment }: LayerOptions,
): tf.Tensor4D {
  const channels = x.shape[3];
  const zeros = () => tf.zeros<tf.Rank.R1>([channels]);
  const z = interpret(graph, { x, v0: vectors.v0 ?? zeros(), v1: vectors.v1 ?? zeros() }, {
    groups,
    epsilon,
    ...(movingMoments && { movingMoments }),
    ...(onBatchMoment && { onBatchMoment }),
  });
  const perChannel = (t: tf.Tensor1D) => t.reshape([1, 1, 1, channels]) as tf.Tensor4D;
  const affine = add(multiply(z, perChannel(vectors.gamma!)), perChannel(vectors.beta!));
  // z may be constant over some axes.
  const y = affine.size === x.size ? affine : add(affine, tf.zeros(x.shape));
  if (!post) return y;
  if (isRelu(post)) return relu(y);
  return interpret(post, { x: y, v0: vectors.tau ?? zeros(), v1: zeros() }, { groups, epsilon });
}
