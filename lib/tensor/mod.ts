/**
 * # tensor: TensorFlow.js made ready
 *
 * The kit computes with TensorFlow.js (`import * as tf from "@tensorflow/tfjs"`), and this room makes that
 * trustworthy. {@linkcode useBackend} picks what computes and says what it picked: `wasm` (nothing to
 * install), `tensorflow` (the native library, after `deno task setup:tensorflow`) or `webgpu`. A missing
 * backend, a lost device or a broken shader is an error, never a quiet change to something slower or wrong.
 * It also mends what TensorFlow.js gets wrong: {@linkcode registerConvolutionGradients} gives the wasm backend the
 * gradients it lacks, `tf.maximum` and `tf.minimum` can be differentiated when one side is broadcast, and second
 * derivatives see what an operation saved of its output.
 *
 * {@linkcode stream} is the kit's only source of randomness: counter-based, split by name, the same on every
 * device. {@linkcode readSafetensors} and {@linkcode writeSafetensors} exchange tensors with other libraries.
 *
 * This room imports only `convolution` and `wasm`.
 *
 * @module
 */
export { availableBackends, useBackend } from "./backend.ts";
export type { BackendName, BackendOptions, BackendRecord } from "./backend.ts";
export * from "./conv_gradients.ts";
export { differentiable } from "./differentiable.ts";
export { addOver } from "./add_over.ts";
export { followAverage } from "./moving_average.ts";
export { type MomentumSettings, momentumUpdate } from "./momentum.ts";
export { executeNative, type NativeAttribute } from "./native.ts";
export { globalAveragePool, meanTo, repeatTo, type Shape4, sumTo } from "./reductions.ts";
export * from "./safetensors.ts";
export * from "./streams.ts";
export { type VariableGradients, variableGradients } from "./variable_gradients.ts";
export { type WasmHeap, wasmHeap, wasmScratch } from "./wasm_heap.ts";
export { type GpuDispatch, recordDispatches } from "./webgpu_commands.ts";
export { onednnFiles, onednnVersion } from "./onednn_files.ts";
export type { OnednnFiles } from "./onednn_files.ts";
export { cacheFolder, tensorflowFiles, tensorflowVersion } from "./tensorflow_files.ts";
export type { TensorflowBuild, TensorflowFiles } from "./tensorflow_files.ts";
