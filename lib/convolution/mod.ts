/**
 * # convolution: kernels written for the geometry at hand
 *
 * Convolutions of images [n, h, w, c] and both their gradients as WebAssembly SIMD. A {@linkcode ConvolutionGenerator} takes a
 * {@linkcode ConvolutionGeometry} and which of the three products is wanted, and writes the bytes of a {@linkcode ConvolutionKernel}:
 * sizes, offsets and counts are constants in it, so that all addresses are simple and no call looks anything up. Four generators divide
 * the work, in the order of {@linkcode convolutionGenerators}:
 *
 * - {@linkcode winogradConvolution}: 3 x 3 of stride 1 by Winograd's minimal filtering, with 2.8 to 4 times fewer products;
 * - {@linkcode stridedWinogradConvolution}: 3 x 3 of stride 2, the same for each parity of rows and columns;
 * - {@linkcode directConvolution}: every regular convolution, by register-tiled products of the images as they lie;
 * - {@linkcode depthwiseConvolution}: one filter per channel, vectors of channels.
 *
 * Nothing here runs a kernel: whoever does instantiates the module on the memory in which the tensors lie.
 *
 * This room imports only `wasm`.
 *
 * @module
 */
export { depthwiseConvolution } from "./depthwise.ts";
export { directConvolution } from "./direct.ts";
export { convolutionGenerators } from "./generators.ts";
export type { Axes, Axis, ConvolutionGeometry, ConvolutionProduct } from "./geometry.ts";
export type { ConvolutionGenerator, ConvolutionKernel, GeneratorSettings } from "./kernel.ts";
export { stridedWinogradConvolution } from "./strided_winograd.ts";
export { winogradConvolution } from "./winograd.ts";
