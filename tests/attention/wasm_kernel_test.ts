import assert from "node:assert/strict";
import * as tf from "@tensorflow/tfjs";
import { attendKernel, kernelTile } from "../../lib/attention/_wasm_attend.ts";
import { blockMask, elementMask, frameBand, full } from "../../lib/attention/masks.ts";
import { tileList } from "../../lib/attention/tiles.ts";
import type { Mask } from "../../lib/attention/types.ts";
import { stream, useBackend, wasmHeap } from "../../lib/tensor/mod.ts";

interface Case {
  readonly batch: number;
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  readonly dim: number;
  /** Null: dense. */
  readonly mask: Mask | null;
  /** Standard deviation of q and k. */
  readonly spread?: number;
  readonly epilogue?: boolean;
  readonly relaxed?: boolean;
}

interface Operands {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly rho: Float32Array;
  readonly residual: Float32Array;
}

function operandsOf({ batch, heads, queries, keys, dim, spread = 1 }: Case, seed: string): Operands {
  const draws = stream("wasm attention").child(seed);
  const matrices = batch * heads;
  return {
    q: draws.normal(matrices * queries * dim, 0, spread),
    k: draws.normal(matrices * keys * dim, 0, spread),
    v: draws.normal(matrices * keys * dim),
    rho: draws.uniform(matrices * queries),
    residual: draws.normal(matrices * queries * dim),
  };
}

/** The definition, in float64; the largest score in magnitude as well. */
function expected({ batch, heads, queries, keys, dim, mask, epilogue }: Case, operands: Operands) {
  const { q, k, v, rho, residual } = operands;
  const output = new Float64Array(batch * heads * queries * dim);
  const lse = new Float64Array(batch * heads * queries);
  const everything = Int32Array.of(0, keys);
  let largest = 0;
  for (let row = 0; row < lse.length; row++) {
    const matrix = Math.floor(row / queries);
    const bounds = mask?.intervals(row % queries, matrix % heads) ?? everything;
    const seen: { key: number; score: number }[] = [];
    for (let i = 0; i < bounds.length; i += 2) {
      for (let key = bounds[i]!; key < bounds[i + 1]!; key++) {
        let score = 0;
        for (let c = 0; c < dim; c++) score += q[row * dim + c]! * k[(matrix * keys + key) * dim + c]!;
        seen.push({ key, score: score / Math.sqrt(dim) });
      }
    }
    const most = seen.reduce((most, { score }) => Math.max(most, score), -Infinity);
    let sum = 0;
    for (const { key, score } of seen) {
      largest = Math.max(largest, Math.abs(score));
      const weight = Math.exp(score - most);
      sum += weight;
      for (let c = 0; c < dim; c++) output[row * dim + c]! += weight * v[(matrix * keys + key) * dim + c]!;
    }
    lse[row] = seen.length === 0 ? -Infinity : most + Math.log(sum);
    for (let c = row * dim; c < (row + 1) * dim; c++) {
      output[c] = seen.length === 0 ? 0 : output[c]! / sum;
      if (epilogue) output[c] = rho[row]! * output[c]! + residual[c]!;
    }
  }
  return { output, lse, largest };
}

function attended(one: Case, operands: Operands) {
  const { batch, heads, queries, keys, dim, mask, epilogue, relaxed } = one;
  const tensor = (values: Float32Array, tokens: number) => tf.tensor4d(values, [batch, heads, tokens, dim]);
  const [q, k, v] = [tensor(operands.q, queries), tensor(operands.k, keys), tensor(operands.v, keys)];
  const rho = tf.tensor3d(operands.rho, [batch, heads, queries]);
  const residual = tensor(operands.residual, queries);
  const tiles = mask && tileList(mask, kernelTile.queries, kernelTile.keys);
  const result = attendKernel(q, k, v, {
    tiles,
    scale: 1 / Math.sqrt(dim),
    lse: true,
    ...(epilogue ? { rho, residual } : {}),
  }, relaxed);
  const values = { output: result.output.dataSync(), lse: result.lse!.dataSync() };
  assert.deepEqual(result.output.shape, q.shape);
  assert.deepEqual(result.lse!.shape, [batch, heads, queries]);
  tf.dispose([q, k, v, rho, residual, result.output, result.lse!]);
  return values;
}

