/**
 * Masks: which keys each query sees. Each says what it is in its label, and costs no more memory than its own description: rows are
 * made when asked for.
 */
import { intervalsWhere, nothing, pushInterval, unionOf } from "./_intervals.ts";
import { contentHash, percent, requireSizes } from "./_sizes.ts";
import type { Mask } from "./types.ts";

/** What a mask is but for its rows. */
export interface MaskShape {
  readonly label: string;
  readonly queries: number;
  readonly keys: number;
  /** Default null: one mask for any number of heads. */
  readonly heads?: number | null;
}

/**
 * Any mask, from its rows: `intervals(query, head)` gives the keys as half-open intervals, sorted, disjoint and not touching. Rows are
 * taken as they are; `label` has to tell masks with other rows apart.
 *
 * @throws {TypeError} if sizes are not numbers
 * @throws {RangeError} if sizes are not whole numbers of at least 1; from `intervals`, if there is no such query or head
 */
export function maskOfRows(
  { label, queries, keys, heads = null }: MaskShape,
  intervals: (query: number, head: number) => Int32Array,
): Mask {
  requireSizes("make a mask", { queries, keys, ...(heads === null ? {} : { heads }) });
  return {
    label,
    queries,
    keys,
    heads,
    intervals(query, head) {
      if (!(query >= 0 && query < queries) || (heads !== null && !(head >= 0 && head < heads))) {
        throw new RangeError(
          `Cannot give a row of ${label} as it must be of ${queries} queries and ${heads ?? "any"} heads: ` +
            `current query is ${query}, head ${head}`,
        );
      }
      return intervals(query, head);
    },
  };
}

/** Every query sees every key: [queries, keys], square by default. */
export function full(queries: number, keys: number = queries): Mask {
  requireSizes("make a full mask", { queries, keys });
  const row = Int32Array.of(0, keys);
  return maskOfRows({ label: "full", queries, keys }, () => row);
}

/**
 * `|i - j| <= half`: up to 2 half + 1 keys, fewer at the ends. The window of Re-ttention (arXiv 2505.22918) on images, with
 * half = floor(floor(tokens s) / 2) at share s.
 *
 * @throws {RangeError} on a `half` that is not a whole number
 */
export function band(tokens: number, half: number): Mask {
  requireSizes("make a band", { tokens });
  requireSizes("make a band", { half }, 0);
  return maskOfRows(
    { label: `band(${half})`, queries: tokens, keys: tokens },
    (i) => Int32Array.of(Math.max(0, i - half), Math.min(tokens, i + half + 1)),
  );
}

/**
 * Exactly `width` keys in each row, from `i - floor(width / 2)` on, moved inwards at the ends.
 *
 * @throws {RangeError} on a `width` that is not a whole number of 1 to `tokens`
 */
export function shiftedBand(tokens: number, width: number): Mask {
  requireSizes("make a shifted band", { tokens, width });
  if (width > tokens) {
    throw new RangeError(
      `Cannot make a shifted band as 'width' must be at most the ${tokens} tokens: current width is ${width}`,
    );
  }
  return maskOfRows({ label: `shiftedBand(${width})`, queries: tokens, keys: tokens }, (i) => {
    const from = Math.min(Math.max(0, i - Math.floor(width / 2)), tokens - width);
    return Int32Array.of(from, from + width);
  });
}

/** A video as a transformer sees it: text tokens first, then frame after frame. */
export interface FrameShape {
  readonly frames: number;
  readonly frameTokens: number;
  /** Text tokens, which come first. Default 0. */
  readonly text?: number;
}

/**
 * Tokens at positions `|p - p'| <= half` within their frames, whichever frames; text sees all and all see text. The window of Re-ttention
 * (arXiv 2505.22918) on CogVideoX, with half = floor(floor(frameTokens s) / 2).
 *
 * @throws {RangeError} on sizes that are not whole numbers
 */
