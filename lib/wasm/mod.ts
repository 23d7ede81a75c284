/**
 * # wasm: an assembler for kernels
 *
 * WebAssembly SIMD written at run time: {@linkcode ModuleBuilder} makes the bytes of a module out of functions, whose
 * code is composed of instructions ({@linkcode f32x4}, {@linkcode v128}, {@linkcode i32}, loops, conditions). Kernels
 * are made for the graph and the shape at hand in a fraction of a millisecond, and no toolchain is needed.
 *
 * This room imports no other.
 *
 * @module
 */
export { relaxedSimd } from "./features.ts";
export * from "./instructions.ts";
export { FunctionBuilder, ModuleBuilder, variables } from "./module.ts";
