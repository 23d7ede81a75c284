/** The values that a derived layer is made of: equal ones are made once. Room-private. */
import type { IndexSet } from "../graph/mod.ts";

/** Where a value varies, as a set of bits; it is kept once per place where it may differ. */
export type Extent = number;

export const BATCH = 1, SPACE = 2, GROUP = 4, CHANNEL = 8 | GROUP;
export const FULL: Extent = BATCH | SPACE | CHANNEL;

/**
 * Operations. Beyond the arithmetic that their names say, with b a denominator and eps the layer's epsilon:
 *
 * | op | value |
 * |---|---|
 * | Input, Constant | given by name; a number |
 * | Root(a) | sqrt(a), at least sqrt(eps) by the way it was made |
 * | Clamped(b) | s1(b) * max(abs(b), eps), with s1(b) = 1 for b >= 0, else -1 |
 * | Unclamped(b) | 1 where abs(b) >= eps, else 0 |
 * | SigmoidSlope(s), TanhSlope(t) | s (1 - s); 1 - t^2: waits for a factor to become one of the next two |
 * | SigmoidGrad(s, d), TanhGrad(t, d) | d s (1 - s); d (1 - t^2) |
 * | ReluGrad(d, a) | d where a > 0, else 0 |
 * | Sum(a, b, ...) | of full values |
 * | Repeat(a) | a at the full shape |
 * | PixelMean(a), PixelVariance(a, PixelMean(a)) | over the pixels of each sample and channel, of a full a |
 * | RowMean(a) | over an index set, of an a that is constant over pixels |
 */
export type Op =
  | "Input"
  | "Constant"
  | "Add"
  | "Sub"
  | "Mul"
  | "Div"
  | "Max"
  | "Neg"
  | "Sigmoid"
  | "Tanh"
  | "Exp"
  | "Log"
  | "Abs"
  | "Square"
  | "Sqrt"
  | "Root"
  | "Sign"
  | "Clamped"
  | "Unclamped"
  | "SigmoidSlope"
  | "TanhSlope"
  | "SigmoidGrad"
  | "TanhGrad"
  | "Relu"
  | "ReluGrad"
  | "Sum"
  | "Repeat"
  | "PixelMean"
  | "PixelVariance"
  | "RowMean";

/** One value; a full one is [n, h, w, c], any other a row of at most [n, 1, 1, c]. */
export interface Value {
  readonly op: Op;
  /** Indices of earlier values. */
  readonly inputs: readonly number[];
  readonly extent: Extent;
  /** Of RowMean. */
  readonly axes?: IndexSet;
  /** Of Constant. */
  readonly constant?: number;
  /** Of Input. */
  readonly name?: string;
}

/** Whether a value differs from pixel to pixel. */
export function isFull({ extent }: Value): boolean {
  return (extent & SPACE) !== 0;
}

/** Whether a value is accumulated over pixels. */
export function overPixels({ op }: Value): boolean {
  return op === "PixelMean" || op === "PixelVariance";
}

/** The extent of a mean over `axes` of a value of extent `of`. */
function aggregate(of: Extent, axes: IndexSet): Extent {
  switch (axes) {
    case "bwh":
      return of & ~(BATCH | SPACE);
    case "wh":
      return of & ~SPACE;
    case "whc":
      return of & ~(SPACE | CHANNEL);
    case "whc/g":
      return of & ~(SPACE | (CHANNEL & ~GROUP));
  }
}

const folded: Partial<Record<Op, (a: number, b: number) => number>> = {
  Add: (a, b) => a + b,
  Sub: (a, b) => a - b,
  Mul: (a, b) => a * b,
  Neg: (a) => -a,
  Square: (a) => a * a,
};

/** Grows the list of values. */
export class Values {
  readonly all: Value[] = [];
  readonly #made = new Map<string, number>();

  at(index: number): Value {
    return this.all[index]!;
  }

  input(name: string, extent: Extent): number {
    return this.#intern({ op: "Input", inputs: [], name, extent });
  }

  constant(constant: number): number {
    return this.#intern({ op: "Constant", inputs: [], constant, extent: 0 });
  }

