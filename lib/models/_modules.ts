/** Convolution and dense layers with named parameters, and what networks do between them. Room-private. */
import * as tf from "@tensorflow/tfjs";
import type { Parameters } from "../layers/mod.ts";
import { differentiable, globalAveragePool, type Stream, sumTo } from "../tensor/mod.ts";
import type { Padding } from "./model.ts";

/** A k x k convolution without bias (a norm or an affine follows), He-normal initialised over the fan-out. */
export class Convolution {
  readonly #kernel: tf.Variable;
  readonly #window: Window;

  constructor(
    { kernel, input, output, stride, padding }: {
      kernel: number;
      input: number;
      output: number;
      stride: number;
      padding?: Padding | undefined;
    },
    parameters: Parameters,
    stream: Stream,
  ) {
    const deviation = Math.sqrt(2 / (kernel * kernel * output));
    const values = stream.normal(kernel * kernel * input * output, 0, deviation);
    this.#kernel = parameters.create("kernel", [kernel, kernel, input, output], values, "weight");
    this.#window = { kernel, stride, padding };
  }

  /** [n, h, w, input] -> [n, ceil(h / stride), ceil(w / stride), output]. */
  forward(x: tf.Tensor4D): tf.Tensor4D {
    const { input, stride, pad } = padded(x, this.#window);
    return tf.conv2d(input, this.#kernel as tf.Tensor4D, stride, pad);
  }
}

/** A k x k convolution of each channel by itself, without bias, He-normal initialised over the fan-out. */
export class DepthwiseConvolution {
  readonly #kernel: tf.Variable;
  readonly #window: Window;

  constructor(
    { kernel, channels, stride, padding }: {
      kernel: number;
      channels: number;
      stride: number;
      padding?: Padding | undefined;
    },
    parameters: Parameters,
    stream: Stream,
  ) {
    const values = stream.normal(kernel * kernel * channels, 0, Math.sqrt(2 / (kernel * kernel)));
    this.#kernel = parameters.create("kernel", [kernel, kernel, channels, 1], values, "weight");
    this.#window = { kernel, stride, padding };
  }

  /** [n, h, w, channels] -> [n, ceil(h / stride), ceil(w / stride), channels]. */
  forward(x: tf.Tensor4D): tf.Tensor4D {
    const { input, stride, pad } = padded(x, this.#window);
    return tf.depthwiseConv2d(input, this.#kernel as tf.Tensor4D, stride, pad);
  }
}

interface Window {
  readonly kernel: number;
  readonly stride: number;
  readonly padding: Padding | undefined;
}

/** Half of the kernel on every side if symmetric, which not every backend takes in numbers; with stride 1 "same" is that too. */
function padded(x: tf.Tensor4D, { kernel, stride, padding = "same" }: Window) {
  if (padding === "same" || stride === 1 || kernel === 1) return { input: x, stride, pad: "same" } as const;
  const side: [number, number] = [(kernel - 1) / 2, (kernel - 1) / 2];
  return { input: tf.pad(x, [[0, 0], side, side, [0, 0]]), stride, pad: "valid" } as const;
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

/**
 * Squeeze-and-excitation (Hu, Shen, Sun 2018) with its own activations, whatever layer the network has:
 * x * sigmoid(expand(silu(reduce(mean over pixels of x)))).
 */
export class SqueezeExcite {
  readonly #reduce: Dense;
  readonly #expand: Dense;

  constructor(channels: number, squeezed: number, parameters: Parameters, stream: Stream) {
    this.#reduce = new Dense(channels, squeezed, parameters.scope("reduce"), stream.child("reduce"));
    this.#expand = new Dense(squeezed, channels, parameters.scope("expand"), stream.child("expand"));
  }

  /** [n, h, w, channels] -> the same. */
  forward(x: tf.Tensor4D): tf.Tensor4D {
    const [batch, , , channels] = x.shape;
    const squeezed = this.#reduce.forward(globalAveragePool(x));
    const gate = tf.sigmoid(this.#expand.forward(tf.mul(squeezed, tf.sigmoid(squeezed))));
    return scale(x, gate.reshape([batch, 1, 1, channels]));
  }
}

/** x * gate, [n, h, w, c] and [n, 1, 1, c]; the gradient to the gate sums in the form that the backend does fast. */
function scale(x: tf.Tensor4D, gate: tf.Tensor4D): tf.Tensor4D {
  return differentiable(
    [x, gate],
    (save) => {
      save([x, gate]);
      return tf.mul(x, gate);
    },
    (dy, [input, factor]) => [
      tf.mul(dy, factor!),
      sumTo(tf.mul(dy, input!), factor!.shape as [number, number, number, number]),
    ],
  );
}

/** @throws {RangeError} if a size of `what` is not a positive integer */
export function checkSizes(what: string, sizes: Readonly<Record<string, number>>): void {
  for (const [name, value] of Object.entries(sizes)) {
    if (!Number.isInteger(value) || value < 1) {
      throw new RangeError(
        `Cannot build ${what} as '${name}' must be a positive integer: current value is ${value}`,
      );
    }
  }
}
