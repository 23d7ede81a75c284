/** A strip of queries on its way into the kernel and out of it, as WebAssembly. */
import {
  type Code,
  countUp,
  f32x4,
  type FunctionBuilder,
  i32,
  type Local,
  type ModuleBuilder,
  sequence,
  set,
  shuffle32,
  v128,
  variables,
} from "../wasm/mod.ts";
import { FLOAT, type KernelSettings, stripBytes, VECTOR } from "./_wasm_products.ts";
import { logSumExp } from "./_wasm_softmax.ts";

/** The transpose of four vectors. */
function transposed(built: FunctionBuilder): { readonly lines: readonly Local[]; readonly code: Code } {
  const { a, b, c, d, low, high, lowNext, highNext } = variables(
    built,
    "v128",
    "a",
    "b",
    "c",
    "d",
    "low",
    "high",
    "lowNext",
    "highNext",
  );
  const code = sequence(
    set(low, shuffle32(a, b, [0, 4, 1, 5])),
    set(lowNext, shuffle32(c, d, [0, 4, 1, 5])),
    set(high, shuffle32(a, b, [2, 6, 3, 7])),
    set(highNext, shuffle32(c, d, [2, 6, 3, 7])),
    set(a, shuffle32(low, lowNext, [0, 1, 4, 5])),
    set(b, shuffle32(low, lowNext, [2, 3, 6, 7])),
    set(c, shuffle32(high, highNext, [0, 1, 4, 5])),
    set(d, shuffle32(high, highNext, [2, 3, 6, 7])),
  );
  return { lines: [a, b, c, d], code };
}

const LANES = [0, 1, 2, 3] as const;

/** A function (rows, strip, scale): rows [queries][dim], times the scale, as a strip [dim][queries]. */
export function packStrip(module: ModuleBuilder, { dim, strip }: KernelSettings): FunctionBuilder {
  const built = module.function(undefined, ["i32", "i32", "f32"]);
  const [rows, target, scale] = built.params;
  const { from, to, end } = variables(built, "i32", "from", "to", "end");
  const { factor, rest } = variables(built, "v128", "factor", "rest");
  const { lines, code } = transposed(built);
  const pitch = stripBytes(strip), row = dim * FLOAT;
  const blocks = Math.floor(dim / 4);
  built.add(set(factor, f32x4.splat(scale)));
  for (let vector = 0; vector < strip.vectors; vector++) {
    built.add(
      set(from, i32.add(rows, vector * 4 * row)),
      set(to, i32.add(target, vector * VECTOR)),
      countUp(
        end,
        0,
        blocks,
        1,
        sequence(
          ...lines.map((line, at) => set(line, f32x4.mul(v128.load(from, at * row), factor))),
          code,
          ...lines.map((line, at) => v128.store(to, line, at * pitch)),
          set(from, i32.add(from, VECTOR)),
          set(to, i32.add(to, 4 * pitch)),
        ),
      ),
    );
    for (let column = 0; column < dim % 4; column++) {
      built.add(
        set(rest, v128.loadZero32(from, column * FLOAT)),
        ...LANES.slice(1).map((lane) =>
          set(rest, v128.loadLane32(from, rest, lane, lane * row + column * FLOAT))
        ),
        v128.store(to, f32x4.mul(rest, factor), column * pitch),
      );
    }
  }
  return built;
}

/** What comes out of a kernel. */
export interface Results {
  readonly lse: boolean;
  /** rho * O + residual instead of O. */
  readonly epilogue: boolean;
}

/**
 * A function (strip, statistics, output, lse, rho, residual): the strip's sums [dim][queries] over their weights' sums as rows
 * [queries][dim], and what else is wanted.
 */
export function finishStrip(
  module: ModuleBuilder,
  { dim, strip }: KernelSettings,
  results: Results,
): FunctionBuilder {
  const built = module.function(undefined, ["i32", "i32", "i32", "i32", "i32", "i32"]);
  const [sums, statistics, output, lse, rho, residual] = built.params;
  const { from, to, add, counter } = variables(built, "i32", "from", "to", "add", "counter");
  const { sum, factor, maximum, rest, other } = variables(
    built,
    "v128",
    "sum",
    "factor",
    "maximum",
    "rest",
    "other",
  );
  const { lines, code } = transposed(built);
  const pitch = stripBytes(strip), row = dim * FLOAT;
  const numerator = (offset: number) => results.epilogue ? v128.load(rho, offset) : f32x4.const(1);
  for (let vector = 0; vector < strip.vectors; vector++) {
    const offset = vector * VECTOR;
    built.add(
      set(sum, v128.load(statistics, pitch + offset)),
      // A query without keys: 0.
      set(
        factor,
        v128.andNot(f32x4.div(numerator(offset), sum), f32x4.eq(sum, f32x4.const(0))),
      ),
      set(from, i32.add(sums, offset)),
      set(to, i32.add(output, 4 * vector * row)),
      set(add, i32.add(residual, 4 * vector * row)),
    );
    if (results.lse) {
      built.add(
        set(maximum, v128.load(statistics, offset)),
        logSumExp(built, rest, maximum, sum),
        v128.store(lse, rest, offset),
      );
    }
    const line = (at: number): Code => {
      const value = lines[at]!;
      return v128.store(
        to,
        results.epilogue ? f32x4.add(value, v128.load(add, at * row)) : value,
        at * row,
      );
    };
    built.add(countUp(
      counter,
      0,
      Math.floor(dim / 4),
      1,
      sequence(
        ...lines.map((value, at) => set(value, f32x4.mul(v128.load(from, at * pitch), factor))),
        code,
        ...LANES.map(line),
        set(from, i32.add(from, 4 * pitch)),
        set(to, i32.add(to, VECTOR)),
        set(add, i32.add(add, VECTOR)),
      ),
    ));
    for (let column = 0; column < dim % 4; column++) {
      const at = (lane: number) => lane * row + column * FLOAT;
      built.add(set(rest, f32x4.mul(v128.load(from, column * pitch), factor)));
      if (results.epilogue) {
        built.add(
          set(other, v128.loadZero32(add, at(0))),
          ...LANES.slice(1).map((lane) => set(other, v128.loadLane32(add, other, lane, at(lane)))),
          set(rest, f32x4.add(rest, other)),
        );
      }
      built.add(...LANES.map((lane) => v128.storeLane32(to, rest, lane, at(lane))));
    }
  }
  return built;
}
