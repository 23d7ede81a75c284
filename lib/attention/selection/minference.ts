/**
 * MInference (Jiang et al., NeurIPS 2024; https://github.com/microsoft/MInference): the blocks whose mean query and mean key agree
 * most. Its other pattern is in vertical_slash.ts.
 */
import * as tf from "@tensorflow/tfjs";
import { requireSizes } from "../_sizes.ts";
import { requireOneOf, requireTensors } from "./_inputs.ts";
import {
  blockMapMask,
  type BlockSelection,
  meanProducts,
  poolMean,
  read,
  requireRule,
  ruleLabel,
  selectBlocks,
} from "./blocks.ts";

/** Settings of {@link minferenceBlocks}. */
export type MinferenceBlocksSettings = ({ readonly top: number } | { readonly keep: number }) & {
  /** Tokens of a block. Default 64. */
  readonly block?: number;
  /**
   * What a partial last block is divided by: its number of tokens (default), or the size of a block, as the official code does, which
   * makes it look less like any other.
   */
  readonly pooling?: "true_mean" | "zero_padded_mean";
  /** Without keys after the query, as in the language models that it was made for. Default false. */
  readonly causal?: boolean;
};

/**
 * The top blocks of each row of blocks by mean q . mean k, without scale or softmax. q and k [batch, heads, tokens, dim].
 *
 * The official code puts one more block, of zeros, behind a length that is a multiple of the block; here it has none.
 *
 * @throws {TypeError} on tensors of other shapes
 * @throws {RangeError} on settings out of range
 */
export async function minferenceBlocks(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  { block = 64, pooling = "true_mean", causal = false, ...rule }: MinferenceBlocksSettings,
): Promise<BlockSelection> {
  const what = "select MInference blocks";
  const { batch, heads, tokens } = requireTensors(what, { q, k });
  requireSizes(what, { block });
  requireOneOf(what, "pooling", pooling, ["true_mean", "zero_padded_mean"]);
  requireRule(what, rule);
  const divisor = pooling === "true_mean" ? "count" : "block";
  const scores = await read(
    tf.tidy(() => meanProducts(poolMean(q, block, divisor), poolMean(k, block, divisor))),
  );
  const rows = Math.ceil(tokens / block);
  if (causal) {
    for (const index of scores.keys()) {
      if (index % rows > Math.floor(index / rows) % rows) scores[index] = -Infinity;
    }
  }
  const grid = { heads: batch * heads, queries: tokens, keys: tokens, blockQueries: block, blockKeys: block };
  const blocks = selectBlocks(grid, scores, rule);
  const mask = blockMapMask(`MInference ${ruleLabel(rule)}, ${pooling}: blocks`, blocks, {
    causal,
  });
  return { mask, layout: null, blocks, scores };
}
