/** What computes convolutions on the wasm backend's memory: the kit's own kernels, or a native library where it is set up. */
import type { ConvolutionGeometry, ConvolutionProduct } from "../convolution/mod.ts";

/** Addresses of float32 tensors in the wasm memory: images in, filter, images out (or the gradients to them). */
export interface ConvolutionOperands {
  /** [n, h, w, c]: read, or written by `inputGradient`. */
  readonly input: number;
  /** [kh, kw, c, d] or [kh, kw, c, m]: read, or written by `filterGradient`. */
  readonly filter: number;
  /** [n, oh, ow, outputs]: read, or written by `forward`. */
  readonly output: number;
}

/** An implementation of convolutions. */
export interface ConvolutionEngine {
  /** For provenance, e.g. "WebAssembly relaxed SIMD" or "oneDNN 3.13". */
  readonly name: string;
  /** A function that computes this product at this geometry, or null if the engine does not take it. Made once per geometry. */
  prepare(
    product: ConvolutionProduct,
    geometry: ConvolutionGeometry,
  ): ((operands: ConvolutionOperands) => void) | null;
}