function check(one: Case, seed: string): void {
  const operands = operandsOf(one, seed);
  const { output, lse, largest } = expected(one, operands);
  const found = attended(one, operands);
  // A score is a sum of `dim` products, each rounded by up to 6e-8 of it; its error is the relative one of the weight.
  const tolerance = 2e-6 + 1e-6 * largest;
  const near = (name: string, found: ArrayLike<number>, expected: Float64Array, tolerance: number) => {
    for (let i = 0; i < expected.length; i++) {
      const error = Math.abs(found[i]! - expected[i]!);
      assert.ok(
        found[i] === expected[i] || error <= tolerance,
        `${seed}: ${name}[${i}] is ${found[i]}, expected ${expected[i]}, tolerance ${tolerance}`,
      );
    }
  };
  near("output", found.output, output, tolerance);
  near("lse", found.lse, lse, tolerance);
}

/** Elements at random in some tiles of any size, everything in others; some rows without keys. */
function randomMask(queries: number, keys: number, heads: number | null, seed: string): Mask {
  const draws = stream("wasm attention masks").child(seed);
  const elements = new Uint8Array((heads ?? 1) * queries * keys);
  const [height, width] = [1 + draws.integers(1, 80)[0]!, 1 + draws.integers(1, 90)[0]!];
  const columns = Math.ceil(keys / width);
  for (let head = 0; head < (heads ?? 1); head++) {
    for (let top = 0; top < queries; top += height) {
      const kinds = draws.uniform(columns);
      const bottom = Math.min(queries, top + height);
      for (let query = top; query < bottom; query++) {
        const chances = draws.uniform(keys);
        const isEmpty = draws.uniform(1)[0]! < 0.1;
        for (let key = 0; key < keys && !isEmpty; key++) {
          const kind = kinds[Math.floor(key / width)]!;
          if (kind < 0.3 || (kind < 0.6 && chances[key]! < 0.2)) {
            elements[(head * queries + query) * keys + key] = 1;
          }
        }
      }
    }
  }
  return elementMask({ queries, keys, heads, elements });
}

const dims = [1, 3, 16, 64, 72, 88, 128];

Deno.test("dense: random shapes, every head dimension", async () => {
  await useBackend("wasm");
  for (const dim of dims) {
    const sizes = stream("dense sizes").child(String(dim)).integers(6, 300).map((size) => size + 1);
    for (let i = 0; i < 3; i++) {
      const [queries, keys] = [sizes[2 * i]!, sizes[2 * i + 1]!];
      check(
        { batch: 1 + i % 2, heads: 1 + i, queries, keys, dim, mask: null, epilogue: i === 1 },
        `dense ${dim} ${queries} ${keys}`,
      );
    }
  }
});

Deno.test("tile lists: random elements, empty rows, one mask for all heads or one for each", async () => {
  await useBackend("wasm");
  for (const dim of dims) {
    const sizes = stream("sparse sizes").child(String(dim)).integers(8, 400).map((size) => size + 1);
    for (let i = 0; i < 4; i++) {
      const [queries, keys] = [sizes[2 * i]!, sizes[2 * i + 1]!];
      const heads = 1 + i % 3;
      const seed = `sparse ${dim} ${queries} ${keys}`;
      const mask = randomMask(queries, keys, i % 2 === 0 ? null : heads, seed);
      check({ batch: 1 + i % 2, heads, queries, keys, dim, mask, epilogue: i > 1 }, seed);
    }
  }
});

Deno.test("few queries and few keys", async () => {
  await useBackend("wasm");
  for (const [queries, keys] of [[1, 1], [1, 7], [2, 5], [9, 2], [65, 33], [8, 6], [24, 32]] as const) {
    for (const mask of [null, full(queries, keys), randomMask(queries, keys, null, `${queries} ${keys}`)]) {
      check({ batch: 2, heads: 2, queries, keys, dim: 5, mask }, `${queries} x ${keys} ${mask?.label}`);
    }
  }
});

