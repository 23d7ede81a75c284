/** Attention on TensorFlow.js's webgpu backend, in one dispatch. Room-private. */
import * as tf from "@tensorflow/tfjs";
import type { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";
import type { KernelOptions } from "./_kernels.ts";
import type { Attended, TileList } from "./types.ts";
import { record, uniforms } from "./_webgpu_commands.ts";
import {
  attentionShader,
  halvingShader,
  KEYS,
  LEAST_WORKGROUP_BYTES,
  QUERIES,
  type Shader,
  type ShaderSettings,
  SIZES,
} from "./_webgpu_shader.ts";

/** The tile lists that the kernel takes. */
export const kernelTile = { queries: QUERIES, keys: KEYS } as const;

/** Above it, a thread would have more numbers than registers, and a workgroup more threads than every device has. */
const MOST_DIM = 128;

/** What can be set beside what every kernel takes. */
export interface WebgpuKernelOptions extends KernelOptions {
  /**
   * How q, k and v are stored while the kernel reads them; sums are float32 either way. `float16` halves what is read, for one more
   * pass over each, and rounds to 11 bits: numbers must be below 65,520. Default `float32`.
   */
  readonly storage?: "float32" | "float16";
  /** How much workgroup memory the kernel may use, in bytes. Default: what the device has, up to 32 KiB. */
  readonly workgroupBytes?: number;
}

/**
 * `softmax(scale q k^T) v` over the tiles of a list, or over all keys, and with rho and residual `rho * O + residual`. Never holds
 * more scores than a tile has.
 *
 * q [batch, heads, queries, dim], k and v [batch, heads, keys, dim], float32, dim up to 128. Not recorded for differentiation.
 * Shapes of tensors are not checked: see `attend`.
 *
 * @throws {TypeError} on a tile list of other sizes
 * @throws {RangeError} on what the device cannot do: workgroup memory, storage buffers, their size, workgroups, float16
 */
export function attendKernel(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  { tiles, scale, rho, residual, lse, storage = "float32", workgroupBytes }: WebgpuKernelOptions,
): Attended {
  const backend = tf.backend() as WebGPUBackend;
  const { device } = backend;
  const [batch, heads, queries, dim] = q.shape;
  const keys = k.shape[2];
  if (dim > MOST_DIM) cannot(RangeError, "dim", `at most ${MOST_DIM}`, dim);
  if ((rho === undefined) !== (residual === undefined)) {
    cannot(TypeError, "rho", "given with 'residual'", `${rho && "rho"} and ${residual && "residual"}`);
  }
  if (tiles) checkTiles(tiles, heads, queries, keys);
  const shader = shaderFor(device, {
    dim,
    storage,
    tiles: tiles !== null,
    lse,
    epilogue: rho !== undefined,
    workgroupBytes: workgroupBytes ?? device.limits.maxComputeWorkgroupStorageSize,
  });
  const workgroups = [Math.ceil(queries / QUERIES), heads, batch] as const;
  checkSizes(device, workgroups, { q, k, v, ...(rho && residual && { rho, residual }) });

  const list = tiles && deviceList(device, tiles);
  const output = backend.makeTensorInfo([batch, heads, queries, dim], "float32");
  const statistic = lse ? backend.makeTensorInfo([batch, heads, queries], "float32") : null;
  const stored = storage === "float16" ? [q, k, v].map((tensor) => halved(backend, tensor)) : [q, k, v];
  const bound: Record<string, GPUBuffer | tf.TensorInfo | null | undefined> = {
    sizes: uniforms(backend, sizeWords(queries, keys, scale, tiles)),
    q: stored[0],
    k: stored[1],
    v: stored[2],
    output,
    list,
    lse: statistic,
    rho,
    residual,
  };
  record(backend, {
    code: shader.code,
    label: `attention [${q.shape}] to ${keys} keys${tiles ? ` of ${tiles.label}` : ""}`,
    workgroups,
    bindings: shader.bindings.map((name) => bound[name]!),
  });
  // Their memory is used again once the commands have been submitted.
  if (storage === "float16") { for (const { dataId } of stored) backend.disposeData(dataId); }
  const engine = tf.engine();
  return {
    output: engine.makeTensorFromTensorInfo(output) as tf.Tensor4D,
    lse: statistic && engine.makeTensorFromTensorInfo(statistic) as tf.Tensor3D,
  };
}

function cannot(error: ErrorConstructor, name: string, wanted: string, current: unknown): never {
  throw new error(`Cannot attend on webgpu as '${name}' must be ${wanted}: current ${name} is ${current}`);
}

function checkTiles(tiles: TileList, heads: number, queries: number, keys: number): void {
  const { tileQueries, tileKeys } = tiles;
  if (tileQueries !== QUERIES || tileKeys !== KEYS) {
    cannot(
      TypeError,
      "tiles",
      `a list of tiles [${QUERIES}, ${KEYS}]`,
      `of tiles [${tileQueries}, ${tileKeys}]`,
    );
  }
  if (tiles.queries !== queries || tiles.keys !== keys || (tiles.heads ?? heads) !== heads) {
    cannot(
      TypeError,
      "tiles",
      `a list for any or ${heads} heads and [${queries}, ${keys}]`,
      `${tiles.label} for ${tiles.heads ?? "any"} heads and [${tiles.queries}, ${tiles.keys}]`,
    );
  }
}

const shaders = new Map<string, Shader>();

/** The shader for some settings, if the device can run it. */
function shaderFor({ limits, features }: GPUDevice, settings: ShaderSettings): Shader {
  const available = limits.maxComputeWorkgroupStorageSize;
  const { workgroupBytes, storage } = settings;
  if (!(workgroupBytes >= LEAST_WORKGROUP_BYTES && workgroupBytes <= available)) {
    const wanted = `${LEAST_WORKGROUP_BYTES} to ${available} (the device's maxComputeWorkgroupStorageSize)`;
    cannot(RangeError, "workgroupBytes", wanted, workgroupBytes);
  }
  if (storage === "float16" && !features.has("shader-f16")) {
    cannot(RangeError, "storage", "float32 on a device without shader-f16", storage);
  }
  const key = JSON.stringify(settings);
  let shader = shaders.get(key);
  if (shader === undefined) shaders.set(key, shader = attentionShader(settings));
  const buffers = shader.bindings.length - 1; // one is a uniform buffer
  if (buffers > limits.maxStorageBuffersPerShaderStage) {
    const most = limits.maxStorageBuffersPerShaderStage;
    cannot(RangeError, "maxStorageBuffersPerShaderStage", `at least ${buffers} on the device`, most);
  }
  const { maxComputeInvocationsPerWorkgroup: most } = limits;
  if (shader.threads > most) {
    cannot(RangeError, "maxComputeInvocationsPerWorkgroup", `at least ${shader.threads} on the device`, most);
  }
  return shader;
}

function checkSizes(
  { limits }: GPUDevice,
  workgroups: readonly number[],
  tensors: Readonly<Record<string, tf.Tensor>>,
): void {
  const mostWorkgroups = limits.maxComputeWorkgroupsPerDimension;
  if (workgroups.some((count) => count > mostWorkgroups)) {
    const wanted = `at most ${mostWorkgroups} each (the device's maxComputeWorkgroupsPerDimension)`;
    cannot(RangeError, `tiles of queries, heads, batch`, wanted, workgroups.join(", "));
  }
  for (const [name, { size }] of Object.entries(tensors)) checkBytes(limits, name, 4 * size);
}

function checkBytes(limits: GPUSupportedLimits, name: string, bytes: number): void {
  const most = Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize);
  if (bytes > most) cannot(RangeError, name, `at most ${most} bytes for the device`, `${bytes} bytes`);
}

