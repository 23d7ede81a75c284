/**
 * TensorFlow's operations on bare handles. TensorFlow.js's own bookkeeping costs more than an operation on a tensor that lies in the
 * cache, and here every tensor's life is known beforehand. Room-private.
 */
import * as tf from "@tensorflow/tfjs";

/** A tensor of TensorFlow's. */
export type Handle = number;

interface Attribute {
  readonly name: string;
  readonly type: number | undefined;
  readonly value: unknown;
}

interface Metadata {
  readonly id: Handle;
  readonly shape: number[];
  readonly dtype: number;
}

/** What is used of the backend's binding to TensorFlow's C interface. */
interface Binding {
  executeOp(
    name: string,
    attributes: readonly Attribute[],
    inputs: readonly Handle[],
    outputs: number,
  ): Metadata[];
  createTensor(shape: number[], dtype: number, values: Float32Array | Int32Array): Handle;
  deleteTensor(handle: Handle): void;
  readonly [constant: string]: unknown;
}

interface Backend {
  readonly binding: Binding;
  readonly isUsingGpuDevice: boolean;
  getInputTensorIds(tensors: readonly tf.Tensor[]): Handle[];
  createOutputTensor(metadata: Metadata): tf.Tensor;
}

const devices = new WeakMap<object, Device>();

/**
 * The current backend as a device.
 *
 * @throws {Error} if it is not `tensorflow`
 */
export function currentDevice(): Device {
  const name = tf.getBackend();
  if (name !== "tensorflow") {
    throw new Error(
      `Cannot evaluate a derived layer as the backend must be tensorflow: current backend is ${name}`,
    );
  }
  const backend = tf.backend() as unknown as Backend;
  let device = devices.get(backend);
  if (device === undefined) devices.set(backend, device = new Device(backend));
  return device;
}

/** How many constants are held before they are made anew. */
const mostConstants = 1024;

/** TensorFlow behind the backend. */
export class Device {
  readonly gpu: boolean;
  readonly #backend: Backend;
  readonly #binding: Binding;
  readonly #float: number;
  readonly #integer: number;
  readonly #type: Attribute;
  /** The attributes of operations, made once. */
  readonly #attributes: Readonly<
    Record<"typed" | "cast" | "reduce" | "product" | "shape" | "index", readonly Attribute[]>
  >;
  readonly #constants = new Map<string, Handle>();

