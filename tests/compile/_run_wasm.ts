/** Runs wasm kernels on a memory of their own, between guard values. */
import assert from "node:assert/strict";
import {
  type KernelShape,
  layerPrograms,
  outputName,
  type Program,
  schedule,
  secondGradientProgram,
  type WasmKernel,
  wasmKernel,
  type WasmOptions,
} from "../../lib/compile/mod.ts";
import type { Mode, PublishedLayer } from "../../lib/graph/mod.ts";

/** Numbers by name: x, dy, vectors, and in inference `statistic<node>`, the raw moving moments. */
export type Tensors = Readonly<Record<string, ArrayLike<number>>>;

const PAGE = 65536, GUARD = 12345.678;

type Layer = Pick<PublishedLayer, "graph" | "post">;

/** y, the raw moments of the batch, and all gradients (that to x as `dx`). */
export function runLayer(
  layer: Layer,
  tensors: Tensors,
  shape: KernelShape,
  mode: Mode = "training",
  options: WasmOptions = {},
): Record<string, Float32Array> {
  const { backward } = layerPrograms(layer, mode);
  const { forward, after } = runner(layer, tensors, shape, mode, options);
  const gradients = Object.entries(after(backward)).map(([name, values]) => [`d${name}`, values]);
  return { ...forward, ...Object.fromEntries(gradients) };
}

/** The gradients of the gradients, to `x`, `dy` and the vectors, of upstream gradients `ddx` and so on. */
export function runSecondGradient(
  layer: Layer,
  tensors: Tensors,
  shape: KernelShape,
  mode: Mode = "training",
  options: WasmOptions = {},
): Record<string, Float32Array> {
  return runner(layer, tensors, shape, mode, options).after(secondGradientProgram(layer, mode));
}

/** The results of the forward pass, and a function to run programs that read what it has saved. */
function runner(layer: Layer, tensors: Tensors, shape: KernelShape, mode: Mode, options: WasmOptions) {
  const kernelOf = (program: Program) => wasmKernel(schedule(program), shape, options);
  const forward = kernelOf(layerPrograms(layer, mode).forward);
  const saved = new Float32Array(Math.max(1, forward.savedBytes / 4));
  const size = shape.samples * shape.pixels * shape.channels;
  const images = ["x", "dy", "ddx", ...["y", "x", "dy"].map(outputName)];
  const call = (kernel: WasmKernel) =>
    runKernel(kernel, tensors, saved, (name) => images.includes(name) ? size : shape.channels);
  return { forward: call(forward), after: (program: Program) => call(kernelOf(program)) };
}

/**
 * Lays tensors out from the end of the memory downwards, each followed by a guard, so that the first one (x) ends where the
 * memory does: reading a byte beyond it traps, and writing beyond another is seen.
 */
function runKernel(
  kernel: WasmKernel,
  tensors: Tensors,
  saved: Float32Array,
  sizeOf: (name: string) => number,
): Record<string, Float32Array> {
  const sizes = [...kernel.parameters.map(sizeOf), saved.length, kernel.scratchBytes / 4];
  const pages = 1 + Math.ceil(4 * sizes.reduce((sum, size) => sum + size + 8, 0) / PAGE);
  const memory = new WebAssembly.Memory({ initial: pages });
  const floats = new Float32Array(memory.buffer).fill(GUARD);
  let top = floats.length;
  const places = sizes.map((size, index) => {
    top -= size + (index === 0 ? 0 : 4);
    top -= top % 4; // kernels may assume that tensors start at a multiple of 16 bytes, as those of the backend do not
    return index === 0 ? floats.length - size : top;
  });
  kernel.parameters.forEach((name, index) => floats.set(Array.from(tensors[name] ?? []), places[index]!));
  const [savedPlace, scratchPlace] = places.slice(-2) as [number, number];
  floats.set(saved, savedPlace);
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(kernel.bytes), { env: { memory } });
  const run = exports.run as (...addresses: number[]) => void;
  run(4 * scratchPlace, 4 * savedPlace, ...places.slice(0, -2).map((place) => 4 * place));
  saved.set(floats.subarray(savedPlace, savedPlace + saved.length));
  const results: Record<string, Float32Array> = {};
  kernel.parameters.forEach((name, index) => {
    const [place, size] = [places[index]!, sizeOf(name)];
    const values = floats.slice(place, place + size);
    if (name.startsWith(outputName(""))) results[name.slice(outputName("").length)] = values;
    else assert.deepEqual(values, Float32Array.from(tensors[name]!), `input ${name} was written to`);
    if (index > 0) {
      assert.deepEqual(
        [...floats.slice(place + size, place + size + 3)],
        Array(3).fill(Math.fround(GUARD)),
        `behind ${name}`,
      );
    }
  });
  return results;
}
