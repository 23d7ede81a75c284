/** What follows from a mask's rows: how much it keeps, which tiles it touches. Nothing of size queries x keys is made. */
import { countOf, setBits } from "./_intervals.ts";
import { requireSizes } from "./_sizes.ts";
import type { Mask, TileList } from "./types.ts";

/** Keys that each row keeps, [heads (1 where shared), queries]. */
export function keysPerRow(mask: Mask): Int32Array {
  const { queries } = mask;
  const counts = new Int32Array((mask.heads ?? 1) * queries);
  for (let row = 0; row < counts.length; row++) {
    counts[row] = countOf(mask.intervals(row % queries, Math.floor(row / queries)));
  }
  return counts;
}

/** Elements kept, of all heads that have a mask of their own. */
export function keptElements(mask: Mask): number {
  return keysPerRow(mask).reduce((sum, count) => sum + count, 0);
}

/** Share of elements kept. */
export function keptShare(mask: Mask): number {
  return keptElements(mask) / ((mask.heads ?? 1) * mask.queries * mask.keys);
}

/** Tiles with at least one kept element. */
export interface Occupancy {
  readonly touched: number;
  readonly total: number;
  /** touched / total: what a kernel that skips tiles cannot go below. */
  readonly share: number;
}

/**
 * How many tiles the mask touches, partial tiles at the ends included.
 *
 * @throws {RangeError} on tile sizes that are not whole numbers
 */
export function occupancy(mask: Mask, tileQueries: number, tileKeys: number): Occupancy {
  requireSizes("count tiles", { tileQueries, tileKeys });
  const { queries, keys, heads } = mask;
  const [rows, columns] = [Math.ceil(queries / tileQueries), Math.ceil(keys / tileKeys)];
  // The row of tiles (head after head, from 1) in which a column was last met.
  const met = new Int32Array(columns);
  let [touched, row] = [0, 0];
  for (let head = 0; head < (heads ?? 1); head++) {
    for (let top = 0; top < queries; top += tileQueries) {
      row++;
      for (let query = top; query < Math.min(queries, top + tileQueries); query++) {
        const bounds = mask.intervals(query, head);
        for (let i = 0; i < bounds.length; i += 2) {
          const last = Math.floor((bounds[i + 1]! - 1) / tileKeys);
          for (let column = Math.floor(bounds[i]! / tileKeys); column <= last; column++) {
            if (met[column] === row) continue;
            met[column] = row;
            touched++;
          }
        }
      }
    }
  }
  const total = (heads ?? 1) * rows * columns;
  return { touched, total, share: touched / total };
}

/**
 * The touched tiles of a mask. Takes memory for one row of tiles beside the list.
 *
 * @throws {RangeError} on tile sizes that are not whole numbers, or `tileKeys` that is neither a multiple of 32 nor a power of two below
 */
export function tileList(mask: Mask, tileQueries: number, tileKeys: number): TileList {
  requireSizes("list tiles", { tileQueries, tileKeys });
  if (tileKeys % 32 !== 0 && ![1, 2, 4, 8, 16].includes(tileKeys)) {
    throw new RangeError(
      `Cannot list tiles as 'tileKeys' must be a multiple of 32 or 1, 2, 4, 8 or 16: current tileKeys is ${tileKeys}`,
    );
  }
  const { label, queries, keys, heads } = mask;
  const [rows, columns] = [Math.ceil(queries / tileQueries), Math.ceil(keys / tileKeys)];
  const starts = new Int32Array((heads ?? 1) * rows + 1);
  const row = new TileRow(tileQueries, tileKeys, keys);
  const patterns = new Patterns(row.patternWords);
  const [touched, edges]: [number[], number[]] = [[], []];
  for (let index = 0; index + 1 < starts.length; index++) {
    const [head, top] = [Math.floor(index / rows), index % rows * tileQueries];
    const height = Math.min(tileQueries, queries - top);
    row.clear();
    for (let y = 0; y < height; y++) row.add(y, mask.intervals(top + y, head));
    for (let column = 0; column < columns; column++) {
      const count = row.counts[column]!;
      if (count === 0) continue;
      touched.push(column);
      const isFull = count === height * Math.min(tileKeys, keys - column * tileKeys);
      edges.push(isFull ? -1 : patterns.indexOf(row.pattern(column)));
    }
    starts[index + 1] = touched.length;
  }
  return {
    label,
    queries,
    keys,
    heads,
    tileQueries,
    tileKeys,
    starts,
    columns: Int32Array.from(touched),
    edges: Int32Array.from(edges),
    patterns: patterns.words(),
  };
}