  constructor(backend: Backend) {
    this.#backend = backend;
    this.#binding = backend.binding;
    this.gpu = backend.isUsingGpuDevice;
    const { TF_FLOAT, TF_INT32, TF_BOOL } = this.#binding;
    this.#float = TF_FLOAT as number;
    this.#integer = TF_INT32 as number;
    this.#type = this.#attribute("T", "TYPE", TF_FLOAT);
    const index = (name: string) => this.#attribute(name, "TYPE", TF_INT32);
    const flag = (name: string, value: boolean) => this.#attribute(name, "BOOL", value);
    this.#attributes = {
      typed: [this.#type],
      cast: [
        this.#attribute("SrcT", "TYPE", TF_BOOL),
        this.#attribute("DstT", "TYPE", TF_FLOAT),
        flag("Truncate", false),
      ],
      reduce: [flag("keep_dims", true), this.#type, index("Tidx")],
      product: [this.#type, flag("adj_x", false), flag("adj_y", false)],
      shape: [this.#type, index("Tshape")],
      index: [this.#type, index("Tidx")],
    };
  }

  /** An operation whose only attribute is the type of its inputs. */
  run(operation: string, inputs: readonly Handle[]): Handle {
    return this.#execute(operation, this.#attributes.typed, inputs);
  }

  /** 1 where a >= limit, else 0. */
  atLeast(a: Handle, limit: number): Handle {
    const truth = this.run("GreaterEqual", [a, this.scalar(limit)]);
    return this.#through(truth, () => this.#execute("Cast", this.#attributes.cast, [truth]));
  }

  /** `positive` where `a` >= 0, else `negative`. */
  select(a: Handle, positive: Handle, negative: Handle): Handle {
    const truth = this.run("GreaterEqual", [a, this.scalar(0)]);
    return this.#through(truth, () => this.run("SelectV2", [truth, positive, negative]));
  }

  /** The sum of tensors of one shape. */
  sum(terms: readonly Handle[]): Handle {
    return this.#execute("AddN", [this.#attribute("N", "INT", terms.length), this.#type], terms);
  }

  /** The mean over one axis, kept as an axis of size 1. */
  mean(a: Handle, axis: number): Handle {
    return this.#execute("Mean", this.#attributes.reduce, [a, this.integers([axis])]);
  }

  /**
   * The mean over the pixels, [n, p, c] -> [n, 1, c]; on a processor a matrix product is the fastest way to it. The mean of equal
   * values is that value: weights 1 / p only where they are exact, else the sum is divided.
   */
  pixelMean(a: Handle, pixels: number): Handle {
    if (this.gpu) return this.mean(a, 1);
    const exact = (pixels & (pixels - 1)) === 0;
    const weights = this.#constant(
      `weights ${pixels}`,
      () =>
        this.#binding.createTensor(
          [1, 1, pixels],
          this.#float,
          new Float32Array(pixels).fill(exact ? 1 / pixels : 1),
        ),
    );
    const sum = this.#execute("BatchMatMulV2", this.#attributes.product, [weights, a]);
    return exact ? sum : this.#through(sum, () => this.run("RealDiv", [sum, this.scalar(pixels)]));
  }

  reshape(a: Handle, shape: readonly number[]): Handle {
    return this.#execute("Reshape", this.#attributes.shape, [a, this.integers(shape)]);
  }

  broadcast(a: Handle, shape: readonly number[]): Handle {
    return this.#execute("BroadcastTo", this.#attributes.index, [a, this.integers(shape)]);
  }

  /** Equal parts along the first axis: views of the same memory. */
  split(a: Handle, parts: number): Handle[] {
    const attributes = [this.#type, this.#attribute("num_split", "INT", parts)];
    return this.#binding.executeOp("Split", attributes, [this.#firstAxis(), a], parts).map(({ id }) => id);
  }

  concatenate(parts: readonly Handle[]): Handle {
    const attributes = [this.#attribute("N", "INT", parts.length), ...this.#attributes.index];
    return this.#execute("ConcatV2", attributes, [...parts, this.#firstAxis()]);
  }

  scalar(value: number): Handle {
    return this.#constant(
      Object.is(value, -0) ? "-0" : `${value}`,
      () => this.#binding.createTensor([], this.#float, Float32Array.of(value)),
    );
  }

  integers(values: readonly number[]): Handle {
    return this.#constant(
      `[${values}]`,
      () => this.#binding.createTensor([values.length], this.#integer, Int32Array.from(values)),
    );
  }

  free(handle: Handle): void {
    this.#binding.deleteTensor(handle);
  }

  /** Forgets constants when there are many; only between evaluations. */
  trim(): void {
    if (this.#constants.size <= mostConstants) return;
    for (const handle of this.#constants.values()) this.free(handle);
    this.#constants.clear();
  }

  /** The handle of a tensor, which stays the tensor's. */
  handle(tensor: tf.Tensor): Handle {
    return this.#backend.getInputTensorIds([tensor])[0]!;
  }

  /** A tensor of TensorFlow.js's with the memory of `handle`, which stays the caller's; of its own shape unless another is given. */
  tensor(handle: Handle, shape?: readonly number[]): tf.Tensor {
    const [metadata] = shape === undefined
      ? this.#binding.executeOp("Identity", this.#attributes.typed, [handle], 1)
      : this.#binding.executeOp("Reshape", this.#attributes.shape, [handle, this.integers(shape)], 1);
    return this.#backend.createOutputTensor(metadata!);
  }

  #execute(operation: string, attributes: readonly Attribute[], inputs: readonly Handle[]): Handle {
    return this.#binding.executeOp(operation, attributes, inputs, 1)[0]!.id;
  }

  #through(handle: Handle, use: () => Handle): Handle {
    try {
      return use();
    } finally {
      this.free(handle);
    }
  }

  #firstAxis(): Handle {
    return this.#constant("axis", () => this.#binding.createTensor([], this.#integer, Int32Array.of(0)));
  }

  #constant(name: string, make: () => Handle): Handle {
    let handle = this.#constants.get(name);
    if (handle === undefined) this.#constants.set(name, handle = make());
    return handle;
  }

  #attribute(name: string, type: "TYPE" | "BOOL" | "INT", value: unknown): Attribute {
    return { name, type: this.#binding[`TF_ATTR_${type}`] as number, value };
  }
}
