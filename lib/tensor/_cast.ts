/** Casts on the wasm backend. Room-private. */
import * as tf from "@tensorflow/tfjs";
import { replaceKernel } from "./_replace_kernel.ts";

const replaced = new WeakSet<tf.KernelFunc>();

/**
 * A cast to the type that a tensor has shares its data: TensorFlow.js's wasm backend copies them. The gradient of every clone is such a
 * cast, and a gradient that is differentiated again is full of clones.
 */
export function registerCast(): void {
  const kernel = tf.getKernel("Cast", "wasm");
  if (!kernel || replaced.has(kernel.kernelFunc)) return;
  const kernelFunc: tf.KernelFunc = (call) => {
    const { x } = call.inputs;
    if (x!.dtype !== call.attrs!.dtype) return kernel.kernelFunc(call);
    (call.backend as tf.KernelBackend).incRef(x!.dataId);
    return { dataId: x!.dataId, shape: x!.shape, dtype: x!.dtype };
  };
  replaced.add(kernelFunc);
  replaceKernel({ ...kernel, kernelFunc });
}
