/**
 * SpargeAttn (Zhang et al., ICML 2025; https://github.com/thu-ml/SpargeAttn): the blocks that hold most of a pooled softmax, where
 * pooling is trusted only for blocks of similar tokens.
 */
import * as tf from "@tensorflow/tfjs";
import { requireSizes } from "../_sizes.ts";
import { requireOneOf, requireShares, requireTensors } from "./_inputs.ts";
import { keepLargest, keepMass } from "./_rank.ts";
import { blockMapMask, type BlockSelection, meanProducts, poolMean, read } from "./blocks.ts";

/** Settings of {@link spargeAttention}. */
export type SpargeAttentionSettings =
  & ({ readonly mass: number } | { readonly keep: number })
  & {
    /** Queries of a block. Default 128. */
    readonly blockQueries?: number;
    /** Keys of a block. Default 64. */
    readonly blockKeys?: number;
    /** Blocks whose self-similarity is not above this are not pooled. Default 0.1. */
    readonly similarity?: number;
    /**
     * What `mass` means. `official` (default): blocks that together do not exceed it, at least one; `inclusive`: as many as it takes
     * to reach it.
     */
    readonly rule?: "official" | "inclusive";
    /**
     * Partial last blocks. `ignore_padding` (default): ranked by the tokens that they have; `unsafe`: never pooled, as in the official
     * code, where zeros behind the last token have no direction.
     */
    readonly partialBlocks?: "ignore_padding" | "unsafe";
    /** Whether the first block of keys is always kept. Default false. */
    readonly sink?: boolean;
  };

/** A selection, with the self-similarity of blocks of queries and keys, [batch x heads, blocks]. */
export interface SpargeAttentionSelection extends BlockSelection {
  readonly similarQueries: Float32Array;
  readonly similarKeys: Float32Array;
}

/**
 * Keeps the blocks of keys that hold the share `mass` of softmax(mean q . mean k / sqrt(dim)), or the share `keep` of all (rounded
 * down, at least one). The self-similarity of a block is the mean cosine of all pairs of its tokens; dissimilar blocks of keys leave the
 * softmax and are always kept, dissimilar blocks of queries keep everything. q and k [batch, heads, tokens, dim].
 *
 * @throws {TypeError} on tensors of other shapes
 * @throws {RangeError} on settings out of range
 */
export async function spargeAttention(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  settings: SpargeAttentionSettings,
): Promise<SpargeAttentionSelection> {
  const {
    blockQueries = 128,
    blockKeys = 64,
    similarity = 0.1,
    rule = "official",
    partialBlocks = "ignore_padding",
    sink = false,
  } = settings;
  const what = "select SpargeAttn blocks";
  const { batch, heads, tokens, dim } = requireTensors(what, { q, k });
  requireSizes(what, { blockQueries, blockKeys });
  requireOneOf(what, "rule", rule, ["official", "inclusive"]);
  requireOneOf(what, "partialBlocks", partialBlocks, ["ignore_padding", "unsafe"]);
  requireShares(what, "mass" in settings ? { mass: settings.mass } : { keep: settings.keep });
  if (!Number.isFinite(similarity)) {
    throw new RangeError(
      `Cannot ${what} as 'similarity' must be finite: current similarity is ${similarity}`,
    );
  }

  const similarQueries = await selfSimilarity(q, blockQueries);
  const similarKeys = await selfSimilarity(k, blockKeys);
  const pooled = await read(tf.tidy(() => {
    const scores = meanProducts(poolMean(q, blockQueries), poolMean(k, blockKeys));
    return tf.mul(scores, 1 / Math.sqrt(dim));
  }));
  const grid = { heads: batch * heads, queries: tokens, keys: tokens, blockQueries, blockKeys };
  const [rows, columns] = [Math.ceil(tokens / blockQueries), Math.ceil(tokens / blockKeys)];
  const safe = (similarities: Float32Array, index: number, blocks: number, block: number) =>
    similarities[index]! > similarity &&
    !(partialBlocks === "unsafe" && tokens % block !== 0 && index % blocks === blocks - 1);

  const kept = new Uint8Array(pooled.length);
  const scores = new Float32Array(pooled.length);
  for (let row = 0; row < grid.heads * rows; row++) {
    const [from, firstKey] = [row * columns, Math.floor(row / rows) * columns];
    const safeKeys = Array.from(
      { length: columns },
      (_, column) => safe(similarKeys, firstKey + column, columns, blockKeys),
    );
    const shares = softmax(pooled.subarray(from, from + columns), safeKeys);
    scores.set(shares, from);
    const keptRow = kept.subarray(from, from + columns);
    if ("keep" in settings) keepLargest(shares, Math.max(1, Math.floor(settings.keep * columns)), keptRow);
    else keepMass(shares, settings.mass, rule === "official" ? "below" : "reach", keptRow);
    const all = !safe(similarQueries, row, rows, blockQueries);
    for (const [column, isSafe] of safeKeys.entries()) if (all || !isSafe) keptRow[column] = 1;
    if (sink) keptRow[0] = 1;
  }
  const blocks = { ...grid, kept };
  const share = "mass" in settings ? `${rule} mass ${settings.mass}` : `keep ${settings.keep}`;
  const mask = blockMapMask(`SpargeAttn ${share}: blocks`, blocks);
  return { mask, layout: null, blocks, scores, similarQueries, similarKeys };
}

/** The mean cosine of all pairs of tokens of each block, |mean of u|^2 with u = x / |x|: [batch x heads, blocks]. */
function selfSimilarity(x: tf.Tensor4D, block: number): Promise<Float32Array> {
  return read(tf.tidy(() => {
    const lengths = tf.sqrt(tf.sum(tf.square(x), -1, true));
    // A token of zeros has no direction, and is like no other.
    const directions = tf.div(x, tf.maximum(lengths, 1e-30)) as tf.Tensor4D;
    return tf.sum(tf.square(poolMean(directions, block)), -1);
  }));
}

/** softmax over the marked scores; 0 elsewhere. */
function softmax(scores: Float32Array, marked: readonly boolean[]): Float32Array {
  const most = scores.reduce(
    (largest, score, index) => marked[index] ? Math.max(largest, score) : largest,
    -Infinity,
  );
  const powers = Array.from(scores, (score, index) => marked[index] ? Math.exp(score - most) : 0);
  const sum = powers.reduce((a, b) => a + b, 0);
  return Float32Array.from(powers, (power) => sum > 0 ? power / sum : 0);
}
