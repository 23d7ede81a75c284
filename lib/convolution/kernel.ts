import type { ConvolutionGeometry, ConvolutionProduct } from "./geometry.ts";

/**
 * A WebAssembly module: it exports `run(input, filter, output, scratch)` and imports the memory `env.memory`. The operands are
 * addresses of float32 tensors [n, h, w, c], [kh, kw, c, d] and [n, oh, ow, d]; the product's own one is written, the others are read.
 */
export interface ConvolutionKernel {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Bytes at `scratch` that the kernel overwrites. */
  readonly scratchBytes: number;
}

export interface GeneratorSettings {
  /** Whether to use relaxed SIMD: multiplication and addition in one instruction. */
  readonly relaxed: boolean;
  /** Pages that the memory has at least. */
  readonly pages: number;
}

/** Makes a kernel, or null if it does not take this product. */
export type ConvolutionGenerator = (
  product: ConvolutionProduct,
  geometry: ConvolutionGeometry,
  settings: GeneratorSettings,
) => ConvolutionKernel | null;
