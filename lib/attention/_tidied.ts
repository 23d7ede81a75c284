import * as tf from "@tensorflow/tfjs";
import type { Attended } from "./types.ts";

/** `tf.tidy` for what attention gives back, whose null TensorFlow.js's types do not know. */
export function tidied(attention: () => Attended): Attended {
  return tf.tidy(attention as unknown as () => { output: tf.Tensor4D; lse: tf.Tensor3D }) as Attended;
}
