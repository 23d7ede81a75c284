/** Blocks of queries x keys: pooled scores, which blocks to keep, the mask that they are. */
import * as tf from "@tensorflow/tfjs";
import { product } from "../_products.ts";
import { requireSizes } from "../_sizes.ts";
import { blockMask, maskOfRows } from "../masks.ts";
import type { Mask } from "../types.ts";
import { requireOneOf, requireShares, requireTensors } from "./_inputs.ts";
import { keepLargest, keepMass, type MassRule } from "./_rank.ts";
import type { Selection } from "./selection.ts";

export type { MassRule } from "./_rank.ts";

/** A grid of blocks over queries x keys, one for each head. Blocks at the end may be partial. */
export interface BlockGrid {
  /** Grids, one after another: batch x heads, or 1 where one serves all. */
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  readonly blockQueries: number;
  readonly blockKeys: number;
}

/** Which blocks of a grid are kept. */
export interface BlockMap extends BlockGrid {
  /** 1 where kept: [heads, ceil(queries / blockQueries), ceil(keys / blockKeys)]. */
  readonly kept: Uint8Array;
}

/** A selection of whole blocks, and what it was made from. */
export interface BlockSelection extends Selection {
  readonly blocks: BlockMap;
  /** What blocks were ranked by, like `blocks.kept`. */
  readonly scores: Float32Array;
}

/** How many blocks of each row of blocks to keep: a number, a share of them (rounded, at least one), or a share of mass. */
export type BlockRule =
  | { readonly top: number }
  | { readonly keep: number }
  | { readonly mass: number; readonly rule?: MassRule };

/** Settings of {@link topBlocks}. */
export type TopBlocksSettings = BlockRule & {
  /** Tokens of a block, queries and keys. Default 64. */
  readonly block?: number;
};

/**
 * The blocks where softmax(mean q . mean k / sqrt(dim)) over key blocks is largest: the top k of each row of blocks, or
 * as many as hold a share of the mass (top p). q and k [batch, heads, tokens, dim].
 *
 * @throws {TypeError} on tensors of other shapes
 * @throws {RangeError} on settings out of range
 */
export async function topBlocks(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  { block = 64, ...rule }: TopBlocksSettings,
): Promise<BlockSelection> {
  const what = "select top blocks";
  const { batch, heads, tokens, dim } = requireTensors(what, { q, k });
  requireSizes(what, { block });
  requireRule(what, rule);
  const pooled = tf.tidy(() => {
    const scores = meanProducts(poolMean(q, block), poolMean(k, block));
    return tf.softmax(tf.mul(scores, 1 / Math.sqrt(dim)));
  });
  const scores = await read(pooled);
  const grid = { heads: batch * heads, queries: tokens, keys: tokens, blockQueries: block, blockKeys: block };
  const blocks = selectBlocks(grid, scores, rule);
  const mask = blockMapMask(`${ruleLabel(rule)}: blocks`, blocks);
  return { mask, layout: null, blocks, scores };
}

/** Rows and columns of a grid. */
export function gridSize({ queries, keys, blockQueries, blockKeys }: BlockGrid): [number, number] {
  return [Math.ceil(queries / blockQueries), Math.ceil(keys / blockKeys)];
}

/** @throws {RangeError} on a rule out of range */
export function requireRule(what: string, rule: BlockRule): void {
  if ("top" in rule) return requireSizes(what, { top: rule.top });
  if ("keep" in rule) return requireShares(what, { keep: rule.keep });
  requireShares(what, { mass: rule.mass });
  if (rule.rule !== undefined) requireOneOf(what, "rule", rule.rule, ["reach", "below"]);
}

/** A rule in a label. */
export function ruleLabel(rule: BlockRule): string {
  if ("top" in rule) return `top ${rule.top}`;
  return "keep" in rule ? `keep ${rule.keep}` : `mass ${rule.mass}${rule.rule === "below" ? " below" : ""}`;
}

/** Applies `rule` to each row of scores [heads, rows, columns]; -Infinity is never kept. */
export function selectBlocks(grid: BlockGrid, scores: Float32Array, rule: BlockRule): BlockMap {
  const [rows, columns] = gridSize(grid);
  const kept = new Uint8Array(grid.heads * rows * columns);
  const count = "keep" in rule ? Math.max(1, Math.round(rule.keep * columns)) : "top" in rule ? rule.top : 0;
  for (let from = 0; from < kept.length; from += columns) {
    const row = scores.subarray(from, from + columns);
    const keptRow = kept.subarray(from, from + columns);
    if ("mass" in rule) keepMass(row, rule.mass, rule.rule ?? "reach", keptRow);
    else keepLargest(row, count, keptRow);
  }
  return { ...grid, kept };
}

/** The mask of kept blocks, `name` in its label. `causal`: without keys after the query. A single grid serves any head. */
export function blockMapMask(
  name: string,
  { kept, heads, ...grid }: BlockMap,
  { causal = false } = {},
): Mask {
  const mask = blockMask({ ...grid, heads: heads === 1 ? null : heads, blocks: kept, name });
  return causal ? withoutLaterKeys(mask) : mask;
}

/** What `mask` keeps of keys up to each query. */
export function withoutLaterKeys(mask: Mask): Mask {
  return maskOfRows({ ...mask, label: `causal ${mask.label}` }, (query, head) => {
    const bounds = mask.intervals(query, head);
    let length = bounds.length;
    while (length > 0 && bounds[length - 2]! > query) length -= 2;
    const cut = bounds.slice(0, length);
    if (length > 0) cut[length - 1] = Math.min(cut[length - 1]!, query + 1);
    return cut;
  });
}

/**
 * The mean over each block of tokens, [batch x heads, blocks, dim]. A partial block at the end is divided by its own
 * number of tokens, or by `block` as if zeros followed.
 */
export function poolMean(x: tf.Tensor4D, block: number, divisor: "count" | "block" = "count"): tf.Tensor3D {
  const tokens = x.shape[2];
  return tf.tidy(() => {
    const sums = tf.sum(intoBlocks(x, block), 2);
    const blocks = sums.shape[1]!;
    const counts = new Float32Array(blocks).fill(block);
    if (divisor === "count") counts[blocks - 1] = tokens - (blocks - 1) * block;
    return tf.div(sums, tf.tensor3d(counts, [1, blocks, 1]));
  });
}

/** Mean q . mean k, [batch x heads, blocks of queries, blocks of keys]. */
export function meanProducts(q: tf.Tensor3D, k: tf.Tensor3D): tf.Tensor3D {
  return tf.tidy(() => tf.squeeze(product(tf.expandDims(q), tf.expandDims(k), true), [0]));
}

/** [batch x heads, blocks, block, dim], zeros after the last token. */
export function intoBlocks(x: tf.Tensor4D, block: number): tf.Tensor4D {
  const [batch, heads, tokens, dim] = x.shape;
  const blocks = Math.ceil(tokens / block);
  const padding = blocks * block - tokens;
  const padded = padding ? tf.pad(x, [[0, 0], [0, 0], [0, padding], [0, 0]]) : x;
  return tf.reshape(padded, [batch * heads, blocks, block, dim]);
}

/** The values of a tensor, which is disposed. */
export async function read(tensor: tf.Tensor): Promise<Float32Array> {
  try {
    return await tensor.data() as Float32Array;
  } finally {
    tensor.dispose();
  }
}
