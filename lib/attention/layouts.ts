/**
 * Token layouts: the order in which a model's tokens lie. Attention does not care, but a kernel that skips tiles does: tokens that see
 * each other should be neighbours. A layout is applied once before the first layer and undone after the last: what works on single
 * tokens goes on as it is, positions and masks are put in the layout too.
 */
import * as tf from "@tensorflow/tfjs";
import { intervalsOfBits, nothing } from "./_intervals.ts";
import { contentHash, requireSizes } from "./_sizes.ts";
import { type FrameShape, maskOfRows, type TileShape } from "./masks.ts";
import type { Mask } from "./types.ts";

/** An order of tokens, with or without padding between them. */
export interface Layout {
  /** Says what it is: `tokenMajor(13 frames x 1350, text 226)`. Equal labels: equal layouts. */
  readonly label: string;
  readonly tokens: number;
  /** Places, at least as many as tokens. */
  readonly places: number;
  /** The token in each place, -1 for padding, [places]. */
  readonly tokenAt: Int32Array;
  /** Where each token is, [tokens]. */
  readonly placeOf: Int32Array;
}

/**
 * Any layout, from the token in each place (-1: padding).
 *
 * @throws {RangeError} unless each of the tokens 0, 1, ... is there once
 */
export function layout(tokenAt: ArrayLike<number>, label?: string): Layout {
  const at = Int32Array.from(tokenAt);
  const tokens = at.reduce((count, token) => count + (token < 0 ? 0 : 1), 0);
  const placeOf = new Int32Array(tokens).fill(-1);
  at.forEach((token, place) => {
    if (token === -1) return;
    if (token < 0 || token >= tokens || placeOf[token] !== -1 || token !== tokenAt[place]) {
      throw new RangeError(
        `Cannot make a layout as each of ${tokens} tokens must be in one place: ` +
          `current token in place ${place} is ${tokenAt[place]}`,
      );
    }
    placeOf[token] = place;
  });
  if (tokens === 0) throw new RangeError("Cannot make a layout as there must be tokens: current number is 0");
  const bytes = new Uint8Array(at.buffer);
  return { label: label ?? `layout(${contentHash(bytes)})`, tokens, places: at.length, tokenAt: at, placeOf };
}

/** As they come: row after row of an image, frame after frame of a video. */
export function rasterLayout(tokens: number): Layout {
  requireSizes("make a layout", { tokens });
  return layout(Int32Array.from({ length: tokens }, (_, token) => token), `raster(${tokens})`);
}

/**
 * An image tile after tile, each in raster order: a run of tileHeight x tileWidth tokens is a square of the picture, where a run in raster
 * order is a part of a line.
 */
export function tileLayout({ height, width, tileHeight, tileWidth }: TileShape): Layout {
  requireSizes("make a tile layout", { height, width, tileHeight, tileWidth });
  const order: number[] = [];
  for (let top = 0; top < height; top += tileHeight) {
    for (let left = 0; left < width; left += tileWidth) {
      for (let y = top; y < Math.min(height, top + tileHeight); y++) {
        for (let x = left; x < Math.min(width, left + tileWidth); x++) order.push(y * width + x);
      }
    }
  }
  return layout(order, `tiles(${tileHeight} x ${tileWidth} of ${height} x ${width})`);
}

/**
 * An image along Hilbert's curve on the smallest square of 2^n x 2^n that holds it; places outside are left out. Runs are squares as in
 * `tileLayout`, whatever the size of tiles and image: a window of 11 x 11 tokens touches 11.8% of 64 x 64 tiles on 64 x 64 tokens, as with
 * tiles of 8 x 8 (raster order: 16.5%), and 12.0% on 48 x 84, where those touch 16.1% (22.4%). A `band` is for raster order alone.
 */
