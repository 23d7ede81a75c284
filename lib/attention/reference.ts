/** Attention as it is written down: all scores at once, in plain operations of TensorFlow.js. The specification. */
import * as tf from "@tensorflow/tfjs";
import { tidied } from "./_tidied.ts";
import type { Attended, AttendOptions, Mask } from "./types.ts";

/** Added to dropped scores: finite, so that no difference is NaN, and far below any score. */
export const DROPPED = -1e30;

/**
 * `O_i = sum_j p_ij v_j` over the kept keys j of query i, with
 * `p_ij = exp(s_ij - LSE_i)`, `s_ij = scale q_i k_j`, `LSE_i = ln sum_j exp(s_ij)`.
 *
 * q [batch, heads, queries, dim], k and v [batch, heads, keys, dim]. A row without keys has O = 0, LSE = -inf. With an epilogue the
 * output is `rho_i O_i + residual_i`. Takes batch x heads x queries x keys numbers of memory, several times. Differentiable in all
 * inputs by TensorFlow.js itself. Inputs are not checked: see `attend`.
 */
export function attendReference(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  { mask, scale = 1 / Math.sqrt(q.shape[3]), lse = false, epilogue }: AttendOptions = {},
): Attended {
  return tidied(() => {
    const dense = mask ? denseMask(mask) : null;
    const scores = tf.mul(tf.matMul(q, k, false, true), scale);
    // Dropped scores are out of the maximum, and their exponentials out of the sum even in a row that has only those.
    const shown = dense ? tf.add(scores, tf.mul(tf.sub(1, dense.kept), DROPPED)) : scores;
    const largest = tf.max(shown, -1, true);
    const powers = tf.exp(tf.sub(shown, largest));
    const weights = dense ? tf.mul(powers, dense.kept) : powers;
    const sums = tf.sum(weights, -1, true);
    const divisors = dense ? tf.add(sums, dense.empty) : sums;
    const plain = tf.div(tf.matMul(weights, v), divisors) as tf.Tensor4D;
    return {
      output: epilogue ? applyEpilogue(plain, epilogue) : plain,
      lse: lse ? tf.squeeze<tf.Tensor3D>(tf.add(largest, tf.log(sums)), [-1]) : null,
    };
  });
}

/** `rho * O + residual`, [batch, heads, queries, dim]. */
export function applyEpilogue(
  output: tf.Tensor4D,
  { rho, residual }: NonNullable<AttendOptions["epilogue"]>,
): tf.Tensor4D {
  return tf.add(tf.mul(output, tf.expandDims(rho, -1)), residual);
}

/** Kept elements as ones [heads or 1, queries, keys], and rows without any as ones [heads or 1, queries, 1]. */
function denseMask(mask: Mask): { kept: tf.Tensor3D; empty: tf.Tensor3D } {
  const { queries, keys, heads } = mask;
  const count = heads ?? 1;
  const kept = new Float32Array(count * queries * keys);
  const empty = new Float32Array(count * queries);
  for (let row = 0; row < count * queries; row++) {
    const bounds = mask.intervals(row % queries, Math.floor(row / queries));
    if (bounds.length === 0) empty[row] = 1;
    for (let i = 0; i < bounds.length; i += 2) {
      kept.fill(1, row * keys + bounds[i]!, row * keys + bounds[i + 1]!);
    }
  }
  return { kept: tf.tensor3d(kept, [count, queries, keys]), empty: tf.tensor3d(empty, [count, queries, 1]) };
}
