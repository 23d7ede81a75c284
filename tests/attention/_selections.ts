/** Attention by selections, against what they say of each pair of tokens. */
import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import * as rivals from "../../lib/attention/selection/mod.ts";
import type { BlockMap, Selection } from "../../lib/attention/selection/mod.ts";
import { useBackend } from "../../lib/tensor/mod.ts";
import { draw, draws } from "./_random.ts";

/** A test on the wasm backend that leaves no tensor behind. */
export function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test(name, async () => {
    await useBackend("wasm");
    const before = tf.memory().numTensors;
    await fn();
    assert.equal(tf.memory().numTensors, before);
  });
}

/** Whether head `head` (of batch x heads) lets query i see key j, tokens of the model. */
export type Sees = (head: number, i: number, j: number) => boolean;

/** What a selection says of tokens in the order of the model. */
export function seesOf({ mask, layout }: Selection, heads: number): Sees {
  const { queries } = mask;
  const flags = Array.from({ length: heads * queries }, (_, row) => {
    const kept = new Uint8Array(mask.keys);
    const bounds = mask.intervals(row % queries, Math.floor(row / queries));
    for (let i = 0; i < bounds.length; i += 2) {
      assert.ok(
        bounds[i]! < bounds[i + 1]! && bounds[i]! > (bounds[i - 1] ?? -1) && bounds[i + 1]! <= mask.keys,
      );
      kept.fill(1, bounds[i], bounds[i + 1]);
    }
    return kept;
  });
  const place = (head: number, token: number) => {
    if (!layout) return token;
    if (layout.tokens === queries) return layout.placeOf[token]!;
    return layout.placeOf[head * queries + token]! - head * queries;
  };
  return (head, i, j) => flags[head * queries + place(head, i)]![place(head, j)] === 1;
}

/** Attention as a plain loop in float64: output [batch x heads x tokens x dim] and log-sum-exp. */
export function plain(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  sees: Sees,
): { output: number[]; lse: number[] } {
  const [batch, heads, tokens, dim] = q.shape;
  const [Q, K, V] = [q, k, v].map((x) => x.dataSync()) as [Float32Array, Float32Array, Float32Array];
  const [output, lse]: [number[], number[]] = [[], []];
  for (let row = 0; row < batch * heads * tokens; row++) {
    const [head, i] = [Math.floor(row / tokens), row % tokens];
    const sums = new Float64Array(dim);
    let total = 0;
    for (let j = 0; j < tokens; j++) {
      if (!sees(head, i, j)) continue;
      let score = 0;
      for (let c = 0; c < dim; c++) score += Q[row * dim + c]! * K[(head * tokens + j) * dim + c]!;
      const power = Math.exp(score / Math.sqrt(dim));
      total += power;
      for (let c = 0; c < dim; c++) sums[c]! += power * V[(head * tokens + j) * dim + c]!;
    }
    output.push(...sums.map((sum) => total > 0 ? sum / total : 0));
    lse.push(Math.log(total));
  }
  return { output, lse };
}

/** Float32 softmax and products of normal numbers over at most some hundred keys, against float64. */
export const ROUNDING = 1e-5;

export function assertNear(measured: ArrayLike<number>, expected: ArrayLike<number>, what: string): void {
  assert.equal(measured.length, expected.length);
  for (let i = 0; i < expected.length; i++) {
    const [a, b] = [measured[i]!, expected[i]!];
    assert.ok(a === b || Math.abs(a - b) <= ROUNDING * (1 + Math.abs(b)), `${what} ${i}: ${a}, not ${b}`);
  }
}

/** Attention by a selection, with statistics and with the epilogue, against plain loops. */
export function assertAttends(selection: Selection, [q, k, v]: Triple, sees: Sees): void {
  const [batch, heads, tokens] = q.shape;
  const expected = plain(q, k, v, sees);
  tf.tidy(() => {
    const { output, lse } = rivals.attendSelection(q, k, v, selection, { lse: true });
    assert.deepEqual(output.shape, q.shape);
    assert.deepEqual(lse!.shape, [batch, heads, tokens]);
    assertNear(output.dataSync(), expected.output, "output");
    assertNear(lse!.dataSync(), expected.lse, "lse");
    const rho = tf.tensor3d(draws("rho").uniform(lse!.size), [batch, heads, tokens]);
    const epilogue = { rho, residual: k };
    const used = rivals.attendSelection(q, k, v, selection, { epilogue });
    assert.equal(used.lse, null);
    assertNear(
      used.output.dataSync(),
      tf.add(tf.mul(tf.tensor4d(expected.output, q.shape), tf.expandDims(rho, -1)), k).dataSync(),
      "with epilogue",
    );
  });
}

export type Triple = [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D];

/** Inputs with structure: neighbouring tokens are alike, so that blocks differ. */
export function structured(name: string, shape: [number, number, number, number]): Triple {
  const [, , tokens, dim] = shape;
  const wave = Float32Array.from({ length: tokens * dim }, (_, index) => {
    const [token, channel] = [Math.floor(index / dim), index % dim];
    return Math.cos(token * 0.11 / (1 + channel % 4) + 0.7 * channel);
  });
  return ["q", "k", "v"].map((part) =>
    tf.tidy(() => tf.add(draw(`${name} ${part}`, shape), tf.tensor4d(wave, [1, 1, tokens, dim])))
  ) as Triple;
}

/** A row of flags for each row of blocks, head after head. */
export function rowsOf({ kept, keys, blockKeys }: BlockMap): boolean[][] {
  const columns = Math.ceil(keys / blockKeys);
  return Array.from(
    { length: kept.length / columns },
    (_, row) => Array.from(kept.subarray(row * columns, (row + 1) * columns), Boolean),
  );
}

/** Tokens see each other where their blocks are kept. */
export function seesBlocks(map: BlockMap): Sees {
  const [rows, columns] = [Math.ceil(map.queries / map.blockQueries), Math.ceil(map.keys / map.blockKeys)];
  return (head, i, j) =>
    map.kept[(head * rows + Math.floor(i / map.blockQueries)) * columns + Math.floor(j / map.blockKeys)] ===
      1;
}
