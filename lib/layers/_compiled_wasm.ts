/** Compiled layers on TensorFlow.js's wasm backend, in its own memory. Room-private. */
import type * as tf from "@tensorflow/tfjs";
import { type KernelShape, outputName, wasmKernel } from "../compile/mod.ts";
import { wasmHeap, wasmScratch } from "../tensor/mod.ts";
import { type CompiledProgram, type KernelResults, Recent } from "./_compiled_programs.ts";

interface Loaded {
  readonly memory: WebAssembly.Memory;
  readonly run: (...addresses: number[]) => void;
  readonly parameters: readonly string[];
  readonly scratchBytes: number;
  readonly savedBytes: number;
}

/** Kernels by program and shape: their code is freed when nothing holds them. */
const kernels = new Recent<string, Loaded>(512);
const names = new WeakMap<CompiledProgram, number>();
let programs = 0;

function load(program: CompiledProgram, shape: KernelShape): Loaded {
  const { memory } = wasmHeap;
  let name = names.get(program);
  if (name === undefined) names.set(program, name = programs++);
  const { samples, pixels, channels, groups } = shape;
  const key = `${name} ${samples} ${pixels} ${channels} ${groups}`;
  const make = (): Loaded => {
    const { bytes, ...rest } = wasmKernel(program.schedule, shape);
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
    return { memory, run: exports.run as Loaded["run"], ...rest };
  };
  return kernels.get(key, make);
}

/** Runs a program on tensors by name. */
export function runWasm(
  program: CompiledProgram,
  shape: KernelShape,
  imageShape: number[],
  inputs: ReadonlyMap<string, tf.TensorInfo>,
): KernelResults {
  const loaded = load(program, shape);
  const { images, vectors } = program.schedule.program;
  // Outputs first: making them may move other tensors' views, never their addresses.
  const written = new Map<string, tf.TensorInfo>();
  for (const { name } of images) written.set(outputName(name), wasmHeap.output(imageShape));
  for (const { name } of vectors) written.set(outputName(name), wasmHeap.output([shape.channels]));
  const saved = inputs.get("saved") ?? wasmHeap.output([Math.max(1, loaded.savedBytes / 4)]);
  const scratch = wasmScratch(loaded.scratchBytes);
  const addresses = loaded.parameters.map((name) => wasmHeap.address(written.get(name) ?? inputs.get(name)!));
  loaded.run(scratch, wasmHeap.address(saved), ...addresses);
  return {
    images: images.map(({ name }) => written.get(outputName(name))!),
    vectors: vectors.map(({ name }) => written.get(outputName(name))!),
    saved,
  };
}
