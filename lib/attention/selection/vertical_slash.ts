/**
 * MInference's vertical-slash pattern (Jiang et al., NeurIPS 2024; https://github.com/microsoft/MInference): columns and diagonals that
 * a few queries look at most.
 */
import * as tf from "@tensorflow/tfjs";
import { pushInterval, unionOf } from "../_intervals.ts";
import { product } from "../_products.ts";
import { contentHash, requireSizes } from "../_sizes.ts";
import { maskOfRows } from "../masks.ts";
import type { Mask } from "../types.ts";
import { requireTensors } from "./_inputs.ts";
import { keepLargest } from "./_rank.ts";
import { read, withoutLaterKeys } from "./blocks.ts";
import type { Selection } from "./selection.ts";

/** Settings of {@link verticalSlash}. */
export interface VerticalSlashSettings {
  /** Columns to keep, at least `firstColumns`. Default 1000. */
  readonly vertical?: number;
  /** Diagonals to keep. Default 6096; all of them if there are fewer. */
  readonly slash?: number;
  /** How many queries are looked at: the last ones if causal, else evenly spread. Default 64. */
  readonly sampled?: number;
  /** Columns at the start that are always kept. Default 30. */
  readonly firstColumns?: number;
  /** The diagonals nearest to the main one that are always kept. Default 100. */
  readonly nearDiagonals?: number;
  /**
   * As published for language models: without keys after the query, diagonals of distance query - key >= 0. Default false, for models
   * that see both ways: any distance.
   */
  readonly causal?: boolean;
}

/** What a head keeps. */
export interface VerticalSlashHead {
  /** Kept columns, ascending. */
  readonly columns: Int32Array;
  /** Kept diagonals by their distance query - key, descending. */
  readonly distances: Int32Array;
  /** Attention mass of every column, of the sampled queries together. */
  readonly columnScores: Float32Array;
  /** The same of every diagonal: distances 0 to tokens - 1, or if not causal -(tokens - 1) to tokens - 1. */
  readonly distanceScores: Float32Array;
}

/** For each block of 64 queries: starts of its blocks of 64 keys, not on a grid, and single columns besides. */
export interface VerticalSlashBlocks {
  readonly blocks: Int32Array[];
  readonly columns: Int32Array[];
}

/** A selection of columns and diagonals. */
export interface VerticalSlashSelection extends Selection {
  readonly heads: readonly VerticalSlashHead[];
  readonly converted: readonly VerticalSlashBlocks[];
}

const BLOCK = 64;

/**
 * Ranks columns and diagonals by the attention of a few sampled queries, `P = softmax(q k / sqrt(dim))`: their sums over queries. The
 * top ones are kept, as blocks of 64 x 64 along each diagonal and single columns. q and k [batch, heads, tokens, dim].
 *
 * @throws {TypeError} on tensors of other shapes
 * @throws {RangeError} on settings out of range
 */
export async function verticalSlash(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  settings: VerticalSlashSettings = {},
): Promise<VerticalSlashSelection> {
  const {
    vertical = 1000,
    slash = 6096,
    sampled = 64,
    firstColumns = 30,
    nearDiagonals = 100,
    causal = false,
  } = settings;
  const what = "select columns and diagonals";
  const { batch, heads, tokens, dim } = requireTensors(what, { q, k });
  requireSizes(what, { vertical, slash, sampled });
  requireSizes(what, { firstColumns, nearDiagonals }, 0);
  const queries = sampledQueries(tokens, Math.min(sampled, tokens), causal);
  const chosen: VerticalSlashHead[] = [];
  for (let head = 0; head < batch * heads; head++) {
    const scores = sumScores(await attentionOf(q, k, head, queries, dim, causal), queries, tokens, causal);
    const columns = largest(scores.columns, vertical, (column) => column < firstColumns);
    // Near: 0, 1, ... if causal, else 0, 1, -1, 2, ... The main diagonal lies at index `zero`.
    const zero = causal ? 0 : tokens - 1;
    const rank = (index: number) => causal ? index : Math.abs(2 * (index - zero) - 0.5) - 0.5;
    const diagonals = largest(scores.distances, slash, (index) => rank(index) < nearDiagonals);
    chosen.push({
      columns,
      distances: diagonals.reverse().map((index) => index - zero),
      columnScores: scores.columns,
      distanceScores: scores.distances,
    });
  }
  const converted = chosen.map((head) => convertVerticalSlash(head, tokens, causal));
  const mask = convertedMask(`vertical-slash(${vertical}, ${slash}`, converted, tokens);
  return { mask: causal ? withoutLaterKeys(mask) : mask, layout: null, heads: chosen, converted };
}

/** The last queries, or evenly spread ones. */
function sampledQueries(tokens: number, count: number, causal: boolean): Int32Array {
  const from = (index: number) =>
    causal ? tokens - count + index : Math.floor((index + 0.5) * tokens / count);
  return Int32Array.from({ length: count }, (_, index) => from(index));
}