Deno.test("scattered tiles of one row", async () => {
  await useBackend("wasm");
  const [rows, columns] = [3, 40];
  const blocks = stream("scattered").uniform(rows * columns).map((draw) => draw < 0.3 ? 1 : 0);
  const mask = blockMask({
    queries: rows * 50,
    keys: columns * 24,
    blockQueries: 50,
    blockKeys: 24,
    blocks: Uint8Array.from(blocks),
  });
  check({ batch: 1, heads: 1, queries: rows * 50, keys: columns * 24, dim: 64, mask }, "scattered");
});

Deno.test("runs of keys with gaps in tiles side by side", async () => {
  await useBackend("wasm");
  for (const [frames, frameTokens, half] of [[6, 37, 1], [3, 64, 5], [40, 8, 0], [9, 13, 3]] as const) {
    const mask = frameBand({ frames, frameTokens, half, text: 5 });
    const { queries, keys } = mask;
    check({ batch: 1, heads: 2, queries, keys, dim: 16, mask }, mask.label);
  }
});

Deno.test("logits of several hundred", async () => {
  await useBackend("wasm");
  const [queries, keys] = [150, 700];
  for (const mask of [null, randomMask(queries, keys, null, "large")]) {
    const one = { batch: 1, heads: 2, queries, keys, dim: 64, mask, spread: 12 };
    assert.ok(expected(one, operandsOf(one, "large")).largest > 400);
    check(one, "large");
  }
});

Deno.test("what a mask drops has no influence, whatever it is", async () => {
  await useBackend("wasm");
  const [queries, keys, dim] = [70, 100, 16];
  const elements = new Uint8Array(queries * keys);
  for (let query = 0; query < queries; query++) elements.fill(1, query * keys, query * keys + query % keys);
  const triangle = elementMask({ queries, keys, elements });
  const one = { batch: 1, heads: 1, queries, keys, dim, mask: triangle };
  const operands = operandsOf(one, "dropped");
  const before = attended(one, operands);
  // Key 69 is seen by nobody; its score would be the largest of every row, and its value counts for much.
  operands.k.fill(1000, 69 * dim, 70 * dim);
  operands.v.fill(1e30, 69 * dim, 70 * dim);
  const after = attended(one, operands);
  assert.deepEqual(after, before);
});

Deno.test("plain SIMD computes the same to rounding", async () => {
  await useBackend("wasm");
  const [queries, keys] = [130, 200];
  for (const mask of [null, randomMask(queries, keys, null, "plain")]) {
    check({ batch: 1, heads: 1, queries, keys, dim: 24, mask, relaxed: false }, "plain");
  }
});

Deno.test("nothing is written outside of the results", async () => {
  await useBackend("wasm");
  const [queries, keys, dim] = [37, 45, 7];
  for (const mask of [null, randomMask(queries, keys, null, "guard")]) {
    const one = { batch: 1, heads: 1, queries, keys, dim, mask, epilogue: true };
    const operands = operandsOf(one, "guard");
    attended(one, operands); // compiles, and takes its working space
    const guards = Array.from({ length: 40 }, () => wasmHeap.output([queries * dim]));
    const tensors = guards.map((info) => tf.engine().makeTensorFromTensorInfo(info));
    for (const tensor of tensors) {
      new Float32Array(wasmHeap.memory.buffer, wasmHeap.address(tensor), tensor.size).fill(12345);
    }
    // Every second block is given back: what is made next lies between guards.
    const kept = tensors.filter((tensor, index) => {
      if (index % 2 === 0) tensor.dispose();
      return index % 2 === 1;
    });
    attended(one, operands);
    for (const tensor of kept) assert.ok(tensor.dataSync().every((value) => value === 12345));
    tf.dispose(kept);
  }
});

Deno.test("tile lists of other sizes are refused", async () => {
  await useBackend("wasm");
  const x = tf.zeros([1, 1, 64, 8]) as tf.Tensor4D;
  const list = (queries: number, keys: number) => tileList(full(queries, 64), 64, keys);
  assert.throws(
    () => attendKernel(x, x, x, { tiles: list(64, 64), scale: 1, lse: false }),
    /Cannot attend by the kernel as 'tiles' must be of 64 x 32: current ones are 64 x 64/,
  );
  assert.throws(
    () => attendKernel(x, x, x, { tiles: list(65, 32), scale: 1, lse: false }),
    /Cannot attend as 'tiles' must be for 1 heads, 64 queries and 64 keys/,
  );
  x.dispose();
});
