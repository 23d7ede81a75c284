/**
 * The 15 primitives of a layer graph as TensorFlow.js operations with the numerical conventions of the search space (safe Div,
 * Log and Sqrt; half of the gradient to each side of a tie of Max). Room-private: `interpret` is the public face.
 *
 * All tensors have rank 4 and broadcast against [n, h, w, c]. Gradients are stated by hand because TensorFlow.js's own differ from
 * the conventions at kinks, and because its sums over broadcast axes transpose the whole tensor on wasm.
 */
import * as tf from "@tensorflow/tfjs";
import type { Elementwise } from "../graph/mod.ts";
import { differentiable, executeNative, repeatTo, type Shape4, sumTo } from "../tensor/mod.ts";

/** A one-argument operation; the gradient is a function of dy, the argument and the value. */
function unary(
  x: tf.Tensor4D,
  forward: (x: tf.Tensor4D) => tf.Tensor4D,
  gradient: (dy: tf.Tensor4D, x: tf.Tensor4D, y: tf.Tensor4D) => tf.Tensor4D,
): tf.Tensor4D {
  return differentiable(
    [x],
    (save) => {
      const y = forward(x);
      save([x, y]);
      return y;
    },
    (dy, saved) => [gradient(dy, ...saved as [tf.Tensor4D, tf.Tensor4D])],
  );
}

/** A two-argument broadcasting operation; gradients at the broadcast shape are summed back to each argument's shape. */
function binary(
  a: tf.Tensor4D,
  b: tf.Tensor4D,
  forward: (a: tf.Tensor4D, b: tf.Tensor4D) => tf.Tensor4D,
  gradients: (dy: tf.Tensor4D, a: tf.Tensor4D, b: tf.Tensor4D) => [tf.Tensor4D, tf.Tensor4D],
): tf.Tensor4D {
  return differentiable(
    [a, b],
    (save) => {
      save([a, b]);
      return forward(a, b);
    },
    (dy, saved) => {
      const [da, db] = gradients(dy, ...saved as [tf.Tensor4D, tf.Tensor4D]);
      return [sumTo(da, a.shape), sumTo(db, b.shape)];
    },
  );
}

/** sgn(t), 0 at 0; NaN stays NaN. On wasm two steps are four times faster than tf.sign; natively a step is made of many operations. */
function sign(t: tf.Tensor4D): tf.Tensor4D {
  return tf.getBackend() === "wasm" ? tf.sub(tf.step(t), tf.step(tf.neg(t))) : tf.sign(t);
}

/** 1 where t >= 0, -1 elsewhere. */
function signOrOne(t: tf.Tensor4D): tf.Tensor4D {
  const signs = sign(t);
  return tf.add(signs, tf.sub(1, tf.abs(signs)));
}

/** Taylor coefficients of tanh(t) / t in t^2, highest first: below |t| = 0.35 the rest is under 1e-8 of the value. */
const TANH_SERIES = [-1382 / 155925, 62 / 2835, -17 / 315, 2 / 15, -1 / 3, 1];

/** tanh(t). TensorFlow.js's webgpu form, (1 - e) / (1 + e) with e = exp(-2|t|), cancels near 0: a series takes over there. */
function tanh(t: tf.Tensor4D): tf.Tensor4D {
  if (tf.getBackend() !== "webgpu") return tf.tanh(t);
  const square = tf.square(t);
  const series = TANH_SERIES.reduce<tf.Tensor>(
    (sum, term) => tf.add(tf.mul(sum, square), term),
    tf.zerosLike(t),
  );
  return tf.where(tf.less(tf.abs(t), 0.35), tf.mul(t, series), tf.tanh(t));
}

/** How a division may treat its denominator. */
export interface DivOptions {
  epsilon: number;
  /** The denominator is known to be at least sqrt(epsilon), so the clamp away from zero can never act. */
  denominatorIsSafe: boolean;
}

function denominator(b: tf.Tensor4D, { epsilon, denominatorIsSafe }: DivOptions): tf.Tensor4D {
  if (denominatorIsSafe) return b;
  // max(|b|, epsilon) as a repaired sum keeps NaN, which a clip would turn into epsilon.
  const magnitude = tf.add(tf.relu(tf.sub(tf.abs(b), epsilon)), epsilon);
  return tf.mul(signOrOne(b), magnitude);
}

