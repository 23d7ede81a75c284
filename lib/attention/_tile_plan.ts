/**
 * A tile list as batches of equal work: rows of tiles that see about as many tiles are computed together, each padded to the longest of
 * its batch.
 */
import { DROPPED } from "./reference.ts";
import type { TileList } from "./types.ts";

/** See {@linkcode Part.bias}. */
export interface Bias {
  readonly values: Float32Array;
  readonly height: number;
  /** Whether it drops whole rows of scores. */
  readonly empties: boolean;
}

/** Rows of tiles computed together. */
export interface Part {
  /** Which rows of tiles: indices over heads (where these have masks of their own) and rows. */
  readonly rows: Int32Array;
  /** Tiles of each row, padding included. */
  readonly count: number;
  /** The tiles on the other side that each row sees, rows x count indices over heads and tiles; 0 in padding. Null: all, in order. */
  readonly others: Int32Array | null;
  /**
   * What to add to the scores, [rows, height or 1, width x count], 0 or {@linkcode DROPPED}: height 1 where it is the same for all rows
   * of a tile. Null where every element of every tile counts.
   */
  bias(): Bias | null;
}

/** A way to go over all scores once. */
export interface Plan {
  /** Blocks of how many tokens on the own side (of which a row of tiles is one) and on the other. */
  readonly height: number;
  readonly width: number;
  /** Rows of tiles in all. */
  readonly rows: number;
  /** In which each row of tiles with at least one tile is once. */
  readonly parts: readonly Part[];
}

/** Scores of a part, at most, unless one row of tiles has more: 2 MiB, which products of full speed need and caches hold. */
export const mostScores = 2 ** 19;

/** Biases are kept with their plan up to so many numbers (16 MiB). */
const mostKept = 2 ** 22;

const ABSENT = -2;

/** Rows of tiles as lists; by queries as they are stored, by keys transposed. */
interface Lists {
  readonly height: number;
  readonly width: number;
  /** Rows of tiles, and tiles on the other side, of each head. */
  readonly perHead: number;
  readonly across: number;
  /** Elements of the last tile of the other side that lie inside of the matrix. */
  readonly lastWidth: number;
  readonly starts: Int32Array;
  readonly columns: Int32Array;
  readonly edges: Int32Array;
  /** Whether pattern `edge` keeps element [y, x] of a tile. */
  readonly keeps: (edge: number, y: number, x: number) => boolean;
}

/** Goes over the scores of `tiles` by rows of queries; `outer`: how many matrices share each row of tiles (batch, or batch x heads). */
export function planByQueries(tiles: TileList, outer: number): Plan {
  const { tileQueries, tileKeys, queries, keys, starts, columns, edges } = tiles;
  const across = Math.ceil(keys / tileKeys);
  const keeps = keepsOf(tiles);
  return planOf({
    height: tileQueries,
    width: tileKeys,
    perHead: Math.ceil(queries / tileQueries),
    across,
    lastWidth: keys - (across - 1) * tileKeys,
    starts,
    columns,
    edges,
    keeps,
  }, outer);
}

/** Goes over the scores of `tiles` by rows of keys, each of which sees the queries that see it. */
export function planByKeys(tiles: TileList, outer: number): Plan {
  const { tileQueries, tileKeys, queries, keys, starts, columns, edges } = tiles;
  const heads = tiles.heads ?? 1;
  const across = Math.ceil(queries / tileQueries);
  const perHead = Math.ceil(keys / tileKeys);
  const counts = new Int32Array(heads * perHead + 1);
  const each = (visit: (row: number, at: number, column: number) => void) => {
    for (let row = 0; row < heads * across; row++) {
      const head = Math.floor(row / across);
      for (let at = starts[row]!; at < starts[row + 1]!; at++) visit(row, at, head * perHead + columns[at]!);
    }
  };
  each((_row, _at, key) => counts[key + 1]!++);
  for (let i = 1; i < counts.length; i++) counts[i]! += counts[i - 1]!;
  const next = counts.slice();
  const [seen, seenEdges] = [new Int32Array(columns.length), new Int32Array(columns.length)];
  each((row, at, key) => {
    seen[next[key]!] = row % across;
    seenEdges[next[key]!++] = edges[at]!;
  });
  const keeps = keepsOf(tiles);
  return planOf({
    height: tileKeys,
    width: tileQueries,
    perHead,
    across,
    lastWidth: queries - (across - 1) * tileQueries,
    starts: counts,
    columns: seen,
    edges: seenEdges,
    keeps: (edge, y, x) => keeps(edge, x, y),
  }, outer);
}

