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
  readonly #type: Attribute;
  readonly #typed: readonly Attribute[];
  readonly #constants = new Map<string, Handle>();

  constructor(backend: Backend) {
    this.#backend = backend;
    this.#binding = backend.binding;
    this.gpu = backend.isUsingGpuDevice;
    this.#type = this.#attribute("T", "TYPE", this.#binding.TF_FLOAT);
    this.#typed = [this.#type];
  }

  /** An operation whose only attribute is the type of its inputs. */
  run(operation: string, ...inputs: Handle[]): Handle {
    return this.#binding.executeOp(operation, this.#typed, inputs, 1)[0]!.id;
  }

  /** 1 where a comparison holds, else 0. */
  mask(comparison: "GreaterEqual", a: Handle, b: Handle): Handle {
    return this.#through(this.run(comparison, a, b), (truth) =>
      this.#execute("Cast", [
        this.#attribute("SrcT", "TYPE", this.#binding.TF_BOOL),
        this.#attribute("DstT", "TYPE", this.#binding.TF_FLOAT),
        this.#attribute("Truncate", "BOOL", false),
      ], [truth]));
  }

  /** `positive` where `a` >= 0, else `negative`. */
  select(a: Handle, positive: Handle, negative: Handle): Handle {
    return this.#through(
      this.run("GreaterEqual", a, this.scalar(0)),
      (truth) => this.run("SelectV2", truth, positive, negative),
    );
  }

  /** The sum of tensors of one shape. */
  sum(terms: readonly Handle[]): Handle {
    return this.#execute("AddN", [this.#attribute("N", "INT", terms.length), this.#type], terms);
  }

  /** The mean over one axis, kept as an axis of size 1. */
  mean(a: Handle, axis: number): Handle {
    return this.#reduce("Mean", a, axis);
  }

  /** The sum over the pixels, [n, p, c] -> [n, 1, c]; on a processor a matrix product is the fastest way to it. */
  pixelSum(a: Handle, pixels: number): Handle {
    if (this.gpu) return this.#reduce("Sum", a, 1);
    const ones = this.#constant(
      `ones ${pixels}`,
      () =>
        this.#binding.createTensor(
          [1, 1, pixels],
          this.#binding.TF_FLOAT as number,
          new Float32Array(pixels).fill(1),
        ),
    );
    const attributes = [
      this.#type,
      this.#attribute("adj_x", "BOOL", false),
      this.#attribute("adj_y", "BOOL", false),
    ];
    return this.#execute("BatchMatMulV2", attributes, [ones, a]);
  }

  reshape(a: Handle, shape: readonly number[]): Handle {
    return this.#execute("Reshape", [this.#type, this.#indexType("Tshape")], [a, this.integers(shape)]);
  }

  broadcast(a: Handle, shape: readonly number[]): Handle {
    return this.#execute("BroadcastTo", [this.#type, this.#indexType("Tidx")], [a, this.integers(shape)]);
  }

  /** Equal parts along the first axis: views of the same memory. */
  split(a: Handle, parts: number): Handle[] {
    const axis = this.#constant(
      "axis",
      () => this.#binding.createTensor([], this.#binding.TF_INT32 as number, Int32Array.of(0)),
    );
    const attributes = [this.#type, this.#attribute("num_split", "INT", parts)];
    return this.#binding.executeOp("Split", attributes, [axis, a], parts).map(({ id }) => id);
  }

  concatenate(parts: readonly Handle[]): Handle {
    const axis = this.#constant(
      "axis",
      () => this.#binding.createTensor([], this.#binding.TF_INT32 as number, Int32Array.of(0)),
    );
    const attributes = [this.#attribute("N", "INT", parts.length), this.#type, this.#indexType("Tidx")];
    return this.#execute("ConcatV2", attributes, [...parts, axis]);
  }

  scalar(value: number): Handle {
    return this.#constant(
      Object.is(value, -0) ? "-0" : `${value}`,
      () => this.#binding.createTensor([], this.#binding.TF_FLOAT as number, Float32Array.of(value)),
    );
  }

  integers(values: readonly number[]): Handle {
    return this.#constant(
      `[${values}]`,
      () =>
        this.#binding.createTensor(
          [values.length],
          this.#binding.TF_INT32 as number,
          Int32Array.from(values),
        ),
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
    const attributes = [this.#type, this.#indexType("Tshape")];
    const [metadata] = shape === undefined
      ? this.#binding.executeOp("Identity", this.#typed, [handle], 1)
      : this.#binding.executeOp("Reshape", attributes, [handle, this.integers(shape)], 1);
    return this.#backend.createOutputTensor(metadata!);
  }

  #reduce(operation: "Mean" | "Sum", a: Handle, axis: number): Handle {
    const attributes = [this.#attribute("keep_dims", "BOOL", true), this.#type, this.#indexType("Tidx")];
    return this.#execute(operation, attributes, [a, this.integers([axis])]);
  }

  #execute(operation: string, attributes: readonly Attribute[], inputs: readonly Handle[]): Handle {
    return this.#binding.executeOp(operation, attributes, inputs, 1)[0]!.id;
  }

  #through(handle: Handle, use: (handle: Handle) => Handle): Handle {
    try {
      return use(handle);
    } finally {
      this.free(handle);
    }
  }

  #constant(name: string, make: () => Handle): Handle {
    let handle = this.#constants.get(name);
    if (handle === undefined) this.#constants.set(name, handle = make());
    return handle;
  }

  #attribute(name: string, type: "TYPE" | "BOOL" | "INT", value: unknown): Attribute {
    return { name, type: this.#binding[`TF_ATTR_${type}`] as number, value };
  }

  #indexType(name: string): Attribute {
    return this.#attribute(name, "TYPE", this.#binding.TF_INT32);
  }
}
