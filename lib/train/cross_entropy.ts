/** The loss of classifiers. */
import * as tf from "@tensorflow/tfjs";
import { differentiable } from "../tensor/mod.ts";

/**
 * Mean softmax cross-entropy [] of logits [n, classes], targets smoothed to t = (1 - s) * onehot + s / classes:
 * sum(t * (logsumexp(logits) - logits)) / n, with the gradient dy * (softmax(logits) - t) / n.
 *
 * TensorFlow.js's own keeps the softmax as a constant, so that its gradient cannot be differentiated; this one can, any number of times.
 */
export function crossEntropy(logits: tf.Tensor2D, labels: tf.Tensor1D, smoothing = 0): tf.Scalar {
  const [images, classes] = logits.shape;
  const onehot = tf.oneHot(labels, classes).toFloat();
  const targets = smoothing === 0 ? onehot : tf.add(tf.mul(onehot, 1 - smoothing), smoothing / classes);
  return differentiable(
    [logits],
    (save) => {
      save([logits, targets]);
      const logProbabilities = tf.sub(logits, tf.logSumExp(logits, 1, true));
      return tf.div(tf.neg(tf.sum(tf.mul(logProbabilities, targets))), images) as tf.Scalar;
    },
    (dy, [x, t]) => [tf.mul(tf.sub(tf.softmax(x as tf.Tensor2D), t!), tf.div(dy, images))],
  );
}