/** Goes over all scores: blocks of `own` tokens, each of which sees all of the `other` ones. */
export function planDense(own: number, other: number): Plan {
  const blocks = Math.ceil(own / Math.max(64, Math.floor(mostScores / other)));
  const parts = Array.from({ length: blocks }, (_, row): Part => ({
    rows: Int32Array.of(row),
    count: 1,
    others: null,
    bias: () => null,
  }));
  return { height: Math.ceil(own / blocks), width: other, rows: blocks, parts };
}

function keepsOf({ tileQueries, tileKeys, patterns }: TileList): Lists["keeps"] {
  const words = Math.ceil(tileKeys / 32);
  return (edge, y, x) => (patterns[(edge * tileQueries + y) * words + (x >> 5)]! >>> (x & 31) & 1) === 1;
}

function planOf(lists: Lists, outer: number): Plan {
  const { height, width, starts } = lists;
  const rows = starts.length - 1;
  const countOf = (row: number) => starts[row + 1]! - starts[row]!;
  const order = Int32Array.from({ length: rows }, (_, row) => row).filter((row) => countOf(row) > 0)
    .sort((a, b) => countOf(a) - countOf(b) || a - b);
  const parts: Part[] = [];
  let kept = 0;
  for (let from = 0; from < order.length;) {
    // Padding of an eighth is cheaper than more and smaller products.
    const least = countOf(order[from]!), most = least + (least >> 3);
    let to = from + 1;
    while (
      to < order.length && countOf(order[to]!) <= most &&
      outer * (to + 1 - from) * countOf(order[to]!) * height * width <= mostScores
    ) to++;
    const size = (to - from) * height * width * countOf(order[to - 1]!);
    parts.push(partOf(lists, order.slice(from, to), countOf(order[to - 1]!), kept + size <= mostKept));
    kept += size;
    from = to;
  }
  return { height, width, rows, parts };
}

function partOf(lists: Lists, rows: Int32Array, count: number, keep: boolean): Part {
  const { starts, columns, edges, perHead, across } = lists;
  const others = new Int32Array(rows.length * count);
  const kinds = new Int32Array(rows.length * count).fill(ABSENT);
  rows.forEach((row, i) => {
    const first = Math.floor(row / perHead) * across;
    for (let at = starts[row]!, slot = i * count; at < starts[row + 1]!; at++, slot++) {
      others[slot] = first + columns[at]!;
      kinds[slot] = edges[at]!;
    }
  });
  let made: Bias | null | undefined;
  const bias = () => {
    const result = made === undefined ? biasOf(lists, others, kinds, count) : made;
    if (keep) made = result;
    return result;
  };
  return { rows, count, others, bias };
}

function biasOf(
  { height, width, across, lastWidth, keeps }: Lists,
  others: Int32Array,
  kinds: Int32Array,
  count: number,
): Bias | null {
  const isLast = (slot: number) => others[slot]! % across === across - 1;
  const partial = lastWidth < width;
  if (kinds.every((kind, slot) => kind === -1 && !(partial && isLast(slot)))) return null;
  const high = kinds.some((kind) => kind >= 0) ? height : 1;
  const rowSize = count * width;
  const values = new Float32Array(kinds.length * high * width);
  kinds.forEach((kind, slot) => {
    const at = Math.floor(slot / count) * high * rowSize + (slot % count) * width;
    const inside = kind === ABSENT ? 0 : isLast(slot) ? lastWidth : width;
    for (let y = 0; y < high; y++) {
      const start = at + y * rowSize;
      values.fill(DROPPED, start + inside, start + width);
      if (kind < 0) continue;
      for (let x = 0; x < inside; x++) if (!keeps(kind, y, x)) values[start + x] = DROPPED;
    }
  });
  let empties = false;
  for (let start = 0; high > 1 && !empties && start < values.length; start += rowSize) {
    empties = !values.subarray(start, start + rowSize).includes(0);
  }
  return { values, height: high, empties };
}
