import * as tf from "@tensorflow/tfjs";

/**
 * An operation with a gradient stated by hand: `tf.customGrad` with its inputs by closure and its types straight.
 *
 * `forward` computes the value, not recorded for differentiation, and saves what `backward` needs; `backward` turns dy into one
 * gradient per input, of the input's shape, by operations that can be differentiated again.
 *
 * @example
 * ```ts
 * import * as tf from "@tensorflow/tfjs";
 * import { differentiable } from "@normlab/normlab/tensor";
 * const cube = (x: tf.Tensor) =>
 *   differentiable([x], (save) => (save([x]), tf.pow(x, 3)), (dy, [saved]) => [tf.mul(dy, tf.mul(3, tf.square(saved!)))]);
 * console.log(tf.grad(cube)(tf.scalar(2)).dataSync()[0]); // 12
 * ```
 */
export function differentiable<T extends tf.Tensor>(
  inputs: tf.Tensor[],
  forward: (save: (tensors: tf.Tensor[]) => void) => T,
  backward: (dy: T, saved: tf.Tensor[]) => tf.Tensor[],
): T {
  const operation = tf.customGrad((...args: (tf.Tensor | tf.GradSaveFunc)[]) => {
    const value = forward(args.at(-1) as tf.GradSaveFunc);
    return {
      // An output that is the input itself would be one node of the tape and get its gradient twice.
      value: inputs.includes(value) ? value.clone() : value,
      gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => distinct(backward(dy as T, saved), [dy, ...saved]),
    };
  });
  return operation(...inputs) as T;
}

/** TensorFlow.js disposes gradients as it adds them up, so each must be a tensor of its own, neither dy nor a saved one. */
function distinct(gradients: tf.Tensor[], taken: tf.Tensor[]): tf.Tensor[] {
  const seen = new Set(taken);
  return gradients.map((gradient) => {
    const own = seen.has(gradient) ? gradient.clone() : gradient;
    seen.add(own);
    return own;
  });
}
