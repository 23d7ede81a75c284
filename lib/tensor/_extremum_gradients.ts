/** Gradients of tf.maximum and tf.minimum; TensorFlow.js's own fail when one input is broadcast. */
import * as tf from "@tensorflow/tfjs";

type Comparison = (a: tf.Tensor, b: tf.Tensor) => tf.Tensor;

/**
 * Registers them for every backend. The gradient goes to the input that was taken; at a tie each side gets half, as
 * in PyTorch and as the kit's layer graphs define it (TensorFlow.js gives all of it to the first).
 */
export function registerExtremumGradients(): void {
  register("Maximum", tf.greater);
  register("Minimum", tf.less);
}

function register(kernelName: string, takesFirst: Comparison): void {
  tf.registerGradient({
    kernelName,
    inputsToSave: ["a", "b"],
    gradFunc: (dy, saved) => {
      const [a, b] = saved as [tf.Tensor, tf.Tensor];
      const upstream = dy as tf.Tensor;
      const share = (taken: tf.Tensor) =>
        tf.add(tf.cast(taken, "float32"), tf.mul(tf.cast(tf.equal(a, b), "float32"), 0.5));
      return {
        a: () => sumToShape(tf.mul(upstream, share(takesFirst(a, b))), a.shape),
        b: () => sumToShape(tf.mul(upstream, share(takesFirst(b, a))), b.shape),
      };
    },
  });
}

/** Sums over the axes along which a tensor of `shape` was repeated. */
function sumToShape(x: tf.Tensor, shape: number[]): tf.Tensor {
  const axes = tf.broadcast_util.getReductionAxes(shape, x.shape);
  return axes.length === 0 ? tf.reshape(x, shape) : tf.reshape(tf.sum(x, axes), shape);
}
