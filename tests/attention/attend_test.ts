import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import {
  attend,
  type AttendOptions,
  band,
  frameBand,
  full,
  type Implementation,
  layout,
  permuted,
  tileList,
  toLayout,
} from "../../lib/attention/mod.ts";
import { attendTiles } from "../../lib/attention/tiled.ts";
import { kernels } from "../../lib/attention/_kernels.ts";
import { availableBackends, type BackendName, stream, useBackend } from "../../lib/tensor/mod.ts";
import { draw, draws, randomMask, type Shape, slowTiles } from "./_random.ts";

/** A test on every backend, skipped with a reason where one is missing. */
async function onEachBackend(name: string, fn: (backend: BackendName) => Promise<void>): Promise<void> {
  for (const [backend, reason] of await availableBackends({ allowSoftware: true })) {
    Deno.test({
      name: `attend on ${backend}: ${name}${reason === null ? "" : ` (skipped: ${reason})`}`,
      ignore: reason !== null,
      // The device of TensorFlow.js lives as long as the process.
      sanitizeResources: false,
      sanitizeOps: false,
      fn: async () => {
        await useBackend(backend, { allowSoftware: true });
        await fn(backend);
      },
    });
  }
}

/** What can run on the current backend. */
const implementations = (): Implementation[] => [
  "reference",
  "tiles",
  ...kernels[tf.getBackend()] ? ["kernel" as const] : [],
];

/**
 * Float32 sums of some hundred terms of size 1, in other orders: a few units of the last place of a few, and as many again from the
 * arguments of exp.
 */
const close = 1e-5;

async function assertClose(a: tf.Tensor, b: tf.Tensor, tolerance: number, message: string): Promise<void> {
  assert.deepEqual(a.shape, b.shape, message);
  const [x, y] = [Float32Array.from(await a.data()), await b.data()];
  const worst = x.reduce((worst, value, i) => {
    const distance = value === y[i] ? 0 : Math.abs(value - y[i]!);
    return Number.isNaN(distance) || distance > worst ? distance : worst;
  }, 0);
  assert.ok(worst <= tolerance, `${message}: off by ${worst}, more than ${tolerance}`);
}

function inputs(
  shape: Shape,
  keys: number = shape[2],
  deviation = 1,
): [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D] {
  const [batch, heads, , dim] = shape;
  const others: Shape = [batch, heads, keys, dim];
  return [draw("q", shape, deviation), draw("k", others), draw("v", others)];
}

await onEachBackend("every implementation agrees with the specification on odd shapes", async (backend) => {
  const draws = stream(3);
  const sizes = draws.child("sizes").integers(4 * 12, 90);
  // A software GPU takes a second to compile each dimension's shaders.
  const dims = [1, 128, 72, 5, 88, 16, 3, 64, 127, 20, 33, 2].slice(0, backend === "webgpu" ? 4 : 12);
  for (const [i, dim] of dims.entries()) {
    const [queries, keys] = [1 + sizes[4 * i]!, 1 + sizes[4 * i + 1]!];
    const heads = 1 + sizes[4 * i + 2]! % 3;
    const [q, k, v] = inputs([1 + i % 2, heads, queries, dim], keys);
    const mask = i % 4 === 3
      ? undefined
      : randomMask(i, [queries, keys], i % 3 ? null : heads, [0.05, 0.5, 0.9][i % 3]!);
    const options: AttendOptions = { ...mask ? { mask } : {}, lse: true };
    const expected = attend(q, k, v, { ...options, implementation: "reference" });
    const epilogue = {
      rho: tf.mul<tf.Tensor3D>(tf.exp(tf.minimum(expected.lse!, 0)), 0.5),
      residual: draw("residual", [1 + i % 2, heads, queries, dim]),
    };
    for (const implementation of implementations()) {
      const label = `${implementation}, [${queries}, ${keys}], dim ${dim}, ${mask?.label ?? "dense"}`;
      const { output, lse } = attend(q, k, v, { ...options, implementation });
      await assertClose(output, expected.output, close, `output, ${label}`);
      await assertClose(lse!, expected.lse!, close, `lse, ${label}`);
      const once = attend(q, k, v, { ...options, lse: false, epilogue, implementation });
      const twice = tf.add(tf.mul(tf.expandDims(epilogue.rho, -1), expected.output), epilogue.residual);
      assert.equal(once.lse, null);
      await assertClose(once.output, twice, close, `epilogue, ${label}`);
      tf.dispose([output, lse!, once.output, twice]);
    }
    tf.dispose([q, k, v, expected.output, expected.lse!, epilogue.rho, epilogue.residual]);
  }
});

