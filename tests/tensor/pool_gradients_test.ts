import assert from "node:assert/strict";
import * as tf from "@tensorflow/tfjs";
import { availableBackends, type BackendName, stream, useBackend } from "../../lib/tensor/mod.ts";
import { differences } from "../convolution/_reference.ts";

type Shape = [number, number, number, number];
type Pair = [number, number];
type Pad = "same" | "valid" | number;

interface Pool {
  kind: "max" | "avg";
  shape: Shape;
  size: Pair;
  strides: Pair;
  pad: Pad;
}

const both = (n: number): Pair => [n, n];
const windows: [size: Pair, strides: Pair, pad: Pad][] = [
  [both(2), both(2), "valid"],
  [both(3), both(2), "same"],
  [both(3), both(1), "same"],
  [both(2), both(1), "valid"],
  [both(1), both(2), "same"],
  [both(2), both(3), "same"],
  [[3, 5], both(1), "valid"],
  [[2, 1], [1, 2], "same"],
  [both(3), both(2), 1],
];
const shapes: Shape[] = [[2, 6, 7, 3], [1, 8, 8, 5], [2, 7, 9, 4]];
const pools: Pool[] = (["max", "avg"] as const).flatMap((kind) =>
  windows.flatMap(([size, strides, pad]) => shapes.map((shape) => ({ kind, shape, size, strides, pad })))
);

const describe = ({ kind, shape, size, strides, pad }: Pool) =>
  `${kind} [${shape}], ${size}, ${strides}, ${pad}`;

/** By definition, in float64; the mean is over the pixels of the window that are not padding, as in TensorFlow. */
function reference({ kind, shape: [n, h, w, c], size, strides, pad }: Pool, x: ArrayLike<number>): number[] {
  const side = (pixels: number, axis: 0 | 1) => {
    const [kernel, stride] = [size[axis], strides[axis]];
    if (pad === "same") {
      const count = Math.ceil(pixels / stride);
      return { count, before: Math.floor(Math.max((count - 1) * stride + kernel - pixels, 0) / 2) };
    }
    const before = pad === "valid" ? 0 : pad;
    return { count: Math.floor((pixels + 2 * before - kernel) / stride) + 1, before };
  };
  const [rows, columns] = [side(h, 0), side(w, 1)];
  const y: number[] = [];
  for (let image = 0; image < n; image++) {
    for (let i = 0; i < rows.count; i++) {
      for (let j = 0; j < columns.count; j++) {
        for (let channel = 0; channel < c; channel++) {
          const seen: number[] = [];
          for (let a = 0; a < size[0]; a++) {
            for (let b = 0; b < size[1]; b++) {
              const [u, v] = [i * strides[0] + a - rows.before, j * strides[1] + b - columns.before];
              if (u >= 0 && u < h && v >= 0 && v < w) seen.push(x[((image * h + u) * w + v) * c + channel]!);
            }
          }
          y.push(
            kind === "max" ? Math.max(...seen) : seen.reduce((sum, value) => sum + value, 0) / seen.length,
          );
        }
      }
    }
  }
  return y;
}

function apply({ kind, size, strides, pad }: Pool, x: tf.Tensor): tf.Tensor4D {
  return kind === "max"
    ? tf.maxPool(x as tf.Tensor4D, size, strides, pad)
    : tf.avgPool(x as tf.Tensor4D, size, strides, pad);
}

function assertClose(found: ArrayLike<number>, expected: ArrayLike<number>, what: string): void {
  assert.equal(found.length, expected.length, what);
  for (let i = 0; i < expected.length; i++) {
    // Sums of at most 25 terms in float32.
    assert.ok(
      Math.abs(found[i]! - expected[i]!) < 1e-5,
      `${what}: ${found[i]} at ${i}, expected ${expected[i]}`,
    );
  }
}

const available = await availableBackends();
for (const name of ["wasm", "tensorflow"] as BackendName[]) {
  const reason = available.get(name) ?? null;
  if (reason !== null) console.log(`skipped on ${name}: ${reason}`);
  Deno.test({
    name: `${name}: pooling and its gradients, by finite differences`,
    ignore: reason !== null,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      await useBackend(name);
      // The native kernels take no padding by numbers.
      for (const pool of name === "tensorflow" ? pools.filter(({ pad }) => typeof pad === "string") : pools) {
        const draws = stream("pool").child(describe(pool));
        const x = draws.normal(pool.shape.reduce((product, size) => product * size, 1));
        const expected = reference(pool, x);
        const dy = draws.normal(expected.length);
        const [y, dx] = tf.tidy(() => {
          const input = tf.tensor4d(x, pool.shape);
          const output = apply(pool, input);
          const gradient = tf.grad((x) => tf.sum(tf.mul(apply(pool, x), tf.tensor4d(dy, output.shape))));
          return [output.dataSync(), gradient(input).dataSync()];
        });
        assertClose(y!, expected, describe(pool));
        // One image is enough: finite differences take a pass per pixel. The step is too short to change
        // which is largest.
        const one = { ...pool, shape: [1, ...pool.shape.slice(1)] as Shape };
        const size = x.length / pool.shape[0];
        const loss = (x: ArrayLike<number>) =>
          reference(one, x).reduce((sum, value, i) => sum + value * dy[i]!, 0);
        assertClose(
          dx!.subarray(0, size),
          differences(loss, x.subarray(0, size), 1e-7),
          `dx of ${describe(pool)}`,
        );
      }
    },
  });
}

Deno.test({
  name: "wasm: the second image gets its own gradient, and the first pixel of a tie all of it",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    await useBackend("wasm");
    tf.tidy(() => {
      const dx = tf.grad((x) => tf.sum(tf.maxPool(x as tf.Tensor4D, 2, 2, "valid")))(tf.zeros([2, 2, 4, 1]));
      assert.deepEqual([...dx.dataSync()], [1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]);
    });
  },
});
