/** Kernels that go over tensors in the wasm backend's memory number by number. Room-private. */
import {
  type Code,
  countUp,
  f32,
  f32x4,
  type FunctionBuilder,
  i32,
  type Local,
  type ModuleBuilder,
  type Operand,
  v128,
} from "../wasm/mod.ts";
import { wasmHeap } from "./wasm_heap.ts";

/** Arithmetic on one number or on four. */
export interface Lanes {
  readonly type: "f32" | "v128";
  add(a: Operand, b: Operand): Code;
  sub(a: Operand, b: Operand): Code;
  mul(a: Operand, b: Operand): Code;
  load(address: Operand): Code;
  store(address: Operand, value: Operand): Code;
  /** One number in every lane. */
  spread(number: Operand): Operand;
}

const single: Lanes = { ...f32, type: "f32", spread: (number) => number };
const four: Lanes = { ...f32x4, ...v128, type: "v128", spread: f32x4.splat };

/** Adds the loops over `bytes` bytes: four numbers at a time, then one by one. `at` is the offset that the body is to work at. */
export function eachNumber(
  kernel: FunctionBuilder,
  bytes: Local,
  body: (lanes: Lanes, at: Local) => Code,
): void {
  const at = kernel.local("i32");
  const vectors = i32.and(bytes, -16);
  kernel.add(
    countUp(at, 0, vectors, 16, body(four, at)),
    countUp(at, vectors, bytes, 4, body(single, at)),
  );
}

type Kernels = Readonly<Record<string, (...operands: number[]) => void>>;

/** The exports of a module on the memory of the backend in use: written at the first call, and anew when the backend is. */
export function kernelsOf(write: () => ModuleBuilder): () => Kernels {
  let bound: { readonly memory: WebAssembly.Memory; readonly kernels: Kernels } | null = null;
  return () => {
    const { memory } = wasmHeap;
    if (bound?.memory !== memory) {
      const { exports } = new WebAssembly.Instance(new WebAssembly.Module(write().bytes()), {
        env: { memory },
      });
      bound = { memory, kernels: exports as Kernels };
    }
    return bound.kernels;
  };
}
