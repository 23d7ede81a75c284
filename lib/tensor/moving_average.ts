/** Averages that follow what is measured step by step. */
import * as tf from "@tensorflow/tfjs";
import { i32, type Local, ModuleBuilder } from "../wasm/mod.ts";
import { eachNumber, kernelsOf } from "./_elementwise.ts";
import { wasmHeap } from "./wasm_heap.ts";

/**
 * Assigns a variable decay * variable + (1 - decay) * value, of one shape. No gradient flows through it.
 *
 * On wasm one kernel does so in place, bit for bit what TensorFlow.js's operations do elsewhere; data that other tensors share stay as
 * they are.
 *
 * @throws {TypeError} if the two are not of one shape, or not float32
 */
export function followAverage(variable: tf.Variable, value: tf.Tensor, decay: number): void {
  const { shape, dtype } = value;
  if (dtype !== "float32" || !tf.util.arraysEqual(shape, variable.shape)) {
    throw new TypeError(
      `Cannot follow an average as 'value' must be float32 [${variable.shape}]: it is ${dtype} [${shape}]`,
    );
  }
  if (tf.getBackend() === "wasm" && !wasmHeap.isShared(variable)) {
    const [average, measured] = [wasmHeap.address(variable), wasmHeap.address(value)];
    kernels().follow!(average, measured, 4 * variable.size, decay, 1 - decay);
    wasmHeap.changed(variable);
    return;
  }
  tf.tidy(() => variable.assign(tf.add(tf.mul(variable, decay), tf.mul(value, 1 - decay))));
}

const kernels = kernelsOf(() => {
  const module = new ModuleBuilder();
  const follow = module.function("follow", ["i32", "i32", "i32", "f32", "f32"]);
  const [variable, value, bytes, decay, rest] = follow.params;
  eachNumber(follow, bytes, (lanes, at) => {
    const part = (address: Local, weight: Local) =>
      lanes.mul(lanes.load(i32.add(address, at)), lanes.spread(weight));
    return lanes.store(i32.add(variable, at), lanes.add(part(variable, decay), part(value, rest)));
  });
  return module;
});