await onEachBackend("the ratio is in [0, 1], and 1 with no residual where the mask is full", async () => {
  const [q, k, v] = inputs([1, 2, 75, 24]);
  for (const implementation of implementations()) {
    const dense = attend(q, k, v, { lse: true, implementation });
    for (const mask of [full(75), band(75, 5), randomMask(1, [75, 75], 2, 0.3)]) {
      const sparse = attend(q, k, v, { mask, lse: true, implementation });
      const rho = tf.exp(tf.sub(sparse.lse!, dense.lse!));
      const values = await rho.data();
      // LSE is near 5: the float32 nearest to it is within 2.4e-7, so that a ratio of 1 may come out as 1 + 1e-6.
      assert.ok(values.every((value) => value >= 0 && value <= 1 + 1e-6), `${implementation}, ${mask.label}`);
      if (mask.label !== "full") continue;
      assert.ok(values.every((value) => value >= 1 - 1e-6), implementation);
      await assertClose(sparse.output, dense.output, 1e-6, `full mask, ${implementation}`);
    }
  }
});

await onEachBackend("tokens permuted together with the mask change nothing", async () => {
  const n = 83;
  const [q, k, v] = inputs([1, 2, n, 16]);
  const order = layout(stream(4).permutation(n));
  const mask = frameBand({ frames: 8, frameTokens: 10, half: 2, text: 3 });
  const options: AttendOptions = { lse: true };
  for (const implementation of implementations()) {
    const there = attend(q, k, v, { ...options, mask, implementation });
    const [p, l, w] = [q, k, v].map((x) => toLayout(x, order)) as [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D];
    const here = attend(p, l, w, { ...options, mask: permuted(mask, order), implementation });
    await assertClose(here.output, toLayout(there.output, order), close, `output, ${implementation}`);
    await assertClose(here.lse!, toLayout(there.lse!, order, 2), close, `lse, ${implementation}`);
  }
});

await onEachBackend("any tile size gives the same result", async () => {
  const [q, k, v] = inputs([2, 2, 70, 8], 101);
  for (const heads of [null, 2]) {
    const mask = randomMask(5, [70, 101], heads, 0.1);
    const expected = attend(q, k, v, { mask, lse: true, implementation: "reference" });
    for (
      const [tileQueries, tileKeys] of [[1, 1], [7, 4], [64, 32], [5, 64], [70, 128], [128, 32]] as const
    ) {
      const tiles = tileList(mask, tileQueries, tileKeys);
      const { starts, columns, edges } = slowTiles(mask, tileQueries, tileKeys);
      assert.deepEqual([tiles.starts, tiles.columns], [starts, columns]);
      assert.deepEqual([...tiles.edges].map((edge) => edge < 0), [...edges].map((edge) => edge < 0));
      const { output, lse } = attendTiles(q, k, v, { tiles, scale: 1 / Math.sqrt(8), lse: true });
      await assertClose(output, expected.output, close, `tiles of ${tileQueries} x ${tileKeys}`);
      await assertClose(lse!, expected.lse!, close, `lse, tiles of ${tileQueries} x ${tileKeys}`);
    }
  }
});

await onEachBackend("logits of hundreds neither overflow nor lose the row", async () => {
  const [q, k, v] = inputs([1, 1, 66, 16], 66, 100);
  for (const mask of [undefined, band(66, 3)]) {
    const options = { ...mask ? { mask } : {}, lse: true };
    const expected = attend(q, k, v, { ...options, implementation: "reference" });
    assert.ok(Math.max(...await expected.lse!.data()) > 200);
    for (const implementation of implementations()) {
      const { output, lse } = attend(q, k, v, { ...options, implementation });
      // A logit of 500 has an error of 3e-5, and its exponential the same as a share.
      await assertClose(output, expected.output, 3e-4, `output, ${implementation}`);
      await assertClose(lse!, expected.lse!, 3e-4, `lse, ${implementation}`);
    }
  }
});

