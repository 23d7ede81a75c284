/** What a selection is, and attention with one. */
import * as tf from "@tensorflow/tfjs";
import { attend } from "../attend.ts";
import { fromLayout, type Layout, layout as layoutOf, toLayout } from "../layouts.ts";
import type { Attended, AttendOptions, Mask } from "../types.ts";

/** The keys that each query may see, and the order of tokens in which that is cheap. */
export interface Selection {
  /**
   * Over places of the layout. It serves every head and batch row, or has heads of its own for each of batch x heads, batch row after
   * batch row.
   */
  readonly mask: Mask;
  /** Of the tokens, for all heads; or of batch x heads x tokens, each head within its own places. Null: tokens stay as they are. */
  readonly layout: Layout | null;
}

/**
 * Attention to the keys that `selection` keeps: tokens are put in its layout, attended, and put back. q, k, v and the results are
 * [batch, heads, tokens, dim] in the order of the model. Differentiable where `attend` is.
 *
 * @throws {TypeError} on a selection made for another number of tokens, heads or batch rows
 */
export function attendSelection(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  { mask, layout }: Selection,
  { epilogue, ...options }: Omit<AttendOptions, "mask"> = {},
): Attended {
  const [batch, heads, tokens, dim] = q.shape;
  const count = batch * heads;
  const cannot = `Cannot attend as the selection must be of`;
  if (mask.heads !== null && mask.heads !== count) {
    throw new TypeError(
      `${cannot} batch x heads = ${batch} x ${heads}: current selection is ${mask.label} of ${mask.heads}`,
    );
  }
  if (layout && layout.tokens !== tokens && layout.tokens !== count * tokens) {
    throw new TypeError(
      `${cannot} ${tokens} tokens: current selection is ${mask.label} of ${layout.tokens} in its layout`,
    );
  }
  const [rows, columns] = mask.heads === null ? [batch, heads] : [1, count];
  // A layout of all heads' tokens at once sees them as one long row; it has no padding of its own.
  const shared = layout?.tokens === tokens;
  const put = (x: tf.Tensor4D): tf.Tensor4D => {
    const width = x.shape[3];
    const placed = layout ? toLayout(shared ? x : tf.reshape(x, [1, 1, count * tokens, width]), layout) : x;
    return tf.reshape(placed, [rows, columns, placed.size / count / width, width]);
  };
  const get = (x: tf.Tensor, width: number): tf.Tensor4D => {
    if (!layout) return tf.reshape(x, [batch, heads, tokens, width]);
    const placed = tf.reshape(x, [...(shared ? [batch, heads] : [1, 1]), layout.places, width]);
    return tf.reshape(fromLayout(placed, layout), [batch, heads, tokens, width]);
  };
  return tf.tidy((): { output: tf.Tensor4D; lse: tf.Tensor3D } => {
    const { output, lse } = attend(put(q), put(k), put(v), {
      ...options,
      mask,
      ...(epilogue
        ? {
          epilogue: {
            rho: tf.squeeze(put(tf.expandDims(epilogue.rho, -1)), [-1]),
            residual: put(epilogue.residual),
          },
        }
        : {}),
    });
    return {
      output: get(output, dim),
      // TensorFlow.js's types do not know that a tidied object may hold null.
      lse: (lse && tf.squeeze(get(lse, 1), [-1])) as tf.Tensor3D,
    };
  });
}

/** Text tokens that come first in the model, put behind a layout of the others. */
export function textBehind({ label, tokenAt }: Layout, text: number): Layout {
  const order = [...tokenAt.map((token) => token + text), ...Array(text).keys()];
  return layoutOf(order, `${label}, text ${text} behind`);
}
