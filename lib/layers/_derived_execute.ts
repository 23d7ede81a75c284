/** A plan carried out on a device. Room-private. */
import type { IndexSet } from "../graph/mod.ts";
import type { Device, Handle } from "./_derived_device.ts";
import type { Pass, Plan } from "./_derived_plan.ts";
import { BATCH, type Op, type Value } from "./_derived_values.ts";

/** Sizes of the tensor at hand; rows are [samples or 1, 1, channels or 1], full values [samples, pixels, channels]. */
export interface Sizes {
  readonly samples: number;
  readonly pixels: number;
  readonly channels: number;
  readonly groups: number;
  readonly epsilon: number;
}

/** A block of one full value fits several times into the second-level cache of a processor's core. */
const blockBytes = 256 * 1024;

/** How many blocks the batch is cut into: equal ones, of whole samples. */
export function blockCount({ samples, pixels, channels }: Sizes): number {
  const most = Math.max(1, Math.floor(blockBytes / (4 * pixels * channels)));
  for (let size = Math.min(most, samples); size > 1; size--) if (samples % size === 0) return samples / size;
  return samples;
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
  readonly #blocks: number;
  /** Tensors of the whole batch, by value. */
  readonly #whole = new Map<number, Handle>();
  /** Blocks kept for a later pass, by value. */
  readonly #kept = new Map<number, Handle[]>();
  readonly #owned = new Set<Handle>();

  constructor(device: Device, values: readonly Value[], sizes: Sizes) {
    this.#device = device;
    this.#values = values;
    this.#sizes = sizes;
    this.#blocks = device.gpu ? 1 : blockCount(sizes);
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
          this.own(value.op === "RowMean" ? this.#rowMean(value, inputs[0]!) : this.#apply(value, inputs, 0)),
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
    const parts = new Map<number, Handle[]>();
    for (const index of pass.split) {
      const whole = this.result(index);
      if (this.#blocks > 1) {
        parts.set(
          index,
          this.#device.split(whole, this.#blocks).map((part) => this.own(part)),
        );
      }
    }
    const collected = new Map(pass.collected.map((index) => [index, [] as Handle[]]));
    for (const index of pass.kept) this.#kept.set(index, []);
    for (let block = 0; block < this.#blocks; block++) this.#block(pass, block, parts, collected);
    for (const [index, handles] of collected) {
      if (handles.length === 1) {
        this.#whole.set(index, handles[0]!);
      } else {
        this.#whole.set(index, this.own(this.#device.concatenate(handles)));
        for (const handle of handles) this.#release(handle);
      }
    }
    for (const handles of parts.values()) for (const handle of handles) this.#release(handle);
  }

  #block(
    { instructions, kept, reused }: Pass,
    block: number,
    parts: ReadonlyMap<number, Handle[]>,
    collected: ReadonlyMap<number, Handle[]>,
  ): void {
    const local = new Map<number, Handle>(reused.map((index) => [index, this.#kept.get(index)![block]!]));
    const handleOf = (index: number) => local.get(index) ?? parts.get(index)?.[block] ?? this.result(index);
    for (const { index, free } of instructions) {
      const value = this.#values[index]!;
      const handle = this.own(
        this.#apply(value, value.inputs.map(handleOf), this.#sizes.samples / this.#blocks),
      );
      local.set(index, handle);
      collected.get(index)?.push(handle);
      if (kept.includes(index)) this.#kept.get(index)!.push(handle);
      for (const input of free) this.#release(local.get(input)!);
    }
  }

  #release(handle: Handle): void {
    this.#owned.delete(handle);
    this.#device.free(handle);
  }

  /** An operation on rows, or on a block of so many samples. */
  #apply({ op }: Value, inputs: readonly Handle[], samples: number): Handle {
    const device = this.#device;
    const { pixels, channels, epsilon } = this.#sizes;
    const [a, b] = inputs as [Handle, Handle];
    const name = direct[op];
    if (name !== undefined) return device.run(name, ...inputs);
    switch (op) {
      case "Clamped": {
        const above = this.own(device.run("Maximum", a, device.scalar(epsilon)));
        const below = this.own(device.run("Minimum", a, device.scalar(-epsilon)));
        const clamped = device.select(a, above, below);
        this.#release(above);
        this.#release(below);
        return clamped;
      }
      case "Unclamped": {
        const magnitude = this.own(device.run("Abs", a));
        const mask = device.mask("GreaterEqual", magnitude, device.scalar(epsilon));
        this.#release(magnitude);
        return mask;
      }
      case "Sum":
        return device.sum(inputs);
      case "Repeat":
        return device.broadcast(a, [samples, pixels, channels]);
      case "PixelSum":
        return device.pixelSum(a, pixels);
      case "PixelSquares": {
        const mean = this.own(device.run("RealDiv", b, device.scalar(pixels)));
        const squares = this.own(device.run("SquaredDifference", a, mean));
        const sum = device.pixelSum(squares, pixels);
        this.#release(mean);
        this.#release(squares);
        return sum;
      }
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
    const grouped = this.own(device.reshape(row, [rows, groups, members]));
    const means = this.own(device.mean(grouped, 2));
    const repeated = this.own(device.broadcast(means, [rows, groups, members]));
    const result = device.reshape(repeated, [rows, 1, channels]);
    for (const handle of [grouped, means, repeated]) this.#release(handle);
    return result;
  }
}
