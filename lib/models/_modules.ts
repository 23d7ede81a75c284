/** Convolution and dense layers with named parameters. Room-private. */
import * as tf from "@tensorflow/tfjs";
import type { Parameters } from "../layers/mod.ts";
import type { Stream } from "../tensor/mod.ts";

/** A k x k convolution without bias (a norm or an affine follows), He-normal initialised over the fan-out. */
export class Convolution {
  readonly #kernel: tf.Variable;
  readonly #stride: number;

  constructor(
    { kernel, input, output, stride }: { kernel: number; input: number; output: number; stride: number },
    parameters: Parameters,
    stream: Stream,
  ) {
    const deviation = Math.sqrt(2 / (kernel * kernel * output));
    const values = stream.normal(kernel * kernel * input * output, 0, deviation);
    this.#kernel = parameters.create("kernel", [kernel, kernel, input, output], values, "weight");
    this.#stride = stride;
  }

  /** [n, h, w, input] -> [n, ceil(h / stride), ceil(w / stride), output]. */
  forward(x: tf.Tensor4D): tf.Tensor4D {
    return tf.conv2d(x, this.#kernel as tf.Tensor4D, this.#stride, "same");
  }
}

/** A fully connected layer with bias, weights uniform in +-1 / sqrt(input). */
export class Dense {
  readonly #kernel: tf.Variable;
  readonly #bias: tf.Variable;

  constructor(input: number, output: number, parameters: Parameters, stream: Stream) {
    const bound = 1 / Math.sqrt(input);
    const values = stream.uniform(input * output, -bound, bound);
    this.#kernel = parameters.create("kernel", [input, output], values, "weight");
    this.#bias = parameters.create("bias", [output], 0, "norm");
  }

  /** [n, input] -> [n, output]. */
  forward(x: tf.Tensor2D): tf.Tensor2D {
    return tf.add(tf.matMul(x, this.#kernel as tf.Tensor2D), this.#bias);
  }
}