export function hilbertLayout(
  { height, width }: { readonly height: number; readonly width: number },
): Layout {
  requireSizes("make a Hilbert layout", { height, width });
  const side = 2 ** Math.ceil(Math.log2(Math.max(height, width)));
  const order: number[] = [];
  // Quarters in turn: the axes of a square, (ax, ay) first and (bx, by) second, from its corner.
  const walk = (x: number, y: number, ax: number, ay: number, bx: number, by: number) => {
    if (Math.abs(ax + ay) === 1) {
      const [column, row] = [Math.min(x, x + ax + bx), Math.min(y, y + ay + by)];
      if (column < width && row < height) order.push(row * width + column);
      return;
    }
    const [cx, cy, dx, dy] = [ax / 2, ay / 2, bx / 2, by / 2];
    walk(x, y, dx, dy, cx, cy);
    walk(x + cx, y + cy, cx, cy, dx, dy);
    walk(x + cx + dx, y + cy + dy, cx, cy, dx, dy);
    walk(x + cx + bx, y + cy + by, -dx, -dy, -cx, -cy);
  };
  walk(0, 0, side, 0, 0, side);
  return layout(order, `hilbert(${height} x ${width})`);
}

/**
 * A video position after position, the frames of each side by side: place = text + position * frames + frame, text first. The window of
 * `frameBand` is one run of keys then, not one in each frame.
 */
export function tokenMajorLayout({ frames, frameTokens, text = 0 }: FrameShape): Layout {
  requireSizes("make a token-major layout", { frames, frameTokens });
  requireSizes("make a token-major layout", { text }, 0);
  const order = Int32Array.from({ length: text + frames * frameTokens }, (_, place) => {
    if (place < text) return place;
    const [position, frame] = [Math.floor((place - text) / frames), (place - text) % frames];
    return text + frame * frameTokens + position;
  });
  return layout(order, `tokenMajor(${frames} frames x ${frameTokens}${text ? `, text ${text}` : ""})`);
}

/** `text` tokens as they come, then those of the layout (whose tokens are numbered after the text). */
export function textBefore(inner: Layout, text: number): Layout {
  requireSizes("put text before a layout", { text }, 0);
  const order = new Int32Array(text + inner.places);
  for (let place = 0; place < order.length; place++) {
    const token = place < text ? place : inner.tokenAt[place - text]!;
    order[place] = token < 0 || place < text ? token : token + text;
  }
  return layout(order, `text ${text}, ${inner.label}`);
}

/**
 * Padding after the first `text` places, up to a multiple of `multiple`: then no tile holds both text, whose tiles are all touched, and
 * other tokens.
 *
 * @throws {RangeError} if there are not as many places
 */
export function padText(inner: Layout, text: number, multiple: number): Layout {
  requireSizes("pad text", { multiple });
  requireSizes("pad text", { text }, 0);
  if (text > inner.places) {
    throw new RangeError(
      `Cannot pad text as 'text' must be at most the ${inner.places} places: current text is ${text}`,
    );
  }
  const padding = Math.ceil(text / multiple) * multiple - text;
  if (padding === 0) return inner;
  const order = new Int32Array(inner.places + padding).fill(-1);
  order.set(inner.tokenAt.subarray(0, text));
  order.set(inner.tokenAt.subarray(text), text + padding);
  return layout(order, `${inner.label}, text ${text} padded to ${text + padding}`);
}

/**
 * The mask of tokens in a layout: row `place` has the keys of its token, in their places; padding sees nothing and is not seen.
 *
 * @throws {TypeError} on a mask of other tokens
 */
export function permuted(mask: Mask, { label, tokens, places, tokenAt, placeOf }: Layout): Mask {
  if (mask.queries !== tokens || mask.keys !== tokens) {
    throw new TypeError(
      `Cannot permute a mask as it must be of the layout's ${tokens} tokens: ` +
        `current mask is ${mask.label} of [${mask.queries}, ${mask.keys}]`,
    );
  }
  const bits = new Uint32Array(Math.ceil(places / 32));
  // Neighbours often see the same keys: all frames of a position, the queries of a block.
  let [before, after] = [nothing, nothing];
  return maskOfRows(
    { label: `${mask.label} in ${label}`, queries: places, keys: places, heads: mask.heads },
    (
      place,
      head,
    ) => {
      const token = tokenAt[place]!;
      if (token < 0) return nothing;
      const bounds = mask.intervals(token, head);
      if (bounds.length === before.length && bounds.every((bound, i) => bound === before[i])) return after;
      for (let i = 0; i < bounds.length; i += 2) {
        for (let key = bounds[i]!; key < bounds[i + 1]!; key++) {
          const at = placeOf[key]!;
          bits[at >>> 5]! |= 1 << (at & 31);
        }
      }
      const result = intervalsOfBits(bits, places);
      bits.fill(0);
      [before, after] = [bounds.slice(), result];
      return result;
    },
  );
}

