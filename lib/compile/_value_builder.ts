import type { IndexSet } from "../graph/mod.ts";
import type { Program, Reduction, Value } from "./value.ts";

/** Products of rows of more factors than this stay as they were made. */
const MOST_FACTORS = 8;

type Op = Exclude<Value["op"], "Input" | "Constant">;

/** Grows a program: equal values are made once, and small ones are combined before they meet full ones. */
export class ValueBuilder {
  readonly values: Value[] = [];
  readonly #made = new Map<string, number>();

  input(name: string, full: boolean, perSample = full): number {
    return this.#intern({ op: "Input", inputs: [], name, full, perSample });
  }

  constant(constant: number): number {
    return this.#intern({ op: "Constant", inputs: [], constant, full: false, perSample: false });
  }

  /**
   * An element-wise value, in its cheapest form. A row that multiplies a full value is kept outermost, so that rows
   * are multiplied with each other once per row and not once per pixel, and so that sums over pixels can leave them out.
   */
  make(op: Op | "Div", inputs: readonly number[]): number {
    const [a, b] = inputs as [number, number];
    const first = this.values[a]!, second = this.values[b];
    switch (op) {
      case "Neg":
        if (first.op === "Neg") return first.inputs[0]!;
        if (first.op === "Sub") return this.make("Sub", [first.inputs[1]!, first.inputs[0]!]);
        return this.#linear(op, inputs);
      case "Pass": {
        // What one side of a maximum gets of a gradient, the other does not: exact, as halves are.
        const other = this.#known("Pass", [a, inputs[2]!, b]);
        if (other !== undefined) return this.make("Sub", [a, other]);
        return this.#linear(op, inputs);
      }
      case "PassAbove":
      case "Gate":
        return this.#linear(op, inputs);
      case "Add":
        if (first.op === "Constant" && first.constant === 0) return b;
        if (second!.op === "Constant" && second!.constant === 0) return a;
        if (second!.op === "Neg") return this.make("Sub", [a, second!.inputs[0]!]);
        if (first.op === "Neg") return this.make("Sub", [b, first.inputs[0]!]);
        break;
      case "Mul":
        return this.#product(a, b);
      case "Div":
        // Reciprocals are shared, and those of rows are made once per row instead of once per pixel.
        return this.make("Mul", [a, this.make(this.aboveClamp(b) ? "Reciprocal" : "Invert", [b])]);
    }
    return this.#elementwise(op, inputs);
  }

  /** A reduction; `axes` are those of a moment. */
  reduce(op: Reduction, input: number, axes?: IndexSet): number {
    const value = this.values[input]!;
    if (op === "mean" && this.#constantOn(value, axes!)) return input;
    const scaled = op === "mean" || op === "sum" ? this.#scaled(input) : null;
    if (scaled !== null) {
      const { row, full } = scaled;
      const overSamples = op === "sum" || axes === "bwh";
      if (axes === "wh" || (overSamples && !this.values[row]!.perSample)) {
        return this.make("Mul", [row, this.reduce(op, full, axes)]);
      }
      return this.reduce(op, this.make("Mul", [row, this.reduce("mean", full, "wh")]), axes);
    }
    const perSample = value.perSample && op !== "sum" && axes !== "bwh";
    return this.#intern({ op, inputs: [input], ...(axes && { axes }), full: false, perSample });
  }

  /** The program with these results, without what neither they nor the values `needed` are made of. */
  finish(
    results: Pick<Program, "images" | "vectors" | "saved" | "epsilon">,
    needed: readonly number[] = [],
  ): Program {
    const kept = new Uint8Array(this.values.length);
    for (const value of needed) kept[value] = 1;
    for (const { value } of [...results.images, ...results.vectors, ...results.saved]) kept[value] = 1;
    for (let index = kept.length - 1; index >= 0; index--) {
      if (kept[index]) { for (const input of this.values[index]!.inputs) kept[input] = 1; }
    }
    const at: number[] = [];
    const values: Value[] = [];
    this.values.forEach((value, index) => {
      if (!kept[index]) return;
      at[index] = values.length;
      values.push({ ...value, inputs: value.inputs.map((input) => at[input]!) });
    });
    const moved = (list: Program["images"]) => list.map(({ name, value }) => ({ name, value: at[value]! }));
    return {
      values,
      images: moved(results.images),
      vectors: moved(results.vectors),
      saved: moved(results.saved),
      epsilon: results.epsilon,
    };
  }

  /** Whether a value is at least sqrt(epsilon), hence above the clamp epsilon < 1: a root, or a maximum with one. */
  aboveClamp(index: number): boolean {
    const { op, inputs } = this.values[index]!;
    return op === "Root" || (op === "Max" && inputs.some((input) => this.values[input]!.op === "Root"));
  }

  /** A full value as a row times a full value, if it is one. */
  #scaled(index: number): { readonly row: number; readonly full: number } | null {
    const { op, inputs: [a, b], full } = this.values[index]!;
    if (op !== "Mul" || !full || this.values[a!]!.full === this.values[b!]!.full) return null;
    return this.values[a!]!.full ? { row: b!, full: a! } : { row: a!, full: b! };
  }