  /** An element-wise value in its cheapest form. */
  make(op: Op, ...inputs: [number] | [number, number]): number {
    const [a, b] = inputs;
    const first = this.at(a), second = b === undefined ? undefined : this.at(b);
    if (first.op === "Constant" && (second === undefined || second.op === "Constant") && folded[op]) {
      return this.constant(folded[op](first.constant!, second?.constant ?? 0));
    }
    const [left, right] = [first.constant, second?.constant];
    if (op === "Mul") {
      if (left === 1) return b!;
      if (right === 1) return a;
      if (left === -1) return this.make("Neg", b!);
      if (right === -1) return this.make("Neg", a);
      if (a === b) return this.make("Square", a);
      if (!isFull(first) && !isFull(second!)) {
        if (first.op === "Neg") return this.make("Neg", this.make("Mul", first.inputs[0]!, b!));
        if (second!.op === "Neg") return this.make("Neg", this.make("Mul", a, second!.inputs[0]!));
        // (p * mean) * q as (p * q) * mean: then the mean of equal values, scaled, is what the values are, scaled.
        for (const [product, q] of [[first, b!], [second!, a]] as const) {
          const [p, mean] = product.op === "Mul" ? product.inputs as [number, number] : [q, q];
          if (this.#isMean(q)) continue;
          if (this.#isMean(mean) && !this.#isMean(p)) return this.make("Mul", this.make("Mul", p, q), mean);
          if (this.#isMean(p) && !this.#isMean(mean)) return this.make("Mul", this.make("Mul", mean, q), p);
        }
      }
    } else if (op === "Add") {
      if (left === 0) return b!;
      if (right === 0) return a;
      if (second!.op === "Neg") return this.make("Sub", a, second!.inputs[0]!);
      if (first.op === "Neg") return this.make("Sub", b!, first.inputs[0]!);
    } else if (op === "Neg") {
      if (first.op === "Neg") return first.inputs[0]!;
      if (first.op === "Sub") return this.make("Sub", first.inputs[1]!, first.inputs[0]!);
    }
    const extent = inputs.reduce(
      (joined, input) => joined | this.at(input).extent,
      op === "Repeat" ? FULL : 0,
    );
    return this.#intern({ op, inputs, extent });
  }

  /** The sum of full values. */
  sum(inputs: readonly number[]): number {
    if (inputs.length === 1) return inputs[0]!;
    if (inputs.length === 2) return this.make("Add", inputs[0]!, inputs[1]!);
    return this.#intern({ op: "Sum", inputs, extent: FULL });
  }

  /** The mean over the pixels of a full value: [n, 1, 1, c]. */
  pixelMean(full: number): number {
    const { op, inputs } = this.at(full);
    // Both sides of a Max get (d + m) / 2 and (d - m) / 2: with one mean at hand the other needs no tensor of its own.
    const other = op === "Add" ? this.#known("Sub", inputs) : undefined;
    const otherMean = other === undefined ? undefined : this.#known("PixelMean", [other]);
    if (otherMean !== undefined) {
      return this.make("Sub", this.make("Mul", this.constant(2), this.pixelMean(inputs[0]!)), otherMean);
    }
    return this.#intern({ op: "PixelMean", inputs: [full], extent: BATCH | CHANNEL });
  }

  /** The biased variance over the pixels of a full value: [n, 1, 1, c]. */
  pixelVariance(full: number): number {
    const mean = this.#intern({ op: "PixelMean", inputs: [full], extent: BATCH | CHANNEL });
    return this.#intern({ op: "PixelVariance", inputs: [full, mean], extent: BATCH | CHANNEL });
  }

  /** An element-wise value or mean if it is there. */
  #known(op: Op, inputs: readonly number[]): number | undefined {
    return this.#made.get(`${op} undefined ${inputs}`);
  }

  /** The mean of a row over an index set: itself where it is constant on it. */
  rowMean(row: number, axes: IndexSet): number {
    const { extent } = this.at(row);
    const left = aggregate(extent, axes);
    return left === extent ? row : this.#intern({ op: "RowMean", inputs: [row], axes, extent: left });
  }

  #isMean(index: number): boolean {
    const { op } = this.at(index);
    return op === "RowMean" || op === "PixelMean";
  }

  #intern(value: Value): number {
    const { op, inputs, axes, constant, name } = value;
    const unordered = op === "Add" || op === "Mul" || op === "Max";
    const named = unordered && inputs[0]! > inputs[1]! ? [inputs[1], inputs[0]] : inputs;
    const key = `${op} ${axes ?? name ?? (Object.is(constant, -0) ? "-0" : constant)} ${named}`;
    const known = this.#made.get(key);
    if (known !== undefined) return known;
    const index = this.all.push(value) - 1;
    this.#made.set(key, index);
    return index;
  }
}