/** a / (s1(b) * max(|b|, epsilon)), with s1(b) = 1 for b >= 0 and -1 elsewhere. */
export function divide(a: tf.Tensor4D, b: tf.Tensor4D, options: DivOptions): tf.Tensor4D {
  return binary(
    a,
    b,
    (left, right) => tf.div(left, denominator(right, options)),
    (dy, left, right) => {
      const d = denominator(right, options);
      const da = tf.div(dy, d) as tf.Tensor4D;
      const db = tf.neg(tf.div(tf.mul(da, left), d)) as tf.Tensor4D;
      if (options.denominatorIsSafe) return [da, db];
      const unclamped = tf.cast(tf.greaterEqual(tf.abs(right), options.epsilon), "float32");
      return [da, tf.mul(db, unclamped)];
    },
  );
}

/** max(a, b). TensorFlow.js's maximum takes 30 times longer on wasm when it has to broadcast: repeat the smaller one first. */
export function maximum(a: tf.Tensor4D, b: tf.Tensor4D): tf.Tensor4D {
  const shape = tf.broadcast_util.assertAndGetBroadcastShape(a.shape, b.shape) as Shape4;
  return binary(
    a,
    b,
    (left, right) => tf.maximum(repeatTo(left, shape), repeatTo(right, shape)),
    (dy, left, right) => {
      const difference = tf.sub(left, right) as tf.Tensor4D;
      const toLeft = tf.mul(dy, tf.mul(0.5, tf.add(1, sign(difference)))) as tf.Tensor4D;
      return [toLeft, tf.sub(dy, toLeft)];
    },
  );
}

/** max(x, 0) with gradient 0 at 0: the ReLU of every published network, where the graph's Max(x, zero) would give half. */
export function relu(x: tf.Tensor4D): tf.Tensor4D {
  return unary(
    x,
    (t) => tf.relu(t),
    (dy, t) =>
      tf.getBackend() === "tensorflow"
        ? executeNative("ReluGrad", { T: "float32" }, [dy, t], 1)[0] as tf.Tensor4D
        : tf.mul(dy, tf.step(t)),
  );
}

/** a + b. */
export function add(a: tf.Tensor4D, b: tf.Tensor4D): tf.Tensor4D {
  return binary(a, b, (left, right) => tf.add(left, right), (dy) => [dy, dy]);
}

/** a * b. */
export function multiply(a: tf.Tensor4D, b: tf.Tensor4D): tf.Tensor4D {
  return binary(
    a,
    b,
    (left, right) => tf.mul(left, right),
    (dy, left, right) => [tf.mul(dy, right), tf.mul(dy, left)],
  );
}

/** The element-wise primitives of one argument. */
export const unaryPrimitives: Readonly<
  Record<
    Exclude<Elementwise, "Add" | "Mul" | "Div" | "Max">,
    (x: tf.Tensor4D, epsilon: number) => tf.Tensor4D
  >
> = {
  Neg: (x) => unary(x, (t) => tf.neg(t), (dy) => tf.neg(dy)),
  Sigmoid: (x) => unary(x, (t) => tf.sigmoid(t), (dy, _t, y) => tf.mul(dy, tf.mul(y, tf.sub(1, y)))),
  Tanh: (x) => unary(x, tanh, (dy, _t, y) => tf.mul(dy, tf.sub(1, tf.square(y)))),
  Exp: (x) => unary(x, (t) => tf.exp(t), (dy, _t, y) => tf.mul(dy, y)),
  // sgn(t) ln(|t| + epsilon)
  Log: (x, epsilon) =>
    unary(
      x,
      (t) => tf.mul(sign(t), tf.log(tf.add(tf.abs(t), epsilon))),
      (dy, t) => tf.div(tf.mul(dy, tf.abs(sign(t))), tf.add(tf.abs(t), epsilon)),
    ),
  Abs: (x) => unary(x, (t) => tf.abs(t), (dy, t) => tf.mul(dy, sign(t))),
  Square: (x) => unary(x, (t) => tf.square(t), (dy, t) => tf.mul(dy, tf.mul(2, t))),
  // sgn(t) sqrt(|t| + epsilon)
  Sqrt: (x, epsilon) =>
    unary(
      x,
      (t) => tf.mul(sign(t), tf.sqrt(tf.add(tf.abs(t), epsilon))),
      (dy, t) => tf.div(tf.mul(dy, tf.abs(sign(t))), tf.mul(2, tf.sqrt(tf.add(tf.abs(t), epsilon)))),
    ),
};
