/** Tensors of a file in the form in which models hold them. */
import * as tf from "@tensorflow/tfjs";
import { type SafetensorsTensor, toFloat32 } from "../../tensor/mod.ts";
import type { ParameterSpec } from "./types.ts";

/** Room for a tensor that is yet to be turned, used again for each: a collector that comes late would leave hundreds of megabytes. */
export class Staging {
  #room = new Float32Array(0);

  /** The tensor as float32, in its own array or in the room. */
  floats(tensor: SafetensorsTensor): Float32Array {
    if (tensor.dtype === "F32") return tensor.data;
    if (this.#room.length < tensor.data.length) this.#room = new Float32Array(tensor.data.length);
    return toFloat32(tensor, this.#room);
  }
}

/** A tensor of a file in the form in which the kit holds it. */
export function heldTensor(
  tensor: SafetensorsTensor,
  { shape, layout }: ParameterSpec,
  staging: Staging,
): tf.Tensor {
  // A backend may go on with the array that it is given: it must be the tensor's own.
  if (layout === "plain") return uploaded(toFloat32(tensor), shape);
  const values = staging.floats(tensor);
  const out = shape[0]!;
  if (layout === "linear") {
    const input = values.length / out;
    return uploaded(transposed(values, out, input), [input, out]);
  }
  const [, channels, height, width] = shape as [number, number, number, number];
  // [out, in, area] -> [area, in, out]
  const area = height * width;
  const moved = new Float32Array(values.length);
  for (let o = 0, from = 0; o < out; o++) {
    for (let i = 0; i < channels; i++) {
      for (let at = 0; at < area; at++, from++) moved[(at * channels + i) * out + o] = values[from]!;
    }
  }
  return uploaded(moved, [height, width, channels, out]);
}

/** Side of the square that is transposed at a time: two of them lie in the first cache. */
const BLOCK = 32;

function transposed(values: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(values.length);
  for (let row0 = 0; row0 < rows; row0 += BLOCK) {
    const row1 = Math.min(rows, row0 + BLOCK);
    for (let column0 = 0; column0 < columns; column0 += BLOCK) {
      const column1 = Math.min(columns, column0 + BLOCK);
      for (let row = row0; row < row1; row++) {
        for (let column = column0; column < column1; column++) {
          result[column * rows + row] = values[row * columns + column]!;
        }
      }
    }
  }
  return result;
}

/** A tensor that the backend has taken over: the native one would keep the array, and so both, until it is first used. */
function uploaded(values: Float32Array, shape: readonly number[]): tf.Tensor {
  const tensor = tf.keep(tf.tensor(values, [...shape]));
  if (tf.getBackend() === "tensorflow" && values.length > 0) {
    tf.dispose(tf.slice(tensor, shape.map(() => 0), shape.map(() => 1)));
  }
  return tensor;
}