/**
 * Puts a model's tokens in the layout: token `tokenAt[i]` comes to place i, zeros come to padding. x [batch, tokens, channels] or
 * [batch, heads, tokens, dim]: `axis` is the one before the last, unless given. Differentiable on every backend: its gradient is
 * `fromLayout`.
 *
 * @throws {TypeError} if the axis has not as many tokens as the layout
 */
export function toLayout<T extends tf.Tensor>(x: T, order: Layout, axis: number = x.rank - 2): T {
  requireAxis("put tokens in a layout", x, axis, order.tokens);
  return differentiable(
    x,
    (y) => take(y, order.tokenAt, order.tokens < order.places, axis),
    (dy) => fromLayout(dy, order, axis),
  );
}

/**
 * Takes a model's tokens out of the layout, padding left out: undoes `toLayout`.
 *
 * @throws {TypeError} if the axis has not as many places as the layout
 */
export function fromLayout<T extends tf.Tensor>(x: T, order: Layout, axis: number = x.rank - 2): T {
  requireAxis("take tokens out of a layout", x, axis, order.places);
  return differentiable(
    x,
    (y) => take(y, order.placeOf, false, axis),
    (dy) => toLayout(dy, order, axis),
  );
}

/** Own gradients: those of a gather add into place, for which some backends have no kernel. */
function differentiable<T extends tf.Tensor>(x: T, forward: (x: T) => T, backward: (dy: T) => T): T {
  return tf.customGrad((y) => ({
    value: forward(y as T),
    gradFunc: (dy: tf.Tensor | tf.Tensor[]) => backward(dy as T),
  }))(x) as T;
}

/** x at `indices` along an axis; zeros at -1. */
function take<T extends tf.Tensor>(x: T, indices: Int32Array, padded: boolean, axis: number): T {
  if (tf.getBackend() === "wasm") return takeRuns(x, indices, axis);
  return tf.tidy(() => {
    if (!padded) return tf.gather(x, tf.tensor1d(indices, "int32"), axis);
    const end = x.shape[axis]!;
    const zeros = tf.zeros(x.shape.map((size, i) => i === axis ? 1 : size), x.dtype);
    const places = tf.tensor1d(indices.map((index) => index < 0 ? end : index), "int32");
    return tf.gather(tf.concat([x, zeros], axis), places, axis) as T;
  });
}

/** The same by copies of runs: TensorFlow.js's wasm backend gathers an element at a time, which takes six times as long. */
function takeRuns<T extends tf.Tensor>(x: T, indices: Int32Array, axis: number): T {
  const from = x.dataSync();
  const size = x.shape[axis]!;
  const length = x.shape.slice(axis + 1).reduce((a, b) => a * b, 1);
  const to = new (from.constructor as Float32ArrayConstructor)(from.length / size * indices.length);
  for (let start = 0, at = 0; start < from.length; start += size * length) {
    for (const index of indices) {
      if (index >= 0) to.set(from.subarray(start + index * length, start + (index + 1) * length), at);
      at += length;
    }
  }
  return tf.tensor(to, x.shape.with(axis, indices.length), x.dtype) as T;
}

function requireAxis(cannot: string, x: tf.Tensor, axis: number, size: number): void {
  if (!Number.isInteger(axis) || axis < 0 || x.shape[axis] !== size) {
    throw new TypeError(
      `Cannot ${cannot} as axis ${axis} must have ${size}: current shape is [${x.shape.join(", ")}]`,
    );
  }
}