export function frameBand(
  { frames, frameTokens, half, text = 0 }: FrameShape & { readonly half: number },
): Mask {
  requireSizes("make a frame band", { frames, frameTokens });
  requireSizes("make a frame band", { half, text }, 0);
  const tokens = text + frames * frameTokens;
  const label = `frameBand(${half}, ${frames} frames x ${frameTokens}${text ? `, text ${text}` : ""})`;
  return maskOfRows({ label, queries: tokens, keys: tokens }, (token) => {
    if (token < text) return Int32Array.of(0, tokens);
    const position = (token - text) % frameTokens;
    const [from, to] = [Math.max(0, position - half), Math.min(frameTokens, position + half + 1)];
    const bounds: number[] = [];
    pushInterval(bounds, 0, text);
    for (let start = text; start < tokens; start += frameTokens) {
      pushInterval(bounds, start + from, start + to);
    }
    return Int32Array.from(bounds);
  });
}

/** An image in raster order, cut into tiles. Tiles at the right and lower edges may be smaller. */
export interface TileShape {
  readonly height: number;
  readonly width: number;
  readonly tileHeight: number;
  readonly tileWidth: number;
}

/**
 * Tokens of tiles at most `radiusHeight` tiles up or down and `radiusWidth` left or right. With tiles of 1 x 1 this is the plain 2-D
 * window.
 *
 * @throws {RangeError} on sizes that are not whole numbers
 */
export function tileWindow(
  { height, width, tileHeight, tileWidth, radiusHeight, radiusWidth }: TileShape & {
    readonly radiusHeight: number;
    readonly radiusWidth: number;
  },
): Mask {
  requireSizes("make a tile window", { height, width, tileHeight, tileWidth });
  requireSizes("make a tile window", { radiusHeight, radiusWidth }, 0);
  const tokens = height * width;
  const label = `tileWindow(${radiusHeight} x ${radiusWidth} around tiles of ${tileHeight} x ${tileWidth}, ` +
    `${height} x ${width})`;
  const span = (at: number, tile: number, radius: number, size: number): [number, number] => {
    const centre = Math.floor(at / tile);
    return [Math.max(0, (centre - radius) * tile), Math.min(size, (centre + radius + 1) * tile)];
  };
  return maskOfRows({ label, queries: tokens, keys: tokens }, (token) => {
    const [top, bottom] = span(Math.floor(token / width), tileHeight, radiusHeight, height);
    const [left, right] = span(token % width, tileWidth, radiusWidth, width);
    const bounds: number[] = [];
    for (let y = top; y < bottom; y++) pushInterval(bounds, y * width + left, y * width + right);
    return Int32Array.from(bounds);
  });
}

/** Blocks to keep. */
export interface BlockShape {
  readonly queries: number;
  readonly keys: number;
  /** Queries and keys of a block; the last ones may have fewer. */
  readonly blockQueries: number;
  readonly blockKeys: number;
  /** Heads that have blocks of their own. Default null: shared by any number of heads. */
  readonly heads?: number | null;
  /**
   * Other than 0 where a block is kept, [heads, block rows, block columns]; or for each row of blocks, head after head, the columns of
   * the blocks that it keeps, in any order.
   */
  readonly blocks: Uint8Array | readonly (ArrayLike<number>)[];
  /** What selected them, for the label. Default "blocks". */
  readonly name?: string;
}

/**
 * Whole blocks of queries x keys.
 *
 * @throws {TypeError} if `blocks` is not of the size that the others ask for
 * @throws {RangeError} on sizes that are not whole numbers, or a column of blocks that is not there
 */
