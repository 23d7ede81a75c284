/** Going over all scores of a plan, part by part. */
import * as tf from "@tensorflow/tfjs";
import { product, swapped, take } from "./_products.ts";
import { mostScores, type Part, type Plan } from "./_tile_plan.ts";

/** A tensor on the other side of the scores: what a part sees of it, [outer, rows, n, d]. */
export interface Seen {
  readonly x: tf.Tensor4D;
  /** `a x^T`. */
  crossed(a: tf.Tensor4D): tf.Tensor4D;
}

/** What to add to a part's scores, [1, rows, height or 1, n]; whether whole rows of them are dropped. */
export interface Drop {
  readonly values: tf.Tensor4D;
  readonly empties: boolean;
}

/** The size of the last axis of a result, and its value where nothing is seen. */
export interface Missing {
  readonly dim: number;
  readonly value: number;
}

/** Computes one part: its own blocks [outer, rows, height, d], and those it sees. */
export type Compute = (own: tf.Tensor4D[], seen: Seen[], drop: Drop | null) => tf.Tensor4D[];

/** [batch, heads, tokens, d] -> [outer, blocks, size, d], with zeros after the last token; outer: batch x heads, or batch. */
export function blocked(x: tf.Tensor4D, size: number, outer: number): tf.Tensor4D {
  const [batch, heads, tokens, dim] = x.shape;
  const blocks = Math.ceil(tokens / size);
  const whole = blocks * size === tokens
    ? x
    : tf.pad(x, [[0, 0], [0, 0], [0, blocks * size - tokens], [0, 0]]);
  return tf.reshape(whole, [outer, batch * heads / outer * blocks, size, dim]);
}

/** The inverse of {@linkcode blocked}. */
export function unblocked(
  x: tf.Tensor4D,
  [batch, heads, tokens]: readonly [number, number, number, ...number[]],
): tf.Tensor4D {
  const dim = x.shape[3];
  const padded = x.size / (batch * heads * dim);
  const whole = tf.reshape<tf.Rank.R4>(x, [batch, heads, padded, dim]);
  return padded === tokens ? whole : tf.slice(whole, [0, 0, 0, 0], [batch, heads, tokens, dim]);
}

/**
 * Computes every part of `plan` from the tensors `own` and `other`, both {@linkcode blocked}, and puts the results together as [outer,
 * rows of tiles, height, d]. Rows of tiles that see nothing get `missing`, stated for each result.
 */
export function sweep(
  plan: Plan,
  own: readonly tf.Tensor4D[],
  other: readonly tf.Tensor4D[],
  missing: readonly Missing[],
  compute: Compute,
): tf.Tensor4D[] {
  return tf.tidy(() => {
    const outer = own[0]!.shape[0];
    const whole = plan.parts.some(({ others }) => others === null) ? other.map(swapped) : null;
    const parts = plan.parts.map((part) =>
      joined(
        slicesOf(outer, plan, part).map((range) =>
          tf.tidy(() => {
            const cut = (x: tf.Tensor4D) => cutOuter(x, outer, range);
            const seen = other.map((x, i) => see(part, cut(x), whole ? cut(whole[i]!) : null));
            return compute(own.map((x) => take(cut(x), part.rows)), seen, dropOf(part, plan));
          })
        ),
        0,
      )
    );
    return inOrder(plan, parts, missing, outer);
  });
}

/** Ranges of the outer axis, so that a part's scores stay few. */
function slicesOf(
  outer: number,
  { height, width }: Plan,
  { rows, count }: Part,
): [from: number, size: number][] {
  const size = Math.min(
    outer,
    Math.max(1, Math.floor(mostScores / (rows.length * height * width * count))),
  );
  const starts = Array.from({ length: Math.ceil(outer / size) }, (_, i) => i * size);
  return starts.map((from) => [from, Math.min(size, outer - from)]);
}

function cutOuter(x: tf.Tensor4D, outer: number, [from, size]: [number, number]): tf.Tensor4D {
  if (size === outer) return x;
  const [, blocks, height, dim] = x.shape;
  return tf.slice(x, [from, 0, 0, 0], [size, blocks, height, dim]);
}

function see({ rows, others, count }: Part, x: tf.Tensor4D, transposed: tf.Tensor4D | null): Seen {
  if (others === null) return { x, crossed: (a) => product(a, transposed!) };
  const [outer, , width, dim] = x.shape;
  const seen = tf.reshape<tf.Rank.R4>(take(x, others), [outer, rows.length, count * width, dim]);
  return { x: seen, crossed: (a) => product(a, seen, true) };
}

function dropOf(part: Part, { width }: Plan): Drop | null {
  const bias = part.bias();
  if (bias === null) return null;
  const values = tf.tensor4d(bias.values, [1, part.rows.length, bias.height, part.count * width]);
  return { values, empties: bias.empties };
}

/** Joins lists of tensors, first with first and so on, along an axis; frees them. */
function joined(lists: tf.Tensor4D[][], axis: number): tf.Tensor4D[] {
  if (lists.length === 1) return lists[0]!;
  return lists[0]!.map((_, i) => {
    const members = lists.map((list) => list[i]!);
    const whole = tf.concat(members, axis);
    tf.dispose(members);
    return whole;
  });
}

function inOrder(
  { parts, rows, height }: Plan,
  results: tf.Tensor4D[][],
  missing: readonly Missing[],
  outer: number,
): tf.Tensor4D[] {
  const order = parts.flatMap(({ rows }) => [...rows]);
  const place = new Int32Array(rows).fill(order.length);
  order.forEach((row, at) => place[row] = at);
  const lists = [...results];
  if (order.length < rows) {
    lists.push(missing.map(({ dim, value }) => tf.fill([outer, 1, height, dim], value)));
  }
  return joined(lists, 1).map((whole) => {
    const ordered = take(whole, place);
    if (ordered !== whole) whole.dispose();
    return ordered;
  });
}