  /** An operation that is linear in its first input lets a row through. */
  #linear(op: Op, [input, ...rest]: readonly number[]): number {
    const scaled = this.#scaled(input!);
    if (scaled === null) return this.#elementwise(op, [input!, ...rest]);
    return op === "Neg"
      ? this.make("Mul", [this.make("Neg", [scaled.row]), scaled.full])
      : this.make("Mul", [scaled.row, this.make(op, [scaled.full, ...rest])]);
  }

  #product(a: number, b: number): number {
    const first = this.values[a]!, second = this.values[b]!;
    if (first.op === "Constant" && first.constant === 1) return b;
    if (second.op === "Constant" && second.constant === 1) return a;
    const left = this.#scaled(a), right = this.#scaled(b);
    if (left !== null && right !== null) {
      return this.#product(this.#product(left.row, right.row), this.#product(left.full, right.full));
    }
    if (left !== null || right !== null) {
      const { row, full } = (left ?? right)!;
      const other = left === null ? a : b;
      return this.values[other]!.full
        ? this.#product(row, this.#product(full, other))
        : this.#product(this.#product(row, other), full);
    }
    if (!first.full && !second.full) return this.#rowProduct([a, b]);
    return this.#elementwise("Mul", [a, b]);
  }

  /** Rows multiplied in one order whatever way they came together: what cancels must have been rounded alike. */
  #rowProduct(inputs: readonly number[]): number {
    const factors: number[] = [];
    let negative = false;
    const collect = (index: number): void => {
      const { op, inputs } = this.values[index]!;
      if (op === "Mul") return inputs.forEach(collect);
      if (op !== "Neg") return void factors.push(index);
      negative = !negative;
      collect(inputs[0]!);
    };
    inputs.forEach(collect);
    // Squares of squares have too many factors to be written out.
    if (factors.length > MOST_FACTORS) return this.#elementwise("Mul", inputs);
    const product = factors.sort((a, b) => a - b).reduce((left, right) =>
      this.#elementwise("Mul", [left, right])
    );
    return negative ? this.#elementwise("Neg", [product]) : product;
  }

  #constantOn(value: Value, axes: IndexSet): boolean {
    if (value.full) return false;
    return axes === "wh" || (axes === "bwh" && !value.perSample);
  }

  #elementwise(op: Op, inputs: readonly number[]): number {
    const values = inputs.map((input) => this.values[input]!);
    return this.#intern({
      op,
      inputs,
      full: values.some(({ full }) => full),
      perSample: values.some(({ perSample }) => perSample),
    });
  }

  /** The index of an element-wise value that was made before. */
  #known(op: Op, inputs: readonly number[]): number | undefined {
    return this.#made.get(keyOf({ op, inputs }));
  }

  #intern(value: Value): number {
    const key = keyOf(value);
    const known = this.#made.get(key);
    if (known !== undefined) return known;
    const index = this.values.push(value) - 1;
    this.#made.set(key, index);
    return index;
  }
}

function keyOf({ op, inputs, axes, constant, name }: Omit<Value, "full" | "perSample">): string {
  const unordered = op === "Add" || op === "Mul" || op === "Max";
  const named = unordered ? [...inputs].sort((a, b) => a - b) : inputs;
  return `${op} ${axes ?? name ?? (Object.is(constant, -0) ? "-0" : constant)} ${named}`;
}

/** Whether some value that `index` is made of satisfies a condition. */
export function dependsOn(
  values: readonly Value[],
  index: number,
  condition: (value: Value) => boolean,
): boolean {
  const seen = new Set<number>();
  const visit = (at: number): boolean => {
    if (seen.has(at)) return false;
    seen.add(at);
    return condition(values[at]!) || values[at]!.inputs.some(visit);
  };
  return visit(index);
}