/** What the shader is told: see {@link SIZES}. */
function sizeWords(queries: number, keys: number, scale: number, tiles: TileList | null): ArrayBuffer {
  const words = new ArrayBuffer(4 * SIZES);
  const columns = tiles?.starts.length ?? 0, touched = tiles?.columns.length ?? 0;
  const ownHeads = tiles === null || tiles.heads === null ? 0 : 1;
  new Uint32Array(words).set([queries, keys, ownHeads, columns, columns + touched, columns + 2 * touched]);
  new Float32Array(words, 24).set([scale < 0 ? -1 : 1, Math.abs(scale) * Math.LOG2E, Math.abs(scale)]);
  return words;
}

/** Tile lists on a device, as long as the list lives: starts, columns, edges and patterns after each other. */
const lists = new WeakMap<GPUDevice, WeakMap<TileList, GPUBuffer>>();

function deviceList(device: GPUDevice, tiles: TileList): GPUBuffer {
  let known = lists.get(device);
  if (known === undefined) lists.set(device, known = new WeakMap());
  let buffer = known.get(tiles);
  if (buffer === undefined) {
    const parts = [tiles.starts, tiles.columns, tiles.edges, tiles.patterns];
    const size = 4 * parts.reduce((sum, { length }) => sum + length, 0);
    checkBytes(device.limits, "tiles", size);
    buffer = device.createBuffer({
      label: `tiles of ${tiles.label}`,
      size,
      usage: GPUBufferUsage.STORAGE,
      mappedAtCreation: true,
    });
    const words = new Uint32Array(buffer.getMappedRange());
    let at = 0;
    for (const part of parts) {
      words.set(part, at);
      at += part.length;
    }
    buffer.unmap();
    known.set(tiles, buffer);
  }
  return buffer;
}

/** A tensor [..., dim] in float16, rows filled up to a multiple of four. */
function halved(backend: WebGPUBackend, tensor: tf.Tensor4D): tf.TensorInfo {
  const dim = tensor.shape[3];
  const vectors = tensor.size / dim * Math.ceil(dim / 4);
  const result = backend.makeTensorInfo([2 * vectors], "float32"); // two halves in the bytes of a float
  record(backend, {
    code: halvingShader(dim),
    label: `float16 of [${tensor.shape}]`,
    workgroups: [Math.min(Math.ceil(vectors / 64), 4096), 1, 1],
    bindings: [tensor, result],
  });
  return result;
}
