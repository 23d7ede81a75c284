/** Moments of a tensor over the index sets of the search space, with gradients of few operations. Room-private. */
import * as tf from "@tensorflow/tfjs";
import type { IndexSet } from "../graph/mod.ts";
import { differentiable, meanTo, repeatTo, type Shape4 } from "../tensor/mod.ts";

/** The shape left after reducing `shape` over an index set; groups of channels are kept as channels. */
function reducedShape([batch, , , channels]: Shape4, axes: IndexSet): Shape4 {
  switch (axes) {
    case "bwh":
      return [1, 1, 1, channels];
    case "whc":
      return [batch, 1, 1, 1];
    case "wh":
    case "whc/g":
      return [batch, 1, 1, channels];
  }
}

/**
 * mean_I(x), repeated within each group of channels: [n, h, w, c] -> a shape that broadcasts against it.
 * An axis of size 1 is a value that all its members share, so its mean is itself.
 */
function average(x: tf.Tensor4D, axes: IndexSet, groups: number): tf.Tensor4D {
  const mean = meanTo(x, reducedShape(x.shape as Shape4, axes));
  const [batch, , , channels] = mean.shape;
  if (axes !== "whc/g" || channels === 1) return mean;
  const perGroup = channels / groups;
  return meanTo(mean.reshape([batch, 1, groups, perGroup]), [batch, 1, groups, 1])
    .mul(tf.ones([1, 1, 1, perGroup]))
    .reshape([batch, 1, 1, channels]);
}

/** How many elements of x itself one value of `average` is made of. */
function memberCount(x: tf.Tensor4D, axes: IndexSet, groups: number): number {
  const kept = reducedShape(x.shape as Shape4, axes).reduce((product, size) => product * size, 1);
  const within = axes === "whc/g" && x.shape[3] !== 1 ? x.shape[3] / groups : 1;
  return x.size / kept * within;
}

/** The gradient of a moment reaches each member of its group of channels: sums d(moment) over the group. */
function gatherGroup(dy: tf.Tensor4D, axes: IndexSet, groups: number): tf.Tensor4D {
  if (axes !== "whc/g" || dy.shape[3] === 1) return dy;
  return average(dy, axes, groups).mul(dy.shape[3] / groups);
}

/** First moment, mean_I(x): [n, h, w, c] -> broadcastable. */
export function mean(x: tf.Tensor4D, axes: IndexSet, groups: number): tf.Tensor4D {
  const count = memberCount(x, axes, groups);
  return differentiable(
    [x],
    () => average(x, axes, groups),
    (dy) => [repeatTo(tf.div(gatherGroup(dy, axes, groups), count), x.shape)],
  );
}

/** Second moment, mean_I(x^2): [n, h, w, c] -> broadcastable. */
export function meanSquare(x: tf.Tensor4D, axes: IndexSet, groups: number): tf.Tensor4D {
  const count = memberCount(x, axes, groups);
  return differentiable(
    [x],
    (save) => {
      save([x]);
      return average(tf.square(x), axes, groups);
    },
    (dy, [input]) => [tf.mul(input!, tf.mul(gatherGroup(dy, axes, groups), 2 / count))],
  );
}

/** Biased variance, mean_I((x - mean_I(x))^2), in two passes so that a large mean does not cancel. */
export function variance(x: tf.Tensor4D, axes: IndexSet, groups: number): tf.Tensor4D {
  const count = memberCount(x, axes, groups);
  return differentiable(
    [x],
    (save) => {
      const centre = average(x, axes, groups);
      save([x, centre]);
      return average(tf.squaredDifference(x, centre), axes, groups);
    },
    (dy, [input, saved]) => {
      // The saved mean is a constant, which it may not be when this gradient is differentiated again.
      const again = tf.engine().state.gradientDepth > 0;
      const centre = again ? average(input as tf.Tensor4D, axes, groups) : saved!;
      return [tf.mul(tf.sub(input!, centre), tf.mul(gatherGroup(dy, axes, groups), 2 / count))];
    },
  );
}
