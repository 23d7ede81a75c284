/** Convolutions by the kit's own kernels: WebAssembly SIMD written for the geometry at hand, on the wasm backend's memory. */
import {
  type ConvolutionGenerator,
  convolutionGenerators,
  type ConvolutionKernel,
} from "../convolution/mod.ts";
import { relaxedSimd } from "../wasm/mod.ts";
import type { ConvolutionEngine, ConvolutionOperands } from "./_convolution_engine.ts";
import { wasmHeap, wasmScratch } from "./wasm_heap.ts";

/** TensorFlow.js's wasm memory starts with 256 pages; kernels are told of no more, nor of more than there are. */
const MOST_PAGES = 256;

type Run = (input: number, filter: number, output: number, scratch: number) => void;

/** The engine; with `relaxed` false its kernels do without relaxed SIMD. */
export function embeddedEngine(
  relaxed = relaxedSimd(),
  candidates: readonly ConvolutionGenerator[] = convolutionGenerators,
): ConvolutionEngine {
  return {
    name: `own kernels, ${relaxed ? "relaxed" : "plain"} SIMD`,
    prepare(product, geometry) {
      const pages = Math.min(wasmHeap.memory.buffer.byteLength / 65536, MOST_PAGES);
      for (const generate of candidates) {
        const kernel = generate(product, geometry, { relaxed, pages });
        if (kernel !== null) return runner(kernel);
      }
      return null;
    },
  };
}

function runner({ bytes, scratchBytes }: ConvolutionKernel): (operands: ConvolutionOperands) => void {
  const module = new WebAssembly.Module(bytes);
  let bound: { readonly memory: WebAssembly.Memory; readonly run: Run } | null = null;
  return ({ input, filter, output }) => {
    const scratch = wasmScratch(scratchBytes);
    const { memory } = wasmHeap;
    if (bound?.memory !== memory) {
      const { exports } = new WebAssembly.Instance(module, { env: { memory } });
      bound = { memory, run: exports.run as Run };
    }
    bound.run(input, filter, output, scratch);
  };
}
