import * as tf from "@tensorflow/tfjs";

/** Registers a kernel in the place of TensorFlow.js's own, if it has one. Calling it again changes nothing. */
export function replaceKernel(kernel: tf.KernelConfig): void {
  const present = tf.getKernel(kernel.kernelName, kernel.backendName);
  if (present?.kernelFunc === kernel.kernelFunc) return;
  if (present) tf.unregisterKernel(kernel.kernelName, kernel.backendName);
  tf.registerKernel(kernel);
}
