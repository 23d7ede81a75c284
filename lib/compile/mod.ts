/**
 * # compile: from a layer graph to fused kernels
 *
 * {@linkcode layerPrograms} turns a layer and its symbolic derivative into programs over values, and
 * {@linkcode secondGradientProgram} the derivative of that, for gradients of gradients. {@linkcode schedule} orders a
 * program into as few sweeps over the pixels as its statistics allow, and {@linkcode wasmKernel} writes that order as
 * WebAssembly SIMD for one shape: in well under a millisecond, with no intermediate tensor in memory.
 * {@linkcode wgslKernel} writes it as WebGPU compute shaders.
 *
 * @module
 */
export {
  type BatchMoment,
  isRelu,
  type LayerPrograms,
  layerPrograms,
  momentName,
  secondGradientProgram,
  type VectorName,
  vectorNames,
} from "./program.ts";
export { type Pass, type Phase, type Schedule, schedule } from "./schedule.ts";
export {
  type Elementwise,
  isReduction,
  overBatch,
  type Program,
  type Reduction,
  type Value,
} from "./value.ts";
export { type KernelShape, outputName, type WasmKernel, wasmKernel, type WasmOptions } from "./wasm.ts";
export {
  type WgslBinding,
  type WgslDispatch,
  type WgslKernel,
  wgslKernel,
  type WgslOptions,
} from "./wgsl.ts";
