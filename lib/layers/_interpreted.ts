/** A whole layer evaluated operation by operation. Room-private. */
import * as tf from "@tensorflow/tfjs";
import { usesX } from "../graph/mod.ts";
import { isRelu, type VectorName } from "../compile/mod.ts";
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

/**
 * The gradients of sum(y * dy) to x and to vectors that the layer reads, by operations that can be differentiated again: for when a
 * backward pass is itself being differentiated.
 */
export function interpretedGradients(
  layer: LayerParts,
  { x, vectors }: LayerInputs,
  names: readonly VectorName[],
  dy: tf.Tensor,
  { onBatchMoment: _measuredBefore, ...options }: LayerOptions,
): tf.Tensor[] {
  const given = (values: readonly tf.Tensor[]) =>
    Object.fromEntries(names.map((name, index) => [name, values[index] as tf.Tensor1D]));
  const values = names.map((name) => vectors[name]!);
  // TensorFlow.js refuses gradients to what a function does not read.
  if (!usesX(layer.graph)) {
    const constant = (...values: tf.Tensor[]) =>
      interpretLayer(layer, { x, vectors: given(values) }, options);
    return [tf.zerosLike(x), ...onItsOwnTape(() => tf.grads(constant)(values, dy))];
  }
  const whole = (image: tf.Tensor, ...values: tf.Tensor[]) =>
    interpretLayer(layer, { x: image as tf.Tensor4D, vectors: given(values) }, options);
  return onItsOwnTape(() => tf.grads(whole)([x, ...values], dy));
}

/**
 * The gradients of the sum over {@linkcode interpretedGradients} g of sum(g * upstream) to x, dy and the vectors, by operations that can be
 * differentiated again: for third derivatives.
 */
export function interpretedSecondGradients(
  layer: LayerParts,
  { x, vectors }: LayerInputs,
  names: readonly VectorName[],
  dy: tf.Tensor4D,
  upstream: readonly tf.Tensor[],
  options: LayerOptions,
): tf.Tensor[] {
  const inputs = [x, dy, ...names.map((name) => vectors[name]!)];
  const sum = (): tf.Scalar => {
    const gradients = interpretedGradients(layer, { x, vectors }, names, dy, options);
    return tf.addN(gradients.map((gradient, index) => tf.sum(tf.mul(gradient, upstream[index]!))));
  };
  // Some inputs may not matter, which tf.grads refuses.
  const { grads } = onItsOwnTape(() => tf.engine().gradients(sum, inputs, undefined, true));
  return inputs.map((input, index) => (grads[index] as tf.Tensor | undefined) ?? tf.zerosLike(input));
}

/**
 * A gradient within a gradient, recorded apart and then joined: TensorFlow.js searches the whole tape for each, which in the backward pass
 * of a network would be all that came before, layer by layer.
 */
function onItsOwnTape<T>(gradient: () => T): T {
  const state = tf.engine().state as unknown as { activeTape: object[] | null };
  const whole = state.activeTape;
  if (whole === null) return gradient();
  state.activeTape = [];
  try {
    return gradient();
  } finally {
    for (const node of state.activeTape) whole.push(node);
    state.activeTape = whole;
  }
}
