/** Attention on TensorFlow.js's wasm backend by the kit's own kernels, in place. */
import * as tf from "@tensorflow/tfjs";
import { wasmHeap, wasmScratch } from "../tensor/mod.ts";
import { relaxedSimd } from "../wasm/mod.ts";
import type { KernelOptions } from "./_kernels.ts";
import type { Attended, TileList } from "./types.ts";
import { KERNEL_PARAMETERS, type Panels } from "./_wasm_frame.ts";
import { attentionKernel } from "./_wasm_kernel.ts";
import type { Strip } from "./_wasm_products.ts";

/** The tiles of lists that the kernel takes. */
export const kernelTile = { queries: 64, keys: 32 } as const;

type Run = (...values: number[]) => void;

interface Loaded {
  readonly memory: WebAssembly.Memory;
  readonly run: Run;
  readonly scratchBytes: number;
}

// Wide strips fill the registers best; narrow ones waste less at the edges of a mask.
const DENSE: { readonly strip: Strip; readonly panels: Panels } = {
  strip: { rows: 2, vectors: 6 },
  panels: { tileQueries: 384, tileKeys: null, panelKeys: 128 },
};
const LISTED: { readonly strip: Strip; readonly panels: Panels } = {
  strip: { rows: 6, vectors: 2 },
  panels: { tileQueries: kernelTile.queries, tileKeys: kernelTile.keys, panelKeys: 256 },
};

/** TensorFlow.js's wasm memory starts with 256 pages; kernels are told of no more, nor of more than there are. */
const MOST_PAGES = 256;
/** What the kernel's tables and working space are aligned to, in bytes. */
const ALIGNMENT = 64;

const kernels = new Map<string, Loaded>();

function load(dim: number, listed: boolean, lse: boolean, epilogue: boolean, relaxed: boolean): Loaded {
  const { memory } = wasmHeap;
  const key = `${dim} ${listed} ${lse} ${epilogue} ${relaxed}`;
  const present = kernels.get(key);
  if (present?.memory === memory) return present;
  const { strip, panels } = listed ? LISTED : DENSE;
  const pages = Math.min(memory.buffer.byteLength / 65536, MOST_PAGES);
  const { bytes, scratchBytes } = attentionKernel({ dim, strip, relaxed }, panels, { lse, epilogue }, pages);
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
  const loaded = { memory, run: exports.run as Run, scratchBytes };
  kernels.set(key, loaded);
  return loaded;
}

/**
 * Attention of q `[batch, heads, queries, dim]` to k and v `[batch, heads, keys, dim]`, softmax(scale q k^T) v over the keys of the
 * listed tiles, on the wasm backend; with `relaxed` false by kernels without relaxed SIMD. Memory beyond operands and results: the tile list and a few hundred KiB.
 */
export function attendKernel(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  { tiles, scale, rho, residual, lse }: KernelOptions,
  relaxed: boolean = relaxedSimd(),
): Attended {
  const [batch, heads, queries, dim] = q.shape;
  const keys = k.shape[2];
  if (tiles !== null) checkTiles(tiles, heads, queries, keys);
  const epilogue = rho !== undefined && residual !== undefined;
  const output = wasmHeap.output([...q.shape]);
  const logSums = lse ? wasmHeap.output([batch, heads, queries]) : null;
  const { run, scratchBytes } = load(dim, tiles !== null, lse, epilogue, relaxed);
  const space = new Space(scratchBytes);
  const lists = tiles && {
    starts: space.place(tiles.starts),
    columns: space.place(tiles.columns),
    edges: space.place(tiles.edges),
    patterns: space.place(tiles.patterns),
  };
  const scratch = space.fill();
  const address = (tensor: tf.TensorInfo | null | undefined) => tensor ? wasmHeap.address(tensor) : 0;
  const places = {
    q: address(q),
    k: address(k),
    v: address(v),
    output: address(output),
    lse: address(logSums),
    rho: address(rho),
    residual: address(residual),
  };
  const rowsOfTiles = Math.ceil(queries / kernelTile.queries);
  for (let head = 0; head < batch * heads; head++) {
    const [rows, others, numbers] = [head * queries * dim * 4, head * keys * dim * 4, head * queries * 4];
    const listOf = tiles?.heads == null ? 0 : head % heads;
    const values: Record<typeof KERNEL_PARAMETERS[number], number> = {
      q: places.q + rows,
      k: places.k + others,
      v: places.v + others,
      output: places.output + rows,
      lse: places.lse + numbers,
      rho: places.rho + numbers,
      residual: places.residual + rows,
      scratch,
      starts: scratch + (lists?.starts ?? 0) + listOf * rowsOfTiles * 4,
      columns: scratch + (lists?.columns ?? 0),
      edges: scratch + (lists?.edges ?? 0),
      patterns: scratch + (lists?.patterns ?? 0),
      queries,
      keys,
      scale: scale * Math.LOG2E,
    };
    run(...KERNEL_PARAMETERS.map((name) => values[name]));
  }
  const engine = tf.engine();
  return {
    output: engine.makeTensorFromTensorInfo(output) as tf.Tensor4D,
    lse: logSums && engine.makeTensorFromTensorInfo(logSums) as tf.Tensor3D,
  };
}

function checkTiles(tiles: TileList, heads: number, queries: number, keys: number): void {
  const { tileQueries, tileKeys } = tiles;
  if (tileQueries !== kernelTile.queries || tileKeys !== kernelTile.keys) {
    throw new RangeError(
      `Cannot attend by the kernel as 'tiles' must be of ${kernelTile.queries} x ${kernelTile.keys}: ` +
        `current ones are ${tileQueries} x ${tileKeys}`,
    );
  }
  if (tiles.queries !== queries || tiles.keys !== keys || (tiles.heads !== null && tiles.heads !== heads)) {
    throw new RangeError(
      `Cannot attend as 'tiles' must be for ${heads} heads, ${queries} queries and ${keys} keys: ` +
        `current ones are for ${tiles.heads ?? "any number of"} heads, ${tiles.queries} and ${tiles.keys}`,
    );
  }
}

/** The kernel's working space and behind it the arrays it reads, in one block of the backend's memory. */
class Space {
  #bytes: number;
  readonly #arrays: { readonly array: Int32Array | Uint32Array; readonly offset: number }[] = [];

  constructor(bytes: number) {
    this.#bytes = aligned(bytes);
  }

  /** The offset at which the array will be. */
  place(array: Int32Array | Uint32Array): number {
    const offset = this.#bytes;
    this.#arrays.push({ array, offset });
    this.#bytes += aligned(array.byteLength);
    return offset;
  }

  /** Copies the arrays; the address of the block. */
  fill(): number {
    const address = aligned(wasmScratch(this.#bytes + ALIGNMENT));
    const words = new Uint32Array(wasmHeap.memory.buffer);
    for (const { array, offset } of this.#arrays) words.set(array, (address + offset) / 4);
    return address;
  }
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
