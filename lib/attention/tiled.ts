/**
 * Attention by tiles, in batched products of TensorFlow.js: only the touched tiles are computed, some at a time, so that memory grows with
 * the tokens and not with their square. On any backend, forward and backward.
 */
import * as tf from "@tensorflow/tfjs";
import type { KernelOptions } from "./_kernels.ts";
import { product, softmax } from "./_products.ts";
import { blocked, type Drop, sweep, unblocked } from "./_sweep.ts";
import { tidied } from "./_tidied.ts";
import { type Plan, planByKeys, planByQueries, planDense } from "./_tile_plan.ts";
import { applyEpilogue, DROPPED } from "./reference.ts";
import type { Attended, TileList } from "./types.ts";

/** The tile lists that suit batched products. */
export const tilesTile: { readonly queries: number; readonly keys: number } = { queries: 64, keys: 64 };

/** What `attendReference` computes, of inputs that are checked. */
export function attendTiles(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  { tiles, scale, rho, residual, lse }: KernelOptions,
): Attended {
  return tidied(() => {
    const outer = outerOf(q, tiles), dim = q.shape[3];
    const plan = queryPlan(tiles, outer, q.shape[2], k.shape[2]);
    const [keys, values] = [k, v].map((x) => blocked(x, plan.width, outer)) as [tf.Tensor4D, tf.Tensor4D];
    const [output, sums] = sweep(
      plan,
      [blocked(tf.mul(q, scale), plan.height, outer)],
      [keys, values],
      [{ dim, value: 0 }, ...lse ? [{ dim: 1, value: -Infinity }] : []],
      ([queries], [keys, values], drop) => {
        const scores = shown(keys!.crossed(queries!), drop);
        const weights = softmax(scores);
        const output = product(weights, values!.x);
        if (!lse && !drop?.empties) return [output];
        const largest = tf.max<tf.Tensor4D>(scores, -1, true);
        const some = drop?.empties ? tf.greater(largest, DROPPED / 2) : null;
        const found = [some ? tf.mul<tf.Tensor4D>(output, tf.cast(some, "float32")) : output];
        if (lse) {
          // The weight of the largest score is 1 / sum(exp(scores - largest)).
          const sums = tf.sub<tf.Tensor4D>(largest, tf.log(tf.max(weights, -1, true)));
          const none = () => tf.fill<tf.Rank.R4>(sums.shape, -Infinity);
          found.push(some ? tf.where<tf.Tensor4D>(some, sums, none()) : sums);
        }
        return found;
      },
    );
    const plain = unblocked(output!, q.shape);
    return {
      output: rho && residual ? applyEpilogue(plain, { rho, residual }) : plain,
      lse: lse
        ? tf.reshape(unblocked(sums!, q.shape), q.shape.slice(0, 3) as [number, number, number])
        : null,
    };
  });
}

/** What the gradients are made from: the inputs and results of attention. */
export interface Attention {
  readonly q: tf.Tensor4D;
  readonly k: tf.Tensor4D;
  readonly v: tf.Tensor4D;
  readonly output: tf.Tensor4D;
  readonly lse: tf.Tensor3D;
}

/**
 * The gradients of a loss with respect to q, k and v, from that with respect to the output, dO: with `P = exp(s - LSE)`,
 * `dV = P^T dO`, `dS = P (dO V^T - delta)`, `delta = sum(dO O)`, `dQ = scale dS K`, `dK = scale dS^T Q`
 * (Dao et al., "FlashAttention", arXiv 2205.14135, algorithm 4). Computes the scores anew, once by rows of queries for dQ and once by rows
 * of keys for dK and dV, of which each is then complete.
 */
export function attendTilesGradients(
  { q, k, v, output, lse }: Attention,
  gradient: tf.Tensor4D,
  { tiles, scale }: Pick<KernelOptions, "tiles" | "scale">,
): [dq: tf.Tensor4D, dk: tf.Tensor4D, dv: tf.Tensor4D] {
  return tf.tidy(() => {
    const outer = outerOf(q, tiles), missing = { dim: q.shape[3], value: 0 };
    // Rows without keys have only dropped scores, whose exponentials must be 0.
    const some = tf.greater(lse, DROPPED);
    const sums = tf.expandDims<tf.Tensor4D>(tf.where(some, lse, tf.zerosLike(lse)), -1);
    const deltas = tf.sum<tf.Tensor4D>(tf.mul(gradient, output), -1, true);
    const byQueries = [tf.mul<tf.Tensor4D>(q, scale), gradient, sums, deltas];

    const rows = queryPlan(tiles, outer, q.shape[2], k.shape[2]);
    const [dq] = sweep(
      rows,
      byQueries.map((x) => blocked(x, rows.height, outer)),
      [k, v].map((x) => blocked(x, rows.width, outer)),
      [missing],
      ([queries, gradients, sums, deltas], [keys, values], drop) => {
        const weights = tf.exp(tf.sub(shown(keys!.crossed(queries!), drop), sums!));
        return [product(tf.mul(weights, tf.sub(values!.crossed(gradients!), deltas!)), keys!.x)];
      },
    );
    const columns = keyPlan(tiles, outer, q.shape[2], k.shape[2]);
    const [dk, dv] = sweep(
      columns,
      [k, v].map((x) => blocked(x, columns.height, outer)),
      byQueries.map((x) => blocked(x, columns.width, outer)),
      [missing, missing],
      ([keys, values], [queries, gradients, sums, deltas], drop) => {
        const weights = tf.exp<tf.Tensor4D>(tf.sub(shown(queries!.crossed(keys!), drop), asRow(sums!.x)));
        const slopes = tf.mul<tf.Tensor4D>(
          weights,
          tf.sub(gradients!.crossed(values!), asRow(deltas!.x)),
        );
        return [product(slopes, queries!.x), product(weights, gradients!.x)];
      },
    );
    return [
      tf.mul(unblocked(dq!, q.shape), scale),
      unblocked(dk!, k.shape),
      unblocked(dv!, v.shape),
    ];
  });
}

const shown = (scores: tf.Tensor4D, drop: Drop | null): tf.Tensor4D =>
  drop ? tf.add(scores, drop.values) : scores;

/** [outer, rows, n, 1] -> [outer, rows, 1, n]. */
const asRow = (x: tf.Tensor4D): tf.Tensor4D => tf.reshape(x, [x.shape[0], x.shape[1], 1, x.shape[2]]);

/** Matrices of scores that share their mask, and so their tiles. */
const outerOf = ({ shape: [batch, heads] }: tf.Tensor4D, tiles: TileList | null): number =>
  tiles && tiles.heads !== null ? batch : batch * heads;

type Plans = WeakMap<TileList, Map<number, Plan>>;

const queryPlans: Plans = new WeakMap();
const keyPlans: Plans = new WeakMap();

function queryPlan(tiles: TileList | null, outer: number, queries: number, keys: number): Plan {
  return tiles ? remembered(queryPlans, tiles, outer, planByQueries) : planDense(queries, keys);
}

function keyPlan(tiles: TileList | null, outer: number, queries: number, keys: number): Plan {
  return tiles ? remembered(keyPlans, tiles, outer, planByKeys) : planDense(keys, queries);
}

function remembered(
  plans: Plans,
  tiles: TileList,
  outer: number,
  make: (tiles: TileList, outer: number) => Plan,
): Plan {
  const known = plans.get(tiles) ?? new Map<number, Plan>();
  plans.set(tiles, known);
  const plan = known.get(outer) ?? make(tiles, outer);
  known.set(outer, plan);
  return plan;
}