export function blockMask(
  { queries, keys, blockQueries, blockKeys, heads = null, blocks, name = "blocks" }: BlockShape,
): Mask {
  requireSizes("make a block mask", { queries, keys, blockQueries, blockKeys });
  if (heads !== null) requireSizes("make a block mask", { heads });
  const [rows, columns] = [Math.ceil(queries / blockQueries), Math.ceil(keys / blockKeys)];
  const lists = (heads ?? 1) * rows;
  const flags = blocks instanceof Uint8Array;
  if (blocks.length !== (flags ? lists * columns : lists)) {
    throw new TypeError(
      `Cannot make a block mask as 'blocks' must be [${heads ?? 1}, ${rows}, ${columns}] flags or ` +
        `${lists} lists of columns: current size is ${blocks.length}`,
    );
  }
  const kept = flags ? blocks : flagsOf(blocks, columns);
  const rowsOfBlocks = Array.from({ length: lists }, (_, list) => {
    const bounds: number[] = [];
    for (let column = 0; column < columns; column++) {
      if (kept[list * columns + column] === 0) continue;
      pushInterval(bounds, column * blockKeys, Math.min(keys, (column + 1) * blockKeys));
    }
    return Int32Array.from(bounds);
  });
  const share = kept.reduce((sum, flag) => sum + Math.min(1, flag), 0) / kept.length;
  const hash = contentHash(kept.map((flag) => Math.min(1, flag)));
  const label = `${name}(${blockQueries} x ${blockKeys}, ${percent(share)} kept, ${hash})`;
  return maskOfRows(
    { label, queries, keys, heads },
    (query, head) => rowsOfBlocks[(heads === null ? 0 : head * rows) + Math.floor(query / blockQueries)]!,
  );
}

/** Lists of columns as a flag for each block. */
function flagsOf(lists: readonly ArrayLike<number>[], columns: number): Uint8Array {
  const kept = new Uint8Array(lists.length * columns);
  lists.forEach((list, row) => {
    for (let i = 0; i < list.length; i++) {
      const column = list[i]!;
      if (!(Number.isInteger(column) && column >= 0 && column < columns)) {
        throw new RangeError(
          `Cannot make a block mask as columns must be whole numbers below ${columns}: ` +
            `current row of blocks ${row} has ${column}`,
        );
      }
      kept[row * columns + column] = 1;
    }
  });
  return kept;
}

/** Elements to keep. */
export interface ElementShape {
  readonly queries: number;
  readonly keys: number;
  /** Heads that have elements of their own. Default null: shared by any number of heads. */
  readonly heads?: number | null;
  /** Other than 0 where kept, [heads, queries, keys]; packed: key j of a row in bit j % 8 of byte floor(j / 8). */
  readonly elements: Uint8Array;
  /** Whether `elements` has 8 keys in a byte, [heads, queries, ceil(keys / 8)]. Default false. */
  readonly packed?: boolean;
  /** What selected them, for the label. Default "elements". */
  readonly name?: string;
}

/**
 * Any elements, given one by one.
 *
 * @throws {TypeError} if `elements` is not of the size that the others ask for
 * @throws {RangeError} on sizes that are not whole numbers
 */
export function elementMask(
  { queries, keys, heads = null, elements, packed = false, name = "elements" }: ElementShape,
): Mask {
  requireSizes("make an element mask", { queries, keys });
  if (heads !== null) requireSizes("make an element mask", { heads });
  const stride = packed ? Math.ceil(keys / 8) : keys;
  if (elements.length !== (heads ?? 1) * queries * stride) {
    throw new TypeError(
      `Cannot make an element mask as 'elements' must be [${heads ?? 1}, ${queries}, ${stride}]: ` +
        `current size is ${elements.length}`,
    );
  }
  // A copy: what the caller does with the array later must not change a mask that tile lists are kept for.
  const kept = elements.slice();
  const label = `${name}(${packed ? "packed, " : ""}${contentHash(kept)})`;
  return maskOfRows({ label, queries, keys, heads }, (query, head) => {
    const start = ((heads === null ? 0 : head * queries) + query) * stride;
    return packed
      ? intervalsWhere(keys, (key) => (kept[start + (key >> 3)]! >> (key & 7) & 1) === 1)
      : intervalsWhere(keys, (key) => kept[start + key] !== 0);
  });
}

/**
 * Elements that at least one of the masks keeps.
 *
 * @throws {TypeError} on masks of different sizes
 */
export function union(...masks: readonly [Mask, ...Mask[]]): Mask {
  const { queries, keys, heads } = requireEqualSizes("unite masks", masks);
  const label = masks.map((mask) => mask.label).join(" or ");
  return maskOfRows(
    { label: masks.length > 1 ? `(${label})` : label, queries, keys, heads },
    (query, head) => masks.reduce((bounds, mask) => unionOf(bounds, mask.intervals(query, head)), nothing),
  );
}

