import assert from "node:assert/strict";
import * as tf from "@tensorflow/tfjs";
import type { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";
import { attendKernel, kernelTile, type WebgpuKernelOptions } from "../../lib/attention/_webgpu_attend.ts";
import { attentionShader } from "../../lib/attention/_webgpu_shader.ts";
import { band, maskOfRows } from "../../lib/attention/masks.ts";
import { tileList } from "../../lib/attention/tiles.ts";
import type { Mask, TileList } from "../../lib/attention/types.ts";
import { availableBackends, stream, useBackend } from "../../lib/tensor/mod.ts";

const missing = (await availableBackends({ allowSoftware: true })).get("webgpu")!;
const adapter = missing === null ? await navigator.gpu.requestAdapter() : null;
const missingHalves = missing ??
  (adapter?.features.has("shader-f16") ? null : "the adapter lacks shader-f16");

function onWebgpu(name: string, fn: () => Promise<void>, reason: string | null = missing): void {
  Deno.test({
    name: `webgpu: ${name}${reason === null ? "" : ` (skipped: ${reason})`}`,
    ignore: reason !== null,
    // The device of TensorFlow.js lives as long as the process.
    sanitizeResources: false,
    sanitizeOps: false,
    fn: async () => {
      await useBackend("webgpu", { allowSoftware: true });
      await fn();
    },
  });
}

/** [batch, heads, queries, keys, dim]. */
type Sizes = readonly [batch: number, heads: number, queries: number, keys: number, dim: number];

type Settings = Partial<Pick<WebgpuKernelOptions, "scale" | "storage" | "workgroupBytes">>;

interface Inputs {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly rho: Float32Array;
  readonly residual: Float32Array;
}

function draw(sizes: Sizes, name: string): Inputs {
  const [batch, heads, queries, keys, dim] = sizes;
  const normal = (part: string, rows: number, length: number) =>
    stream(6).child(name).child(part).normal(batch * heads * rows * length, 0, 1);
  return {
    q: normal("q", queries, dim),
    k: normal("k", keys, dim),
    v: normal("v", keys, dim),
    rho: normal("rho", queries, 1),
    residual: normal("residual", queries, dim),
  };
}

/** Attention as a plain loop in float64. */
function expected([batch, heads, queries, keys, dim]: Sizes, inputs: Inputs, scale: number, mask?: Mask) {
  const { q, k, v, rho, residual } = inputs;
  const [lse, plain, output]: number[][] = [[], [], []];
  for (let row = 0; row < batch * heads * queries; row++) {
    const head = Math.floor(row / queries);
    const bounds = mask?.intervals(row % queries, head % heads) ?? [0, keys];
    const scores = new Map<number, number>();
    for (let i = 0; i < bounds.length; i += 2) {
      for (let key = bounds[i]!; key < bounds[i + 1]!; key++) {
        let score = 0;
        for (let x = 0; x < dim; x++) score += q[row * dim + x]! * k[(head * keys + key) * dim + x]!;
        scores.set(key, score * scale);
      }
    }
    const largest = Math.max(...scores.values());
    let sum = 0;
    const weighted = new Float64Array(dim);
    for (const [key, score] of scores) {
      const weight = Math.exp(score - largest);
      sum += weight;
      for (let x = 0; x < dim; x++) weighted[x]! += weight * v[(head * keys + key) * dim + x]!;
    }
    lse!.push(scores.size === 0 ? -Infinity : largest + Math.log(sum));
    for (let x = 0; x < dim; x++) {
      plain!.push(scores.size === 0 ? 0 : weighted[x]! / sum);
      output!.push(rho[row]! * plain!.at(-1)! + residual[row * dim + x]!);
    }
  }
  return { lse: lse!, plain: plain!, output: output! };
}

function tensors([batch, heads, queries, keys, dim]: Sizes, { q, k, v, rho, residual }: Inputs) {
  return {
    q: tf.tensor4d(q, [batch, heads, queries, dim]),
    k: tf.tensor4d(k, [batch, heads, keys, dim]),
    v: tf.tensor4d(v, [batch, heads, keys, dim]),
    rho: tf.tensor3d(rho, [batch, heads, queries]),
    residual: tf.tensor4d(residual, [batch, heads, queries, dim]),
  };
}

/**
 * Rounding of a score is a few 1e-7 of its terms, exp2 is good to 3 + 2 |x| units in the last place (WGSL), and a weight counts for as
 * much as its size: 1e-5 of numbers up to about 4 is ten times what was seen.
 */
const TOLERANCE = 1e-5;

function requireClose(
  name: string,
  measured: ArrayLike<number>,
  due: readonly number[],
  allowed = TOLERANCE,
) {
  assert.equal(measured.length, due.length, name);
  due.forEach((value, index) => {
    const found = measured[index]!;
    assert.ok(
      found === value ||
        Number.isFinite(value) && Math.abs(found - value) <= allowed * (1 + Math.abs(value)),
      `${name}: number ${index} is ${found}, not ${value}`,
    );
  });
}

const tilesOf = (mask: Mask) => tileList(mask, kernelTile.queries, kernelTile.keys);

/** Compares the kernel with the loop: output with epilogue and LSE, or the plain output alone. */
async function compare(
  sizes: Sizes,
  mask: Mask | undefined,
  {
    scale = 1 / Math.sqrt(sizes[4]),
    inputs = draw(sizes, `${sizes}`),
    plain = false,
    due = inputs,
    ...settings
  }:
    & Settings
    & { inputs?: Inputs; plain?: boolean; due?: Inputs } = {},
): Promise<void> {
  const name = `[${sizes}] ${mask?.label ?? "dense"} ${JSON.stringify({ plain, ...settings })}`;
  const { q, k, v, ...epilogue } = tensors(sizes, inputs);
  const tiles = mask ? tilesOf(mask) : null;
  const found = attendKernel(q, k, v, { tiles, scale, lse: !plain, ...(plain ? {} : epilogue), ...settings });
  const reference = expected(sizes, due, scale, mask);
  assert.deepEqual(found.output.shape, q.shape);
  requireClose(`output of ${name}`, await found.output.data(), plain ? reference.plain : reference.output);
  if (plain) assert.equal(found.lse, null);
  else {
    assert.deepEqual(found.lse!.shape, q.shape.slice(0, 3));
    requireClose(`LSE of ${name}`, await found.lse!.data(), reference.lse);
    found.lse!.dispose();
  }
  tf.dispose([q, k, v, epilogue, found.output]);
}

/** Each element kept with chance `share`; rows without any, a row of tiles without any, and full rows among them. */
function scattered(queries: number, keys: number, heads: number | null, share: number): Mask {
  const draws = stream(7).child(`${queries} ${keys} ${heads}`).uniform((heads ?? 1) * queries * keys);
  return maskOfRows({ label: `scattered(${share})`, queries, keys, heads }, (query, head) => {
    if (query % 11 === 3 || (query >= 64 && query < 128 && queries > 128)) return new Int32Array();
    if (query % 11 === 5) return Int32Array.of(0, keys);
    const bounds: number[] = [];
    let before = false;
    for (let key = 0; key <= keys; key++) {
      const kept = key < keys && draws[((heads === null ? 0 : head) * queries + query) * keys + key]! < share;
      if (kept !== before) bounds.push(key);
      before = kept;
    }
    return Int32Array.from(bounds);
  });
}

onWebgpu("dense, any head dimension and number of tokens", async () => {
  const cases: Sizes[] = [
    [1, 2, 70, 70, 72],
    [2, 1, 64, 64, 88],
    [1, 1, 65, 97, 128],
    [1, 1, 5, 100, 64],
    [1, 1, 130, 33, 30],
    [1, 2, 3, 1, 1],
    [2, 2, 1, 31, 7],
    [1, 1, 20, 40, 36],
    [1, 1, 20, 40, 100],
    [1, 1, 20, 40, 125],
  ];
  for (const sizes of cases) await compare(sizes, undefined);
  await compare([1, 2, 70, 70, 72], undefined, { plain: true });
});

onWebgpu("tile lists: shared and of each head, edges, full tiles, rows and tiles without keys", async () => {
  await compare([2, 2, 150, 150, 72], band(150, 20));
  await compare([2, 2, 150, 150, 72], scattered(150, 150, null, 0.3));
  await compare([2, 3, 140, 75, 16], scattered(140, 75, 3, 0.02));
  await compare([1, 1, 40, 70, 30], scattered(40, 70, 1, 0.5), { plain: true });
  const nothing = maskOfRows({ label: "nothing", queries: 70, keys: 40 }, () => new Int32Array());
  await compare([1, 2, 70, 40, 16], nothing);
});

onWebgpu("a workgroup with 16 KiB of memory", async () => {
  for (const dim of [64, 72, 88, 128]) {
    const { workgroupBytes } = attentionShader({
      dim,
      storage: "float32",
      tiles: true,
      lse: true,
      epilogue: true,
      workgroupBytes: 16384,
    });
    assert.ok(workgroupBytes <= 16384);
    await compare([1, 1, 70, 75, dim], scattered(70, 75, null, 0.3), { workgroupBytes: 16384 });
  }
});

onWebgpu("scores of ten thousand, of either sign, and scales of either sign and 0", async () => {
  const sizes: Sizes = [1, 1, 66, 75, 8];
  const [, , queries, keys, dim] = sizes;
  const inputs = draw(sizes, "large");
  // Whole numbers: the scores q k are exact, +-10,000 + 0 to 6, and what they differ by decides.
  inputs.q.forEach((_, at) =>
    inputs.q[at] = at % dim > 1 ? 0 : at % dim === 1 ? 1 : at < queries * 4 ? 100 : -100
  );
  inputs.k.forEach((_, at) => inputs.k[at] = at % dim > 1 ? 0 : at % dim === 1 ? (at >> 3) % 7 : 100);
  for (const scale of [1, -1, 0, 0.5]) {
    await compare(sizes, undefined, { inputs, scale });
    await compare(sizes, scattered(queries, keys, null, 0.1), { inputs, scale });
  }
});

onWebgpu("storage in float16", async () => {
  const halves = (numbers: Float32Array) => Float32Array.from(new Float16Array(numbers));
  for (const dim of [72, 30]) {
    const sizes: Sizes = [2, 2, 70, 75, dim];
    const inputs = draw(sizes, "halves");
    // Sums are float32: against the loop on rounded inputs, the tolerance is the same.
    const due = { ...inputs, q: halves(inputs.q), k: halves(inputs.k), v: halves(inputs.v) };
    await compare(sizes, undefined, { inputs, due, storage: "float16" });
    await compare(sizes, scattered(70, 75, null, 0.3), { inputs, due, storage: "float16" });
  }
}, missingHalves);

onWebgpu("among operations of TensorFlow.js; no tensor is left behind", async () => {
  const backend = tf.backend() as WebGPUBackend;
  const sizes: Sizes = [1, 2, 70, 70, 72];
  const inputs = draw(sizes, "among");
  const tiles = tilesOf(band(70, 9));
  const run = () =>
    tf.tidy(() => {
      const { q, k, v } = tensors(sizes, inputs);
      const { output, lse } = attendKernel(tf.mul(q, 2), k, v, {
        tiles,
        scale: 0.05,
        lse: true,
        ...(missingHalves === null ? { storage: "float16" } : {}),
      });
      return tf.add(tf.neg(output), tf.expandDims(lse!, -1));
    });
  const first = run();
  const measured = await first.data();
  first.dispose();
  const { numTensors } = tf.memory(), ids = backend.numDataIds();
  for (let index = 0; index < 3; index++) {
    const again = run();
    assert.deepEqual(await again.data(), measured);
    again.dispose();
  }
  assert.equal(tf.memory().numTensors, numTensors);
  assert.equal(backend.numDataIds(), ids);
  const { plain, lse } = expected(sizes, inputs, 0.1, band(70, 9));
  const due = plain.map((value, at) => lse[Math.floor(at / 72)]! - value);
  requireClose("sum", measured, due, missingHalves === null ? 2e-3 : TOLERANCE); // float16 has 11 bits
});

/** Runs `use` while the device says that it has other limits or features. */
function onDevice(
  { limits, features }: { limits?: Partial<GPUSupportedLimits>; features?: ReadonlySet<string> },
  use: () => void,
): void {
  const { device } = tf.backend() as WebGPUBackend;
  const own = device.limits;
  const pretended = Object.entries({
    ...(limits &&
      {
        limits: new Proxy({}, {
          get: (_, name) => Reflect.get({ ...limits }, name) ?? Reflect.get(own, name, own),
        }),
      }),
    ...(features && { features }),
  });
  for (const [name, value] of pretended) Object.defineProperty(device, name, { value, configurable: true });
  try {
    use();
  } finally {
    for (const [name] of pretended) Reflect.deleteProperty(device, name);
  }
}

onWebgpu("what the device or the kernel cannot do is said before any work", () => {
  const backend = tf.backend() as WebGPUBackend;
  const sizes: Sizes = [1, 2, 70, 70, 8];
  const { q, k, v, rho, residual } = tensors(sizes, draw(sizes, "refused"));
  const list = tilesOf(band(70, 9));
  const ids = backend.numDataIds();
  const run = (settings: Partial<WebgpuKernelOptions> = {}, [a, b, c] = [q, k, v]) => () =>
    attendKernel(a!, b!, c!, { tiles: null, scale: 1, lse: true, ...settings });
  const large = tf.zeros<tf.Rank.R4>([1, 1, 2, 129]);
  assert.throws(
    run({}, [large, large, large]),
    /RangeError: Cannot attend on webgpu as 'dim' must be at most 128: current dim is 129/,
  );
  assert.throws(run({ rho }), /TypeError: Cannot attend on webgpu as 'rho' must be given with 'residual'/);
  const others: [string, TileList][] = [
    ["a list of tiles \\[64, 32\\]: current tiles is of tiles \\[32, 32\\]", tileList(band(70, 9), 32, 32)],
    ["a list for any or 2 heads and \\[70, 70\\]: .* for any heads and \\[71, 71\\]", tilesOf(band(71, 9))],
    ["a list for any or 2 heads and \\[70, 70\\]: .* for 3 heads", tilesOf(scattered(70, 70, 3, 0.1))],
  ];
  for (const [message, tiles] of others) {
    assert.throws(
      run({ tiles }),
      new RegExp(`TypeError: Cannot attend on webgpu as 'tiles' must be ${message}`),
    );
  }
  const { maxComputeWorkgroupStorageSize: most } = backend.device.limits;
  for (const workgroupBytes of [16383, most + 16, NaN]) {
    assert.throws(
      run({ workgroupBytes }),
      new RegExp(
        `RangeError: .*'workgroupBytes' must be 16384 to ${most} .*: current .* is ${workgroupBytes}`,
      ),
    );
  }
  onDevice({ features: new Set() }, () =>
    assert.throws(
      run({ storage: "float16" }),
      /RangeError: Cannot attend on webgpu as 'storage' must be float32 on a device without shader-f16/,
    ));
  const everything = { tiles: list, rho, residual };
  const limits: [Partial<GPUSupportedLimits>, RegExp][] = [
    [{ maxStorageBuffersPerShaderStage: 7 }, /'maxStorageBuffersPerShaderStage' must be at least 8 .*is 7/],
    [
      { maxComputeInvocationsPerWorkgroup: 32 },
      /'maxComputeInvocationsPerWorkgroup' must be at least 64 .*is 32/,
    ],
    [
      { maxComputeWorkgroupsPerDimension: 1 },
      /'tiles of queries, heads, batch' must be at most 1 each .*is 2, 2, 1/,
    ],
    [{ maxStorageBufferBindingSize: 4000 }, /'q' must be at most 4000 bytes .*is 4480 bytes/],
  ];
  for (const [changed, message] of limits) {
    onDevice({ limits: changed }, () => assert.throws(run(everything), message));
  }
  assert.equal(backend.numDataIds(), ids + 1); // `large`
  // All that a shader can bind is within what every device has.
  onDevice({ limits: { maxStorageBuffersPerShaderStage: 8 } }, () => assert.ok(run(everything)().output));
  return Promise.resolve();
});

onWebgpu("a broken shader is an error that names the operation", async () => {
  const { device } = tf.backend() as WebGPUBackend;
  const sizes: Sizes = [1, 1, 9, 9, 12];
  const run = () => {
    const { q, k, v } = tensors(sizes, draw(sizes, "broken"));
    return attendKernel(q, k, v, { tiles: tilesOf(band(9, 2)), scale: 1, lse: false }).output;
  };
  const create = device.createShaderModule.bind(device);
  device.createShaderModule = (descriptor) =>
    create({ ...descriptor, code: descriptor.code.replaceAll("exp2(", "nonsense(") });
  const broken = run();
  const report =
    /the device reports GPUValidationError[^]*attention \[1,1,9,12\] to 9 keys of band[^]*nonsense/;
  await assert.rejects(() => broken.data(), report);
  assert.throws(() => tf.square(broken), report);
  // The failed device is replaced; what was on it is void.
  await useBackend("webgpu", { allowSoftware: true });
  assert.ok((await run().data()).every(Number.isFinite));
});
