/** Sums of two tensors that their owner needs no more. */
import * as tf from "@tensorflow/tfjs";
import { countUp, f32, f32x4, i32, ModuleBuilder, v128 } from "../wasm/mod.ts";
import { wasmHeap } from "./wasm_heap.ts";

/**
 * a + b, of one shape, disposing both. On wasm the sum is written over one of them if nothing else sees its data, which saves the
 * memory of a third; a sum of two numbers does not depend on their order.
 */
export function addInto(a: tf.Tensor, b: tf.Tensor): tf.Tensor {
  if (tf.getBackend() === "wasm" && a.dtype === "float32" && b.dtype === "float32") {
    const target = wasmHeap.isShared(a) ? b : a;
    if (!wasmHeap.isShared(target)) {
      const other = target === a ? b : a;
      addInPlace()(wasmHeap.address(target), wasmHeap.address(other), 4 * target.size);
      wasmHeap.changed(target);
      other.dispose();
      return target;
    }
  }
  const sum = tf.add(a, b);
  tf.dispose([a, b]);
  return sum;
}

type AddInPlace = (target: number, addend: number, bytes: number) => void;

let bound: { readonly memory: WebAssembly.Memory; readonly add: AddInPlace } | null = null;

function addInPlace(): AddInPlace {
  const { memory } = wasmHeap;
  if (bound?.memory !== memory) {
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(kernel()), { env: { memory } });
    bound = { memory, add: exports.add as AddInPlace };
  }
  return bound.add;
}

/** target[i] += addend[i], four at a time and then one by one. */
function kernel(): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder();
  const add = module.function("add", ["i32", "i32", "i32"]);
  const [target, addend, bytes] = add.params;
  const at = add.local("i32");
  const [to, from] = [i32.add(target!, at), i32.add(addend!, at)];
  const vectors = i32.and(bytes!, -16);
  add.add(
    countUp(at, 0, vectors, 16, v128.store(to, f32x4.add(v128.load(to), v128.load(from)))),
    countUp(at, vectors, bytes!, 4, f32.store(to, f32.add(f32.load(to), f32.load(from)))),
  );
  return module.bytes();
}
