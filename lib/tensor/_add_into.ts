/** Sums of two tensors that their owner needs no more. Room-private. */
import * as tf from "@tensorflow/tfjs";
import { i32, ModuleBuilder } from "../wasm/mod.ts";
import { eachNumber, kernelsOf } from "./_elementwise.ts";
import { wasmHeap } from "./wasm_heap.ts";

/**
 * a + b, of one shape, disposing both. On wasm the sum is written over one of them if nothing else sees its data, which saves the
 * memory of a third; a sum of two numbers does not depend on their order.
 */
export function addInto(a: tf.Tensor, b: tf.Tensor): tf.Tensor {
  const [target, other] = tf.getBackend() === "wasm" && wasmHeap.isShared(a) ? [b, a] : [a, b];
  if (addInPlace(target, other)) {
    other.dispose();
    return target;
  }
  const sum = tf.add(a, b);
  tf.dispose([a, b]);
  return sum;
}

/** Adds a tensor of the same shape to one whose data nothing else sees; false, and nothing done, where that cannot be. */
export function addInPlace(target: tf.Tensor, addend: tf.Tensor): boolean {
  if (tf.getBackend() !== "wasm" || wasmHeap.isShared(target)) return false;
  if (target.dtype !== "float32" || addend.dtype !== "float32") return false;
  kernels().add!(wasmHeap.address(target), wasmHeap.address(addend), 4 * target.size);
  wasmHeap.changed(target);
  return true;
}

/** target[i] += addend[i]. */
const kernels = kernelsOf(() => {
  const module = new ModuleBuilder();
  const add = module.function("add", ["i32", "i32", "i32"]);
  const [target, addend, bytes] = add.params;
  eachNumber(add, bytes, (lanes, at) => {
    const to = i32.add(target, at);
    return lanes.store(to, lanes.add(lanes.load(to), lanes.load(i32.add(addend, at))));
  });
  return module;
});