/** The gradients of sum(output * dy) with respect to what is attended to. */
function gradients(operands: tf.Tensor[], options: AttendOptions, dy: tf.Tensor): tf.Tensor[] {
  return tf.grads((...operands) => {
    const [q, k, v, rho, residual] = operands as [
      tf.Tensor4D,
      tf.Tensor4D,
      tf.Tensor4D,
      tf.Tensor3D,
      tf.Tensor4D,
    ];
    const epilogue = rho ? { epilogue: { rho, residual } } : {};
    return tf.sum(tf.mul(attend(q, k, v, { ...options, ...epilogue }).output, dy));
  })(operands);
}

await onEachBackend("gradients are those that TensorFlow.js takes of the specification", async () => {
  const names = ["dq", "dk", "dv", "drho", "dresidual"];
  const cases: [Shape, keys: number, heads: number | null, share: number | null][] = [
    [[2, 2, 40, 8], 40, null, null],
    [[1, 3, 70, 16], 133, null, 0.1],
    [[2, 2, 65, 12], 30, 2, 0.05],
    [[1, 1, 9, 5], 200, 1, 0.01],
  ];
  for (const [shape, keys, heads, share] of cases) {
    const operands: tf.Tensor[] = inputs(shape, keys);
    const dy = draw("dy", shape);
    const options = share === null ? {} : { mask: randomMask(7, [shape[2], keys], heads, share) };
    const rho = tf.reshape(draw("rho", [shape[0], shape[1], shape[2], 1]), shape.slice(0, 3));
    for (const all of [operands, [...operands, rho, draw("residual", shape)]]) {
      const expected = gradients(all, { ...options, implementation: "reference" }, dy);
      for (const implementation of implementations().slice(1)) {
        const before = tf.memory().numTensors;
        const found = gradients(all, { ...options, implementation }, dy);
        assert.equal(tf.memory().numTensors - before, all.length);
        for (const [i, gradient] of found.entries()) {
          await assertClose(gradient, expected[i]!, close, `${names[i]}, ${implementation}, [${shape}]`);
        }
      }
    }
  }
});

Deno.test("attend: gradients are the slopes of the output", async () => {
  await useBackend("wasm");
  const shape: Shape = [1, 2, 12, 4];
  const operands: tf.Tensor[] = inputs(shape);
  const dy = draw("dy", shape);
  const options: AttendOptions = { mask: randomMask(8, [12, 12], null, 0.4), implementation: "tiles" };
  const found = gradients(operands, options, dy);
  const steps = draws("steps");
  for (const [i, x] of operands.entries()) {
    const direction = tf.tensor(steps.normal(x.size), x.shape);
    const value = (step: number) => {
      const [q, k, v] = operands.map((y, j) =>
        i === j ? tf.add(y, tf.mul(direction, step)) : y
      ) as tf.Tensor4D[];
      const { output } = attend(q!, k!, v!, { ...options, implementation: "reference" });
      const [outputs, weights] = [Float64Array.from(output.dataSync()), dy.dataSync()];
      return outputs.reduce((sum, value, at) => sum + value * weights[at]!, 0);
    };
    // Central differences of float32 values near 10: 1e-6 / 1e-2 of rounding, and the third derivative times 1e-4.
    const slope = (value(1e-2) - value(-1e-2)) / 2e-2;
    const expected = tf.sum(tf.mul(found[i]!, direction)).dataSync()[0]!;
    assert.ok(
      Math.abs(slope - expected) < 3e-3 * Math.max(1, Math.abs(slope)),
      `${i}: ${slope}, ${expected}`,
    );
  }
});

Deno.test("attend: asking for a gradient of the log-sum-exp is an error, and of the specification it is not", async () => {
  await useBackend("wasm");
  const [q, k, v] = inputs([1, 1, 6, 4]);
  const loss = (implementation: Implementation) => (x: tf.Tensor) =>
    tf.sum(attend(x as tf.Tensor4D, k, v, { lse: true, implementation }).lse!);
  assert.throws(() => tf.grad(loss("tiles"))(q), /Cannot differentiate 'lse'/);
  const slopes = tf.grad(loss("reference"))(q);
  // d LSE_i / d q_i = scale * sum_j p_ij k_j, which is attention to the keys.
  await assertClose(slopes, tf.mul(attend(q, k, k).output, 0.5), close, "gradient of LSE");
});

