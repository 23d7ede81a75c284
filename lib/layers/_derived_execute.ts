/** A plan carried out on a device. Room-private. */
import type { IndexSet } from "../graph/mod.ts";
import type { Device, Handle } from "./_derived_device.ts";
import type { Pass, Plan } from "./_derived_plan.ts";
import { BATCH, isFull, type Op, overPixels, type Value } from "./_derived_values.ts";

/** Sizes of the tensor at hand; rows are [samples or 1, 1, channels or 1]. */
export interface Sizes {
  readonly samples: number;
  readonly pixels: number;
  readonly channels: number;
  readonly groups: number;
  readonly epsilon: number;
}

/** How the batch is cut: full values are [samples * chunks, pixels / chunks, channels], cut into blocks along the first axis. */
export interface Blocks {
  readonly chunks: number;
  readonly count: number;
}

/** A dozen blocks of full values fit into the second-level cache of a processor's core; smaller ones cost more to dispatch. */
const blockBytes = 256 * 1024;

/** Equal blocks of about {@linkcode blockBytes}: of several samples, or each a chunk of one. */
export function blocksOf({ samples, pixels, channels }: Sizes): Blocks {
  const wanted = 4 * pixels * channels / blockBytes;
  if (wanted <= 1) {
    const size = largestDivisor(samples, Math.max(1, Math.floor(1 / wanted)));
    return { chunks: 1, count: samples / size };
  }
  const chunks = pixels / largestDivisor(pixels, Math.max(1, Math.floor(pixels / wanted)));
  // A number of pixels without a fitting divisor: blocks that are too large are better than a block for each pixel.
  return chunks > 4 * wanted ? { chunks: 1, count: samples } : { chunks, count: samples * chunks };
}

function largestDivisor(of: number, most: number): number {
  let divisor = Math.min(of, most);
  while (of % divisor !== 0) divisor--;
  return divisor;
}

/** Operations of TensorFlow that are one of ours, argument for argument. */
const direct: Partial<Record<Op, string>> = {
  Add: "AddV2",
  Sub: "Sub",
  Mul: "Mul",
  Div: "RealDiv",
  Max: "Maximum",
  Neg: "Neg",
  Sigmoid: "Sigmoid",
  Tanh: "Tanh",
  Exp: "Exp",
  Log: "Log",
  Abs: "Abs",
  Square: "Square",
  Sqrt: "Sqrt",
  Root: "Sqrt",
  Sign: "Sign",
  SigmoidGrad: "SigmoidGrad",
  TanhGrad: "TanhGrad",
  Relu: "Relu",
  ReluGrad: "ReluGrad",
};

/** One evaluation: owns the handles that it makes until {@linkcode Execution.dispose}. */
export class Execution {
  readonly #device: Device;
  readonly #values: readonly Value[];
  readonly #sizes: Sizes;
  readonly #blocks: Blocks;
  /** Tensors of the whole batch, by value. */
  readonly #whole = new Map<number, Handle>();
  /** Blocks kept for a later pass, by value. */
  readonly #kept = new Map<number, Handle[]>();
  readonly #owned = new Set<Handle>();

  constructor(device: Device, values: readonly Value[], sizes: Sizes) {
    this.#device = device;
    this.#values = values;
    this.#sizes = sizes;
    this.#blocks = device.gpu ? { chunks: 1, count: 1 } : blocksOf(sizes);
  }

  /** The shape of full values. */
  get fullShape(): [number, number, number] {
    const { samples, pixels, channels } = this.#sizes, { chunks } = this.#blocks;
    return [samples * chunks, pixels / chunks, channels];
  }

  /** Gives a value its tensor, which stays the caller's. */
  give(index: number, handle: Handle): void {
    this.#whole.set(index, handle);
  }

  /** A tensor that the evaluation shall free at its end. */
  own(handle: Handle): Handle {
    this.#owned.add(handle);
    return handle;
  }

  /** The tensor of a value, whole. */
  result(index: number): Handle {
    const { op, constant } = this.#values[index]!;
    return op === "Constant" ? this.#device.scalar(constant!) : this.#whole.get(index)!;
  }

  run({ steps }: Plan): void {
    for (const { rows, pass } of steps) {
      for (const index of rows) {
        const value = this.#values[index]!;
        const inputs = value.inputs.map((input) => this.result(input));
        this.#whole.set(
          index,
          this.own(value.op === "RowMean" ? this.#rowMean(value, inputs[0]!) : this.#apply(value, inputs)),
        );
      }
      if (pass !== null) this.#pass(pass);
    }
  }

