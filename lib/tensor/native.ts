/** TensorFlow's own operations, beyond those that TensorFlow.js exposes, on the `tensorflow` backend. */
import * as tf from "@tensorflow/tfjs";

/** The value of an operation's attribute; a type attribute is written as "float32" or "int32". */
export type NativeAttribute = string | number | boolean;

interface NativeBackend {
  binding: Record<string, number>;
  executeMultipleOutputs(
    name: string,
    attributes: unknown[],
    inputs: tf.Tensor[],
    outputs: number,
  ): tf.Tensor[];
}

/** TensorFlow.js types as the names of the enumeration of TensorFlow's C interface. */
const types: Record<string, string> = { float32: "TF_FLOAT", int32: "TF_INT32" };

/**
 * Runs a TensorFlow operation by name (https://www.tensorflow.org/api_docs/python/tf/raw_ops) and returns its outputs. Not
 * recorded for differentiation: use inside `tf.customGrad`.
 *
 * @throws {Error} if the current backend is not `tensorflow`, or TensorFlow refuses the operation
 */
export function executeNative(
  operation: string,
  attributes: Readonly<Record<string, NativeAttribute>>,
  inputs: tf.Tensor[],
  outputs: number,
): tf.Tensor[] {
  if (tf.getBackend() !== "tensorflow") {
    throw new Error(
      `Cannot run TensorFlow's '${operation}' as the backend must be tensorflow: current backend is ${tf.getBackend()}`,
    );
  }
  const backend = tf.backend() as unknown as NativeBackend;
  const { binding } = backend;
  const list = Object.entries(attributes).map(([name, value]) => {
    if (typeof value === "boolean") return { name, type: binding.TF_ATTR_BOOL, value };
    if (typeof value === "number") return { name, type: binding.TF_ATTR_FLOAT, value };
    const type = types[value];
    return type === undefined
      ? { name, type: binding.TF_ATTR_STRING, value }
      : { name, type: binding.TF_ATTR_TYPE, value: binding[type] };
  });
  return backend.executeMultipleOutputs(operation, list, inputs, outputs);
}
