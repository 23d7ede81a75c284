/** Random inputs and masks, and tile lists made element by element. */
import * as tf from "@tensorflow/tfjs";
import type { Mask, TileList } from "../../lib/attention/mod.ts";
import { type Stream, stream } from "../../lib/tensor/mod.ts";

/** [batch, heads, tokens, dim]. */
export type Shape = [batch: number, heads: number, tokens: number, dim: number];

/** Normal numbers, the same at every call with the same name. */
export function draw(name: string, shape: Shape, deviation = 1): tf.Tensor4D {
  const size = shape.reduce((product, length) => product * length, 1);
  return tf.tensor4d(stream(1).child(name).normal(size, 0, deviation), shape);
}

/** A mask from its elements, `kept(query, key, head)`. */
export function maskOf(
  label: string,
  [queries, keys]: [number, number],
  heads: number | null,
  kept: (query: number, key: number, head: number) => boolean,
): Mask {
  const rows = Array.from({ length: (heads ?? 1) * queries }, (_, row) => {
    const bounds: number[] = [];
    for (let key = 0, before = false; key <= keys; key++) {
      const now = key < keys && kept(row % queries, key, Math.floor(row / queries));
      if (now !== before) bounds.push(key);
      before = now;
    }
    return Int32Array.from(bounds);
  });
  return {
    label,
    queries,
    keys,
    heads,
    intervals: (query, head) => rows[(heads === null ? 0 : head) * queries + query]!,
  };
}

/** A mask that keeps each element with chance `share`, with empty and full rows among the others. */
export function randomMask(seed: number, size: [number, number], heads: number | null, share: number): Mask {
  const draws = stream(seed).child("mask").uniform((heads ?? 1) * size[0] * size[1]);
  return maskOf(`random(${seed})`, size, heads, (query, key, head) => {
    if (query % 11 === 3) return false;
    if (query % 11 === 5) return true;
    return draws[(head * size[0] + query) * size[1] + key]! < share;
  });
}

/** The tile list of a mask, from its definition: every element is looked at. */
export function slowTiles(mask: Mask, tileQueries: number, tileKeys: number): TileList {
  const { queries, keys, heads, label } = mask;
  const words = Math.ceil(tileKeys / 32);
  const [starts, columns, edges, patterns]: [number[], number[], number[], number[]] = [[0], [], [], []];
  const known = new Map<string, number>();
  for (let head = 0; head < (heads ?? 1); head++) {
    for (let top = 0; top < queries; top += tileQueries) {
      const rows = Array.from({ length: Math.min(tileQueries, queries - top) }, (_, y) => {
        const row = new Uint8Array(keys);
        const bounds = mask.intervals(top + y, head);
        for (let i = 0; i < bounds.length; i += 2) row.fill(1, bounds[i], bounds[i + 1]);
        return row;
      });
      for (let left = 0; left < keys; left += tileKeys) {
        const cut = rows.map((row) => row.subarray(left, left + tileKeys));
        if (!cut.some((row) => row.includes(1))) continue;
        columns.push(left / tileKeys);
        if (!cut.some((row) => row.includes(0))) {
          edges.push(-1);
          continue;
        }
        const pattern = Array.from({ length: tileQueries * words }, () => 0);
        cut.forEach((row, y) => row.forEach((bit, x) => pattern[y * words + (x >> 5)]! |= bit << (x & 31)));
        const name = pattern.join();
        if (!known.has(name)) {
          known.set(name, known.size);
          patterns.push(...pattern);
        }
        edges.push(known.get(name)!);
      }
      starts.push(columns.length);
    }
  }
  return {
    label,
    queries,
    keys,
    heads,
    tileQueries,
    tileKeys,
    starts: Int32Array.from(starts),
    columns: Int32Array.from(columns),
    edges: Int32Array.from(edges),
    patterns: Uint32Array.from(patterns),
  };
}

/** Draws of a test, by name. */
export const draws = (name: string): Stream => stream(2).child(name);
