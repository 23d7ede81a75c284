/** The kit's own attention kernels, by backend. */
import type * as tf from "@tensorflow/tfjs";
import { attendKernel as attendOnWasm, kernelTile as wasmTile } from "./_wasm_attend.ts";
import { attendKernel as attendOnWebgpu, kernelTile as webgpuTile } from "./_webgpu_attend.ts";
import type { Attended, TileList } from "./types.ts";

/** What a kernel is told, beside q, k and v. */
export interface KernelOptions {
  /** Null: every query sees every key. */
  readonly tiles: TileList | null;
  readonly scale: number;
  /** With `residual`: `rho * O + residual` is wanted. */
  readonly rho?: tf.Tensor3D;
  readonly residual?: tf.Tensor4D;
  readonly lse: boolean;
}

/** Forward attention for one backend, not recorded for differentiation. */
export interface Kernel {
  /** The tile lists that it takes. */
  readonly tile: { readonly queries: number; readonly keys: number };
  attend(q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D, options: KernelOptions): Attended;
}

/** The largest head dimension of every kernel. */
export const mostDim = 128;

/** Backends without an entry have no kernel. */
export const kernels: Readonly<Record<string, Kernel | undefined>> = {
  wasm: { tile: wasmTile, attend: attendOnWasm },
  webgpu: { tile: webgpuTile, attend: attendOnWebgpu },
};
