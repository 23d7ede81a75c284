import type { IndexSet } from "../graph/mod.ts";
import { isReduction, type Program, type Value } from "./value.ts";

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

  /** An element-wise value, in its cheapest form. */
  make(op: Op | "Div", inputs: readonly number[]): number {
    const [a, b] = inputs as [number, number];
    const first = this.values[a]!, second = this.values[b];
    switch (op) {
      case "Neg":
        if (first.op === "Neg") return first.inputs[0]!;
        if (first.op === "Sub") return this.make("Sub", [first.inputs[1]!, first.inputs[0]!]);
        break;
      case "Add":
        if (first.op === "Constant" && first.constant === 0) return b;
        if (second!.op === "Constant" && second!.constant === 0) return a;
        if (second!.op === "Neg") return this.make("Sub", [a, second!.inputs[0]!]);
        if (first.op === "Neg") return this.make("Sub", [b, first.inputs[0]!]);
        break;
      case "Mul":
        if (first.op === "Neg" && second!.op === "Neg") {
          return this.make("Mul", [first.inputs[0]!, second!.inputs[0]!]);
        }
        break;
      case "Div":
        // Reciprocals are shared, and those of rows are made once per row instead of once per pixel.
        return this.make("Mul", [a, this.make(this.aboveClamp(b) ? "Reciprocal" : "Invert", [b])]);
    }
    return this.#elementwise(op, inputs);
  }

  /** A reduction; `axes` are those of a moment. */
  reduce(op: "mean" | "meanSquare" | "variance" | "sum", input: number, axes?: IndexSet): number {
    const value = this.values[input]!;
    if (op === "mean" && this.#constantOn(value, axes!)) return input;
    const perSample = value.perSample && op !== "sum" && axes !== "bwh";
    return this.#intern({ op, inputs: [input], ...(axes && { axes }), full: false, perSample });
  }

  /** The program with these results, without what they do not need. */
  finish(results: Pick<Program, "images" | "vectors" | "saved" | "epsilon">): Program {
    const kept = new Uint8Array(this.values.length);
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

  #intern(value: Value): number {
    const { op, inputs, axes, constant, name } = value;
    const unordered = op === "Add" || op === "Mul" || op === "Max";
    const named = unordered ? [...inputs].sort((a, b) => a - b) : inputs;
    const key = `${op} ${
      axes ?? name ?? (constant !== undefined && Object.is(constant, -0) ? "-0" : constant)
    } ${named}`;
    const known = this.#made.get(key);
    if (known !== undefined) return known;
    const index = this.values.push(value) - 1;
    this.#made.set(key, index);
    return index;
  }
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

/** The reductions among some values, by index. */
export function reductionsOf(values: readonly Value[]): number[] {
  return values.flatMap(({ op }, index) => isReduction(op) ? [index] : []);
}
