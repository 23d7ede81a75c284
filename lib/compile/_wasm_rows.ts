/** The functions of a kernel that compute rows of C numbers: statistics and what is made of them. */
import {
  type Code,
  countUp,
  type FunctionBuilder,
  i32,
  type Local,
  type ModuleBuilder,
  sequence,
  set,
  v128,
} from "../wasm/mod.ts";
import type { KernelShape, Layout } from "./_wasm_layout.ts";
import { VectorMath, type VectorSettings } from "./_wasm_math.ts";
import type { MomentFunctions } from "./_wasm_moments.ts";
import {
  type Elementwise,
  isReduction,
  overBatch,
  type Program,
  type Reduction,
  type Value,
} from "./value.ts";

/** Everything that writing rows needs to know. */
export interface RowContext {
  readonly program: Program;
  readonly layout: Layout;
  readonly shape: KernelShape;
  readonly settings: VectorSettings;
  readonly moments: MomentFunctions;
}

/** How many neighbouring channels a moment runs over. */
export function spanOf({ axes }: Value, { channels, groups }: KernelShape): number {
  return axes === "whc" ? channels : axes === "whc/g" ? channels / groups : 1;
}

/** Adds a function (scratch, saved, sample) that computes the rows `indices`, in order; null if there are none. */
export function rowFunction(
  module: ModuleBuilder,
  context: RowContext,
  indices: readonly number[],
): FunctionBuilder | null {
  if (indices.length === 0) return null;
  const built = module.function(undefined, ["i32", "i32", "i32"]);
  const writer = new RowWriter(built, context);
  writer.write(indices);
  return built;
}

/** Working space, saved tensor, the sample's number. */
type RowParameters = readonly ["i32", "i32", "i32"];

class RowWriter {
  readonly #f: FunctionBuilder<RowParameters>;
  readonly #context: RowContext;
  readonly #math: VectorMath;
  readonly #block: Local;

  constructor(built: FunctionBuilder<RowParameters>, context: RowContext) {
    this.#f = built;
    this.#context = context;
    this.#math = new VectorMath(built, context.settings);
    this.#block = built.local("i32");
  }

  get #values(): readonly Value[] {
    return this.#context.program.values;
  }

  /** Neighbouring element-wise rows share one loop over blocks of channels; reductions stand between the loops. */
  write(indices: readonly number[]): void {
    const codes: Code[] = [];
    let together: number[] = [];
    const flush = () => {
      if (together.length > 0) codes.push(this.#loop(together));
      together = [];
    };
    for (const index of indices) {
      const { op } = this.#values[index]!;
      if (isReduction(op) && !this.#isElementwise(index)) {
        flush();
        codes.push(this.#reduction(index, op));
      } else {
        together.push(index);
      }
    }
    flush();
    this.#f.add(this.#math.prologue(), ...codes);
  }

  /** A reduction along dimensions in which its argument does not vary is arithmetic on it. */
  #isElementwise(index: number): boolean {
    const value = this.#values[index]!;
    const input = this.#values[value.inputs[0]!]!;
    return input.op === "Constant" || value.axes === "wh" || (overBatch(value) && !input.perSample);
  }

  #reduction(index: number, op: Reduction): Code {
    const value = this.#values[index]!;
    const [input] = value.inputs as [number];
    const { moments, shape, layout } = this.#context;
    if (overBatch(value)) {
      const { step } = layout.rows.get(input)!;
      return moments.acrossBatch(op, this.#address(input, 0), step, this.#address(index, 0));
    }
    return moments.lanes(op, this.#address(input), this.#address(index), spanOf(value, shape));
  }

  /** The address of a value's row of the sample at hand, or of the first sample where `sample` is 0. */
  #address(index: number, sample?: 0): Code {
    const [scratch, saved, current] = this.#f.params;
    const { base, offset, step } = this.#context.layout.rows.get(index)!;
    const start = i32.add(base === "scratch" ? scratch : saved, offset);
    return step === 0 || sample === 0 ? start : i32.add(start, i32.mul(current, step));
  }

  #loop(indices: readonly number[]): Code {
    const known = new Map<number, Local>();
    const body: Code[] = [];
    const read = (index: number): Local => {
      const found = known.get(index);
      if (found) return found;
      const { op, constant } = this.#values[index]!;
      const local = op === "Constant" ? this.#math.constant(constant!) : this.#f.local("v128");
      if (op !== "Constant") body.push(set(local, v128.load(i32.add(this.#address(index), this.#block))));
      known.set(index, local);
      return local;
    };
    for (const index of indices) {
      const value = this.#values[index]!;
      const inputs = value.inputs.map(read);
      const local = this.#f.local("v128");
      body.push(set(local, this.#apply(value, inputs)));
      known.set(index, local);
      body.push(v128.store(i32.add(this.#address(index), this.#block), local));
    }
    return countUp(this.#block, 0, this.#context.layout.rowBytes, 16, sequence(...body));
  }

  #apply({ op }: Value, inputs: readonly Local[]): Code {
    const { samples, pixels } = this.#context.shape;
    switch (op) {
      case "mean":
        return v128.or(inputs[0]!, inputs[0]!);
      case "meanSquare":
        return this.#math.apply("Square", inputs);
      case "variance": // a - a is 0, or NaN where a is not finite
        return this.#math.apply("Sub", [inputs[0]!, inputs[0]!]);
      case "sum":
        return this.#math.apply("Mul", [inputs[0]!, this.#math.constant(samples * pixels)]);
      default:
        return this.#math.apply(op as Elementwise, inputs);
    }
  }
}
