/**
 * XAttention (Xu et al., ICML 2025; https://github.com/mit-han-lab/x-attention): blocks ranked by the sums of every few of their
 * anti-diagonals.
 */
import * as tf from "@tensorflow/tfjs";
import { product, swapped } from "../_products.ts";
import { requireSizes } from "../_sizes.ts";
import { requireShares, requireTensors } from "./_inputs.ts";
import { keepMass } from "./_rank.ts";
import { blockMapMask, type BlockSelection, intoBlocks, read } from "./blocks.ts";

/** Settings of {@link xAttention}. */
export interface XAttentionSettings {
  /** The share of a row's sum that its blocks must reach. Default 0.9. */
  readonly mass?: number;
  /** Tokens of a block. Default 128. */
  readonly block?: number;
  /** Every `stride`-th anti-diagonal counts; divides `block`. Default 8. */
  readonly stride?: number;
  /**
   * Official: the first block of keys is kept in every row that drops any, as the index list of kept blocks is filled up with zeros.
   * Default false.
   */
  readonly filler?: boolean;
  /**
   * Official: keys are filled up with zeros to a multiple of this, and those take part in the softmax and in the ranking. Default null:
   * they do not.
   */
  readonly zeroKeysTo?: number | null;
}

/** Numbers of attention to hold at a time. */
const MOST = 1 << 22;

/**
 * Ranks blocks by the sums of softmax(r_q r_k / (stride sqrt(dim))), where r_k joins `stride` keys and r_q as many queries in reverse
 * order, so that a product sums an anti-diagonal; keeps as many as reach the share `mass`. q and k [batch, heads, tokens, dim].
 * `scores` are the sums over the blocks of q and k themselves.
 *
 * @throws {TypeError} on tensors of other shapes
 * @throws {RangeError} on settings out of range
 */
export async function xAttention(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  { mass = 0.9, block = 128, stride = 8, filler = false, zeroKeysTo = null }: XAttentionSettings = {},
): Promise<BlockSelection> {
  const what = "select XAttention blocks";
  const { batch, heads, tokens } = requireTensors(what, { q, k });
  requireSizes(what, { block, stride });
  requireShares(what, { mass });
  if (block % stride !== 0) {
    throw new RangeError(
      `Cannot ${what} as 'stride' must divide the block of ${block} tokens: current stride is ${stride}`,
    );
  }
  if (zeroKeysTo !== null && (!Number.isInteger(zeroKeysTo) || zeroKeysTo < 1 || zeroKeysTo % block !== 0)) {
    throw new RangeError(
      `Cannot ${what} as 'zeroKeysTo' must be a multiple of the block of ${block} tokens: ` +
        `current zeroKeysTo is ${zeroKeysTo}`,
    );
  }
  const grid = { heads: batch * heads, queries: tokens, keys: tokens, blockQueries: block, blockKeys: block };
  const rows = Math.ceil(tokens / block);
  const columns = zeroKeysTo === null ? rows : Math.ceil(tokens / zeroKeysTo) * (zeroKeysTo / block);
  const sums = await antiDiagonalSums(q, k, { rows, columns, block, stride, zeros: zeroKeysTo !== null });

  const kept = new Uint8Array(grid.heads * rows * rows);
  const scores = new Float32Array(kept.length);
  for (let row = 0; row < grid.heads * rows; row++) {
    const rowSums = sums.subarray(row * columns, (row + 1) * columns);
    const keptRow = new Uint8Array(columns);
    keepMass(rowSums, mass, "reach", keptRow);
    if (filler && keptRow.includes(0)) keptRow[0] = 1;
    kept.set(keptRow.subarray(0, rows), row * rows);
    scores.set(rowSums.subarray(0, rows), row * rows);
  }
  const blocks = { ...grid, kept };
  const mask = blockMapMask(`XAttention every ${stride}, mass ${mass}: blocks`, blocks);
  return { mask, layout: null, blocks, scores };
}

/** How blocks are cut: `zeros`, whether zeros behind the last key count as keys. */
interface Cut {
  readonly rows: number;
  readonly columns: number;
  readonly block: number;
  readonly stride: number;
  readonly zeros: boolean;
}

/** Block sums [batch x heads, rows, columns], some rows of blocks at a time. */
async function antiDiagonalSums(q: tf.Tensor4D, k: tf.Tensor4D, cut: Cut): Promise<Float32Array> {
  const { rows, columns, block, stride, zeros } = cut;
  const [batch, heads, tokens, dim] = q.shape;
  const [count, width, slots] = [batch * heads, stride * dim, block / stride];
  const used = Math.ceil(tokens / stride);
  const places = (blocks: tf.Tensor4D, padded: number): tf.Tensor4D =>
    tf.pad(tf.reshape(blocks, [1, count, used, width]), [[0, 0], [0, 0], [0, padded - used], [0, 0]]);
  const keys = tf.tidy(() => swapped(places(intoBlocks(k, stride), columns * slots)));
  const queries = tf.tidy(() => places(tf.reverse(intoBlocks(q, stride), 2), rows * slots));
  // Places without any token: as keys far below the others unless they count, as queries without a sum.
  const unseen = Float32Array.from(
    { length: columns * slots },
    (_, slot) => slot < used || zeros ? 0 : -1e30,
  );
  const asking = Float32Array.from({ length: rows * slots }, (_, slot) => slot < used ? 1 : 0);
  const sums = new Float32Array(count * rows * columns);
  const atOnce = Math.max(1, Math.floor(MOST / (count * slots * columns * slots)));
  try {
    for (let row = 0; row < rows; row += atOnce) {
      const some = Math.min(atOnce, rows - row);
      const part = await read(tf.tidy(() => {
        const chunk = tf.slice(queries, [0, 0, row * slots, 0], [1, count, some * slots, width]);
        const scores = tf.mul(product(chunk, keys), 1 / (Math.sqrt(dim) * stride));
        const shares = tf.softmax(tf.add(scores, tf.tensor1d(unseen)));
        const perPlace = tf.sum(tf.reshape(shares, [count, some * slots, columns, slots]), -1);
        const counted = tf.mul(
          perPlace,
          tf.tensor3d(asking.slice(row * slots, (row + some) * slots), [1, some * slots, 1]),
        );
        return tf.sum(tf.reshape(counted, [count, some, slots, columns]), 2);
      }));
      for (let head = 0; head < count; head++) {
        const from = head * some * columns;
        sums.set(part.subarray(from, from + some * columns), (head * rows + row) * columns);
      }
    }
  } finally {
    tf.dispose([keys, queries]);
  }
  return sums;
}