/**
 * One mask for each head, in order.
 *
 * @throws {TypeError} on masks of different sizes, or with heads of their own
 */
export function perHead(masks: readonly [Mask, ...Mask[]]): Mask {
  const { queries, keys, heads } = requireEqualSizes("give heads their masks", masks);
  if (heads !== null) {
    throw new TypeError(
      `Cannot give heads their masks as each must serve any head: current masks have ${heads} heads`,
    );
  }
  const places = Map.groupBy(masks.keys(), (head) => masks[head]!.label);
  const label = [...places].map(([one, at]) => `${one} in head${at.length > 1 ? "s" : ""} ${at.join(", ")}`);
  return maskOfRows(
    { label: label.join("; "), queries, keys, heads: masks.length },
    (query, head) => masks[head]!.intervals(query, head),
  );
}

/** The sizes that all masks have. */
function requireEqualSizes(cannot: string, masks: readonly Mask[]): Required<Omit<MaskShape, "label">> {
  const first = masks[0];
  if (!first) throw new TypeError(`Cannot ${cannot} as there must be at least one: current number is 0`);
  const heads = masks.find((mask) => mask.heads !== null)?.heads ?? null;
  const { queries, keys } = first;
  for (const mask of masks) {
    if (mask.queries !== queries || mask.keys !== keys || (mask.heads !== null && mask.heads !== heads)) {
      throw new TypeError(
        `Cannot ${cannot} as all must have [queries, keys] = [${queries}, ${keys}] and ${
          heads ?? "any"
        } heads: ` +
          `current mask is ${mask.label} of [${mask.queries}, ${mask.keys}] and ${mask.heads ?? "any"} heads`,
      );
    }
  }
  return { queries, keys, heads };
}

/**
 * `mask`, and tokens [from, to) see all and are seen by all.
 *
 * @throws {TypeError} on a mask that is not square
 * @throws {RangeError} on tokens that are not there
 */
export function denseTokens(mask: Mask, from: number, to: number): Mask {
  const tokens = requireSquare("make tokens dense", mask);
  requireSizes("make tokens dense", { from, to }, 0);
  if (from >= to || to > tokens) {
    throw new RangeError(
      `Cannot make tokens dense as [from, to) must be some of ${tokens}: current interval is [${from}, ${to})`,
    );
  }
  const [row, columns] = [Int32Array.of(0, tokens), Int32Array.of(from, to)];
  return maskOfRows(
    { ...mask, label: `${mask.label} with tokens ${from} to ${to - 1} dense` },
    (query, head) => query >= from && query < to ? row : unionOf(mask.intervals(query, head), columns),
  );
}

/**
 * Puts `text` dense tokens before the tokens of `mask` or, with `place` "last", after them: they see all and are seen by all.
 *
 * @throws {TypeError} on a mask that is not square
 * @throws {RangeError} on a number of tokens that is not whole
 */
export function joinText(mask: Mask, text: number, place: "first" | "last" = "first"): Mask {
  const inner = requireSquare("join text", mask);
  requireSizes("join text", { text }, 0);
  if (text === 0) return mask;
  const tokens = inner + text;
  const shift = place === "first" ? text : 0;
  const shape = { label: `${mask.label} with text ${text} ${place}`, queries: tokens, keys: tokens };
  const columns = place === "first" ? Int32Array.of(0, text) : Int32Array.of(inner, tokens);
  const row = Int32Array.of(0, tokens);
  return maskOfRows({ ...shape, heads: mask.heads }, (query, head) => {
    const own = query - shift;
    if (own < 0 || own >= inner) return row;
    return unionOf(mask.intervals(own, head).map((bound) => bound + shift), columns);
  });
}

function requireSquare(cannot: string, { label, queries, keys }: Mask): number {
  if (queries !== keys) {
    throw new TypeError(
      `Cannot ${cannot} as the mask must be of tokens that see tokens: current mask is ${label} of [${queries}, ${keys}]`,
    );
  }
  return queries;
}
