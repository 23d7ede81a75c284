import * as tf from "@tensorflow/tfjs";
import { addInPlace } from "./_add_into.ts";
import { differentiable } from "./differentiable.ts";

/**
 * a + b, of one shape, where `a` is not read any more: on wasm the sum is written over its data, unless a clone or a value saved for a
 * gradient still needs them. For the sums of residual networks, whose one side is a convolution that nothing else reads.
 *
 * @throws {TypeError} if the shapes differ
 */
export function addOver<T extends tf.Tensor>(a: T, b: T): T {
  if (!tf.util.arraysEqual(a.shape, b.shape)) {
    throw new TypeError(
      `Cannot add over a tensor as both must have one shape: current shapes are [${a.shape}] and [${b.shape}]`,
    );
  }
  return differentiable([a, b], () => addInPlace(a, b) ? a : tf.add(a, b), (dy) => [dy, dy]);
}