/** softmax(q k / sqrt(dim)) of the sampled queries of one head, [queries, tokens]; if causal 0 after each query. */
function attentionOf(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  head: number,
  queries: Int32Array,
  dim: number,
  causal: boolean,
): Promise<Float32Array> {
  return read(tf.tidy(() => {
    const [batch, heads, tokens] = q.shape;
    const one = (x: tf.Tensor4D): tf.Tensor4D =>
      tf.slice<tf.Rank.R4, tf.Tensor4D>(tf.reshape(x, [1, batch * heads, tokens, dim]), [0, head, 0, 0], [
        1,
        1,
        tokens,
        dim,
      ]);
    const some = tf.gather(one(q), tf.tensor1d(queries, "int32"), 2);
    const scores = tf.reshape(
      tf.mul(product(some, one(k), true), 1 / Math.sqrt(dim)),
      [queries.length, tokens],
    );
    if (!causal) return tf.softmax(scores);
    const after = tf.greater(
      tf.range(0, tokens),
      tf.tensor2d(Float32Array.from(queries), [queries.length, 1]),
    );
    return tf.softmax(tf.where(after, tf.fill(scores.shape, -1e30), scores));
  }));
}

/** Attention mass by column and by diagonal. */
function sumScores(attention: Float32Array, queries: Int32Array, tokens: number, causal: boolean) {
  const columns = new Float64Array(tokens);
  const distances = new Float64Array(causal ? tokens : 2 * tokens - 1);
  for (const [row, query] of queries.entries()) {
    const zero = causal ? query : query + tokens - 1;
    const seen = causal ? query + 1 : tokens;
    for (let key = 0; key < seen; key++) {
      const share = attention[row * tokens + key]!;
      columns[key]! += share;
      distances[zero - key]! += share;
    }
  }
  return { columns: Float32Array.from(columns), distances: Float32Array.from(distances) };
}

/** The indices of the `count` largest scores, ascending; those that are `forced` come first of all and are never left out. */
function largest(scores: Float32Array, count: number, forced: (index: number) => boolean): Int32Array {
  let least = 0;
  const ranked = scores.map((score, index) => {
    if (!forced(index)) return score;
    least++;
    return Infinity;
  });
  const kept = new Uint8Array(scores.length);
  keepLargest(ranked, Math.max(count, least), kept);
  return Int32Array.from(kept.keys()).filter((index) => kept[index] === 1);
}

/**
 * What the official kernel makes of columns and diagonals, for blocks of 64 queries. A diagonal asks for the 64 keys that the last query
 * of a block and those before it have on it, moved inside if they begin before the first key; going through diagonals from far to near,
 * the last run of keys grows by exactly 64 where the next one ends at most 64 beyond it, else a new one starts. Columns inside of a run
 * are dropped, and if causal those not before the end of the last run.
 */
export function convertVerticalSlash(
  { columns, distances }: Pick<VerticalSlashHead, "columns" | "distances">,
  tokens: number,
  causal: boolean,
): VerticalSlashBlocks {
  const converted: VerticalSlashBlocks = { blocks: [], columns: [] };
  const last = Math.ceil(tokens / BLOCK) * BLOCK;
  for (let end = BLOCK; end <= last; end += BLOCK) {
    const runs: [number, number][] = [];
    for (const distance of distances) {
      if (end - distance <= 0 || end - distance - BLOCK >= tokens) continue;
      const to = Math.min(Math.max(end - distance, BLOCK), last);
      const run = runs.at(-1);
      if (!run || to > run[1] + BLOCK) runs.push([to - BLOCK, to]);
      else if (to > run[1]) run[1] += BLOCK;
    }
    const starts = runs.flatMap(([from, to]) =>
      Array.from({ length: (to - from) / BLOCK }, (_, index) => from + index * BLOCK)
    );
    const most = causal ? runs.at(-1)?.[1] ?? end : tokens;
    converted.blocks.push(Int32Array.from(starts));
    converted.columns.push(
      columns.filter((column) => column < most && !runs.some(([from, to]) => from <= column && column < to)),
    );
  }
  return converted;
}

/** The mask of converted heads, `label` open for what tells its content. */
function convertedMask(label: string, converted: readonly VerticalSlashBlocks[], tokens: number): Mask {
  const rows = converted.flatMap(({ blocks, columns }) =>
    blocks.map((starts, row) =>
      unionOf(intervals(starts, BLOCK, tokens), intervals(columns[row]!, 1, tokens))
    )
  );
  const bytes = new Uint8Array(Int32Array.from(rows.flatMap((bounds) => [bounds.length, ...bounds])).buffer);
  const heads = converted.length === 1 ? null : converted.length;
  const perHead = rows.length / converted.length;
  return maskOfRows(
    { label: `${label}, ${contentHash(bytes)})`, queries: tokens, keys: tokens, heads },
    (query, head) => rows[(heads === null ? 0 : head * perHead) + Math.floor(query / BLOCK)]!,
  );
}

/** Runs of `length` tokens from ascending starts, as far as there are tokens. */
function intervals(starts: Int32Array, length: number, tokens: number): Int32Array {
  const bounds: number[] = [];
  for (const start of starts) pushInterval(bounds, start, Math.min(tokens, start + length));
  return Int32Array.from(bounds);
}