/** The kept elements of a row of tiles: a bit each, and how many there are in each tile. */
class TileRow {
  /** Kept elements, [tiles]. */
  readonly counts: Int32Array;
  readonly patternWords: number;
  readonly #bits: Uint32Array;
  /** Words of a row of elements. */
  readonly #stride: number;
  readonly #pattern: Uint32Array;

  constructor(readonly tileQueries: number, readonly tileKeys: number, keys: number) {
    const columns = Math.ceil(keys / tileKeys);
    this.counts = new Int32Array(columns);
    this.#stride = Math.ceil(columns * tileKeys / 32);
    this.#bits = new Uint32Array(tileQueries * this.#stride);
    this.patternWords = tileQueries * Math.ceil(tileKeys / 32);
    this.#pattern = new Uint32Array(this.patternWords);
  }

  clear(): void {
    this.counts.fill(0);
    this.#bits.fill(0);
  }

  /** Adds the elements of row `y`. */
  add(y: number, bounds: Int32Array): void {
    const { tileKeys, counts } = this;
    for (let i = 0; i < bounds.length; i += 2) {
      const [from, to] = [bounds[i]!, bounds[i + 1]!];
      setBits(this.#bits, y * this.#stride, from, to);
      for (let start = from; start < to;) {
        const column = Math.floor(start / tileKeys);
        const end = Math.min(to, (column + 1) * tileKeys);
        counts[column]! += end - start;
        start = end;
      }
    }
  }

  /** The bits of a tile; valid until the next call. */
  pattern(column: number): Uint32Array {
    const { tileQueries, tileKeys } = this;
    const [words, first] = [Math.ceil(tileKeys / 32), column * tileKeys];
    // A tile below 32 keys is a part of one word, as its size is a power of two.
    const [shift, kept] = tileKeys < 32 ? [first & 31, 2 ** tileKeys - 1] : [0, -1];
    for (let y = 0; y < tileQueries; y++) {
      for (let word = 0; word < words; word++) {
        this.#pattern[y * words + word] = this.#bits[y * this.#stride + (first >>> 5) + word]! >>> shift &
          kept;
      }
    }
    return this.#pattern;
  }
}

/** Patterns, each stored once. */
class Patterns {
  readonly #places = new Map<number, number[]>();
  #words = new Uint32Array(1024);
  #count = 0;

  constructor(readonly size: number) {}

  /** Where an equal pattern is; it is added if there is none. */
  indexOf(pattern: Uint32Array): number {
    let hash = 0;
    for (const word of pattern) hash = Math.imul(hash ^ word ^ (hash >>> 15), 0x9e3779b1);
    const places = this.#places.get(hash) ?? [];
    const known = places.find((place) => this.#equals(place, pattern));
    if (known !== undefined) return known;
    const place = this.#count++;
    this.#places.set(hash, [...places, place]);
    if (this.#words.length < this.#count * this.size) {
      const grown = new Uint32Array(Math.max(2 * this.#words.length, this.#count * this.size));
      grown.set(this.#words);
      this.#words = grown;
    }
    this.#words.set(pattern, place * this.size);
    return place;
  }

  words(): Uint32Array {
    return this.#words.slice(0, this.#count * this.size);
  }

  #equals(place: number, pattern: Uint32Array): boolean {
    const start = place * this.size;
    for (let i = 0; i < pattern.length; i++) if (this.#words[start + i] !== pattern[i]) return false;
    return true;
  }
}
