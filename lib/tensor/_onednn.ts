/** Convolutions by oneDNN where `deno task setup:onednn` has set it up, on the wasm backend's memory, without copies. */
import { existsSync } from "node:fs";
import process from "node:process";
import type { Axis, ConvolutionGeometry, ConvolutionProduct } from "../convolution/mod.ts";
import type { ConvolutionEngine, ConvolutionOperands } from "./_convolution_engine.ts";
import { foreignLibraryProblem, type Handle, loadOnednn } from "./_onednn_library.ts";
import { onednnFiles, onednnVersion } from "./onednn_files.ts";
import { OnednnConvolution, OnednnRuntime } from "./_onednn_primitive.ts";
import { wasmHeap } from "./wasm_heap.ts";

/** Primitives kept: each holds machine code of its own. Those used least recently go first and are made again when needed. */
const MOST_PRIMITIVES = 512;

/** Null when oneDNN can be used here, else the reason why not and how to get it. */
export function onednnProblem(): string | null {
  const problem = foreignLibraryProblem();
  if (problem !== null) return problem;
  try {
    if (process.env.NORMLAB_ONEDNN === "off") return "declined by NORMLAB_ONEDNN=off";
    const { folder, ready } = onednnFiles();
    return existsSync(ready)
      ? null
      : `oneDNN ${onednnVersion} is not set up in ${folder}; run "deno task setup:onednn"`;
  } catch (error) {
    return `its folder cannot be looked for (${(error as Error).message}); it needs --allow-env`;
  }
}

let engine: ConvolutionEngine | null = null;

/**
 * The engine; the library is loaded at the first call.
 *
 * @throws {Error} It is not there ({@linkcode onednnProblem} says why), or cannot be loaded.
 */
export function onednnEngine(): ConvolutionEngine {
  return engine ??= createEngine(onednnFiles().library);
}

function createEngine(path: string): ConvolutionEngine {
  const { library, runtime } = load(path);
  const base = memoryBase((view) => library.addressOf(view));
  const kept = new RecentlyUsed<OnednnConvolution>(MOST_PRIMITIVES, (convolution) => convolution.destroy());
  return {
    name: `oneDNN ${library.version}`,
    prepare(product, geometry) {
      if (!isTaken(geometry)) return null;
      const key = keyOf(product, geometry);
      const create = () => OnednnConvolution.create(runtime, product, geometry);
      if (kept.get(key, create) === null) return null;
      return (operands: ConvolutionOperands) => kept.get(key, create)!.run(base(), operands);
    },
  };
}

function load(path: string) {
  try {
    const library = loadOnednn(path);
    return { library, runtime: new OnednnRuntime(library) };
  } catch (error) {
    throw new Error(
      `Cannot use oneDNN as ${path} must load: ${
        (error as Error).message
      }. NORMLAB_ONEDNN=off computes without it, ` +
        `"deno task setup:onednn --force" sets it up anew`,
    );
  }
}

/** The address of the wasm memory, asked for anew when the memory has grown: it may then lie elsewhere. */
function memoryBase(addressOf: (view: Uint8Array<ArrayBuffer>) => Handle): () => Handle {
  let buffer: ArrayBuffer | null = null;
  let address: Handle = 0n;
  return () => {
    const current = wasmHeap.memory.buffer as ArrayBuffer;
    if (current !== buffer) {
      buffer = current;
      address = addressOf(new Uint8Array(current));
    }
    return address;
  };
}

/** Whether the library computes exactly this: it derives the output's size from the padding, rounding down. */
function isTaken({ kind, axes, channels, outputs }: ConvolutionGeometry): boolean {
  if (kind === "depthwise" && outputs % channels !== 0) return false;
  return axes.every(({ input, kernel, output, stride, dilation, before }: Axis) => {
    const read = (output - 1) * stride + (kernel - 1) * dilation + 1;
    return before >= 0 && output > 0 && before + input - read < stride;
  });
}

function keyOf(
  product: ConvolutionProduct,
  { kind, batch, axes, channels, outputs }: ConvolutionGeometry,
): string {
  const sizes = axes.map((
    { input, kernel, output, stride, dilation, before },
  ) => [input, kernel, output, stride, dilation, before]);
  return [product, kind, batch, channels, outputs, ...sizes].join();
}

/** A bounded map: what was used least recently is let go of. */
class RecentlyUsed<Value> {
  readonly #values = new Map<string, Value>();

  constructor(readonly most: number, readonly release: (value: Value) => void) {}

  /** The value of `key`, created if it is not there; null, which is not kept, if that gives null. */
  get(key: string, create: () => Value | null): Value | null {
    const present = this.#values.get(key);
    const value = present ?? create();
    if (value === null) return null;
    this.#values.delete(key);
    this.#values.set(key, value);
    if (this.#values.size > this.most) {
      const [oldest, given] = this.#values.entries().next().value!;
      this.#values.delete(oldest);
      this.release(given);
    }
    return value;
  }
}