Deno.test("attend: no tensors are left behind, and memory grows with the tokens, not with their square", async () => {
  await useBackend("wasm");
  for (const masked of [false, true]) {
    const peaks: number[][] = [];
    for (const n of [1024, 4096]) {
      const [q, k, v] = inputs([1, 1, n, 8]);
      const options: AttendOptions = {
        ...masked ? { mask: band(n, 16) } : {},
        lse: true,
        implementation: "tiles",
      };
      const { numTensors, numBytes } = tf.memory();
      const forward = await tf.profile(() => {
        const attended = attend(q, k, v, options);
        assert.equal(tf.memory().numTensors, numTensors + 2);
        tf.dispose([attended.output, attended.lse!]);
      });
      const backward = await tf.profile(() => tf.dispose(gradients([q, k, v], options, v)));
      assert.equal(tf.memory().numTensors, numTensors);
      tf.dispose([q, k, v]);
      // TensorFlow.js counts a reshaped tensor as one more.
      peaks.push([forward.peakBytes - numBytes, backward.peakBytes - numBytes]);
      // All scores would be 67 MB, and there would be several copies.
      if (n === 4096) assert.ok(Math.max(...peaks.at(-1)!) < 30e6, `${masked}: ${peaks}`);
    }
    const growth = peaks[0]!.map((peak, i) => peaks[1]![i]! / peak);
    assert.ok(growth.every((ratio) => ratio < 4.5), `mask ${masked}: ${growth} times for 4 times the tokens`);
  }
});

Deno.test("attend: what cannot be attended is an error before any work", async () => {
  await useBackend("wasm");
  const [q, k, v] = inputs([2, 4, 9, 32], 11);
  const wrong = draw("wrong", [2, 4, 11, 16]);
  const [wide] = inputs([1, 1, 3, 129]);
  const integers = tf.cast(k, "int32");
  const rho = tf.zeros<tf.Rank.R3>([2, 4, 11]);
  const ones = tf.ones<tf.Rank.R3>([2, 4, 9]);
  const flat = tf.zeros<tf.Rank.R3>([4, 9, 32]) as unknown as tf.Tensor4D;
  const before = tf.memory().numTensors;
  const type = (run: () => unknown, message: string) => assert.throws(run, { name: "TypeError", message });
  const range = (run: () => unknown, message: RegExp) => assert.throws(run, { name: "RangeError", message });
  type(
    () => attend(q, wrong, v),
    "Cannot attend as 'k' must be [batch, heads, keys, dim] = [2, 4, 11, 32]: current shape is [2, 4, 11, 16]",
  );
  type(
    () => attend(q, k, q),
    "Cannot attend as 'v' must be [batch, heads, keys, dim] = [2, 4, 11, 32]: current shape is [2, 4, 9, 32]",
  );
  type(
    () => attend(flat, k, v),
    "Cannot attend as 'q' must be [batch, heads, queries, dim]: current shape is [4, 9, 32]",
  );
  type(
    () => attend(q, k, v, { mask: band(9, 2) }),
    "Cannot attend as 'mask' must have [queries, keys] = [9, 11]: current mask is band(2) of [9, 9]",
  );
  type(
    () => attend(q, k, v, { mask: randomMask(1, [9, 11], 3, 0.5) }),
    "Cannot attend as 'mask' must serve any head or have 4 heads: current mask is random(1) of 3 heads",
  );
  type(
    () => attend(q, integers, v),
    "Cannot attend as 'k' must be of dtype float32: current dtype is int32",
  );
  type(
    () => attend(q, k, v, { epilogue: { rho, residual: q } }),
    "Cannot attend as 'rho' must be [batch, heads, queries] = [2, 4, 9]: current shape is [2, 4, 11]",
  );
  type(
    () => attend(q, k, v, { epilogue: { rho: ones, residual: k } }),
    "Cannot attend as 'residual' must be [batch, heads, queries, dim] = [2, 4, 9, 32]: current shape is [2, 4, 11, 32]",
  );
  type(
    () => attend(q, undefined as unknown as tf.Tensor4D, v),
    "Cannot attend as 'k' must be a tensor [batch, heads, keys, dim]: current k is undefined",
  );
  range(() => attend(q, k, v, { scale: NaN }), /'scale' must be a finite number: current scale is NaN/);
  range(
    () => attend(q, k, v, { implementation: "cuda" as Implementation }),
    /'implementation' must be one of auto, reference, tiles, kernel: current implementation is cuda/,
  );
  range(
    () => attend(wide!, wide!, wide!, { implementation: "kernel" }),
    /'dim' must be at most 128 for implementation kernel: current dim is 129/,
  );
  assert.equal(tf.memory().numTensors, before);
  assert.deepEqual(attend(wide!, wide!, wide!).output.shape, [1, 1, 3, 129]);
});