  dispose(): void {
    for (const handle of this.#owned) this.#device.free(handle);
    this.#owned.clear();
  }

  #pass(pass: Pass): void {
    const { chunks, count } = this.#blocks;
    const parts = new Map<number, Handle[]>();
    for (const index of pass.split) {
      const blocks = isFull(this.#values[index]!) ? count : count / chunks;
      if (blocks > 1) {
        parts.set(
          index,
          this.#device.split(this.result(index), blocks).map((part) => this.own(part)),
        );
      }
    }
    for (const index of pass.kept) this.#kept.set(index, []);
    const collected = new Map(pass.collected.map((index) => [index, [] as Handle[]]));
    this.#sweep(pass, parts, collected);
    for (const [index, handles] of collected) {
      const [first] = handles;
      this.#whole.set(index, handles.length === 1 ? first! : this.own(this.#device.concatenate(handles)));
      if (handles.length > 1) { for (const handle of handles) this.#release(handle); }
    }
    for (const handles of parts.values()) for (const handle of handles) this.#release(handle);
    if (chunks > 1) this.#joinChunks(pass.collected);
  }

  /** Every block of a pass. What is looked up by name is looked up before: an operation on a block takes microseconds. */
  #sweep(
    { instructions, kept, reused }: Pass,
    parts: ReadonlyMap<number, Handle[]>,
    collected: ReadonlyMap<number, Handle[]>,
  ): void {
    /** The handles of values in the block at hand, by value; before the first block those that are the same in all. */
    const local: Handle[] = [];
    const made = new Set([...instructions.map(({ index }) => index), ...reused]);
    for (const { index } of instructions) {
      for (const input of this.#values[index]!.inputs) {
        if (!made.has(input) && !parts.has(input)) local[input] = this.result(input);
      }
    }
    const whole = [...parts].filter(([index]) => isFull(this.#values[index]!));
    const rows = [...parts].filter(([index]) => !isFull(this.#values[index]!));
    const plans = instructions.map(({ index, free }) => ({
      index,
      free,
      value: this.#values[index]!,
      lists: [collected.get(index), kept.includes(index) ? this.#kept.get(index) : undefined].filter((list) =>
        list !== undefined
      ),
    }));
    const { chunks, count } = this.#blocks;
    for (let block = 0; block < count; block++) {
      for (const [index, handles] of whole) local[index] = handles[block]!;
      for (const [index, handles] of rows) local[index] = handles[Math.floor(block / chunks)]!;
      for (const index of reused) local[index] = this.#kept.get(index)![block]!;
      for (const { index, free, value, lists } of plans) {
        const handle = this.own(this.#apply(value, value.inputs.map((input) => local[input]!)));
        local[index] = handle;
        for (const list of lists) list.push(handle);
        for (const input of free) this.#release(local[input]!);
      }
    }
  }

  /** From moments of each chunk to moments of each sample. */
  #joinChunks(collected: readonly number[]): void {
    const device = this.#device;
    const { samples, channels } = this.#sizes;
    const chunked = new Map(
      collected.filter((index) => overPixels(this.#values[index]!)).map((index) => [
        index,
        this.own(device.reshape(this.result(index), [samples, this.#blocks.chunks, channels])),
      ]),
    );
    for (const [index, rows] of chunked) {
      const { op, inputs } = this.#values[index]!;
      const joined = op === "PixelMean"
        ? device.mean(rows, 1)
        : this.#joinVariances(rows, chunked.get(inputs[1]!)!);
      this.#whole.set(index, this.own(joined));
    }
    for (const handle of chunked.values()) this.#release(handle);
  }

  /** The mean of the chunks' variances and of the squared distances of their means from the common one: [n, chunks, c] -> [n, 1, c]. */
  #joinVariances(variances: Handle, means: Handle): Handle {
    const device = this.#device;
    return this.#using(
      device.mean(means, 1),
      (centre) =>
        this.#using(
          device.run("SquaredDifference", [means, centre]),
          (spread) => this.#using(device.run("AddV2", [variances, spread]), (both) => device.mean(both, 1)),
        ),
    );
  }

  /** What comes of a handle, which is freed. */
  #using(handle: Handle, use: (handle: Handle) => Handle): Handle {
    this.own(handle);
    const result = use(handle);
    this.#release(handle);
    return result;
  }

  #release(handle: Handle): void {
    this.#owned.delete(handle);
    this.#device.free(handle);
  }

  /** An operation on rows or on a block. */
  #apply({ op }: Value, inputs: readonly Handle[]): Handle {
    const device = this.#device;
    const { epsilon } = this.#sizes;
    const [a, b] = inputs as [Handle, Handle];
    const [samples, pixels, channels] = this.fullShape;
    const name = direct[op];
    if (name !== undefined) return device.run(name, inputs);
    switch (op) {
      case "Clamped":
        return this.#using(
          device.run("Maximum", [a, device.scalar(epsilon)]),
          (above) =>
            this.#using(
              device.run("Minimum", [a, device.scalar(-epsilon)]),
              (below) => device.select(a, above, below),
            ),
        );
      case "Unclamped":
        return this.#using(device.run("Abs", [a]), (magnitude) => device.atLeast(magnitude, epsilon));
      case "Sum":
        return device.sum(inputs);
      case "Repeat":
        return device.broadcast(a, [samples / this.#blocks.count, pixels, channels]);
      case "PixelMean":
        return device.pixelMean(a, pixels);
      case "PixelVariance":
        return this.#using(
          device.run("SquaredDifference", [a, b]),
          (squares) => device.pixelMean(squares, pixels),
        );
      default:
        throw new Error(
          `Cannot compute a derived layer's value as its operation must be known: current one is ${op}`,
        );
    }
  }

  /** The mean of a row over an index set, as a row. */
  #rowMean(value: Value, row: Handle): Handle {
    const device = this.#device;
    const axes: IndexSet = value.axes!;
    if (axes === "bwh") return device.mean(row, 0);
    if (axes !== "whc/g") return device.mean(row, 2);
    const { samples, channels, groups } = this.#sizes;
    const [rows, members] = [(value.extent & BATCH) === 0 ? 1 : samples, channels / groups];
    return this.#using(
      device.reshape(row, [rows, groups, members]),
      (grouped) =>
        this.#using(
          device.mean(grouped, 2),
          (means) =>
            this.#using(device.broadcast(means, [rows, groups, members]), (repeated) =>
              device.reshape(repeated, [rows, 1, channels])),
        ),
    );
  }
}
