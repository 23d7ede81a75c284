/** Batched products, softmax and selections of blocks, each in the form that the current backend does fast. */
import * as tf from "@tensorflow/tfjs";
import { executeNative } from "../tensor/mod.ts";

/**
 * `a b`, or `a b^T` with `transposed`: [outer, rows, m, d] and [outer, rows, d, n] (or [outer, rows, n, d]) -> [outer, rows, m, n].
 *
 * TensorFlow.js's wasm backend multiplies single matrices 14 times faster than batches of them or transposed ones.
 */
export function product(a: tf.Tensor4D, b: tf.Tensor4D, transposed = false): tf.Tensor4D {
  if (tf.getBackend() !== "wasm") return tf.matMul(a, b, false, transposed);
  return tf.tidy(() => {
    const right = transposed ? swapped(b) : b;
    const [outer, rows, m] = a.shape;
    const n = right.shape[3];
    const count = outer * rows;
    const [lefts, rights] = [matrices(a), matrices(right)];
    const products = lefts.map((left, i) => tf.matMul(left, rights[i]!));
    return tf.reshape(count === 1 ? products[0]! : tf.concat(products, 0), [outer, rows, m, n]);
  });
}

/** The single matrices of a batch. */
function matrices(x: tf.Tensor4D): tf.Tensor2D[] {
  const [outer, rows, height, width] = x.shape;
  if (outer * rows === 1) return [tf.reshape(x, [height, width])];
  const flat = tf.reshape<tf.Rank.R2>(x, [outer * rows * height, width]);
  return Array.from({ length: outer * rows }, (_, i) => tf.slice(flat, [i * height, 0], [height, width]));
}

/** [outer, rows, n, d] -> [outer, rows, d, n]. */
export function swapped(x: tf.Tensor4D): tf.Tensor4D {
  return tf.transpose(x, [0, 1, 3, 2]);
}

/**
 * The entries `indices` of axis 1: [outer, blocks, ...] -> [outer, indices, ...].
 *
 * TensorFlow.js's wasm backend gathers an element at a time, and copies runs of blocks 40 times faster.
 */
export function take<T extends tf.Tensor>(x: T, indices: Int32Array): T {
  const runs = runsOf(indices);
  if (runs.length === 1 && indices.length === x.shape[1]) return x;
  if (runs.length > 1 && tf.getBackend() !== "wasm") return tf.gather(x, tf.tensor1d(indices, "int32"), 1);
  const rest = x.shape.slice(2);
  const zeros = rest.map(() => 0);
  const slices = runs.map(([first, length]) =>
    tf.slice(x as tf.Tensor, [0, first, ...zeros], [x.shape[0]!, length, ...rest])
  );
  return (slices.length === 1 ? slices[0]! : tf.concat(slices, 1)) as T;
}

/** Neighbours that ascend by one, as [first, length]. */
function runsOf(indices: Int32Array): [first: number, length: number][] {
  const runs: [number, number][] = [];
  for (const index of indices) {
    const last = runs.at(-1);
    if (last && last[0] + last[1] === index) last[1]++;
    else runs.push([index, 1]);
  }
  return runs;
}

/** Whether TensorFlow has oneDNN's softmax; undefined until it is tried. */
let hasOneDnn: boolean | undefined;

/**
 * Softmax over the last axis. TensorFlow reaches oneDNN's, which is twice as fast as its other one, only when it optimises graphs: so
 * it is called by its name where it is there.
 */
export function softmax(x: tf.Tensor4D): tf.Tensor4D {
  if (tf.getBackend() !== "tensorflow") return tf.softmax(x);
  hasOneDnn ??= !(tf.backend() as unknown as { isUsingGpuDevice: boolean }).isUsingGpuDevice;
  if (!hasOneDnn) return tf.softmax(x);
  try {
    return executeNative(
      "_MklSoftmax",
      { T: "float32", _kernel: "MklNameChangeOp" },
      [x],
      1,
    )[0] as tf.Tensor4D;
  } catch {
    hasOneDnn = false; // switched off by TF_ENABLE_ONEDNN_OPTS=0
    return tf.softmax(x);
  }
}
