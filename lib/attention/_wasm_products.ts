/** The two products of attention as WebAssembly: strips of queries lie across the vectors, so no sum goes across lanes. */
import {
  type Code,
  doWhile,
  f32x4,
  type FunctionBuilder,
  i32,
  type Local,
  type ModuleBuilder,
  sequence,
  set,
  v128,
  when,
} from "../wasm/mod.ts";

/** Bytes of a number, and of a vector. */
export const FLOAT = 4, VECTOR = 16;

/** How products fill the registers: `rows` numbers of the left factor, each for `vectors` vectors of queries. */
export interface Strip {
  readonly rows: number;
  readonly vectors: number;
}

/** What the kernel's functions have in common. */
export interface KernelSettings {
  readonly dim: number;
  readonly strip: Strip;
  /** Whether to use relaxed SIMD: multiplication and addition in one instruction. */
  readonly relaxed: boolean;
}

/** a * b + c. */
export function multiplyAdd(relaxed: boolean, a: Local | Code, b: Local | Code, c: Local | Code): Code {
  return relaxed ? f32x4.relaxedMadd(a, b, c) : f32x4.add(c, f32x4.mul(a, b));
}

/** Bytes of a row of a strip: a number for each of its queries. */
export const stripBytes = ({ vectors }: Strip): number => vectors * VECTOR;

/** Registers of a product: sums, and factors of the smaller side, which are held while the other side's pass by. */
class Registers {
  readonly sums: readonly (readonly Local[])[];
  readonly #held: readonly Local[];
  readonly #passing: Local;
  readonly #relaxed: boolean;

  constructor(built: FunctionBuilder, rows: number, vectors: number, relaxed: boolean) {
    const locals = (count: number) => Array.from({ length: count }, () => built.local("v128"));
    this.sums = Array.from({ length: rows }, () => locals(vectors));
    this.#held = locals(Math.min(rows, vectors));
    this.#passing = built.local("v128");
    this.#relaxed = relaxed;
  }

  each(visit: (sum: Local, row: number, vector: number) => Code): Code {
    return sequence(...this.sums.flatMap((line, row) => line.map((sum, vector) => visit(sum, row, vector))));
  }

  /** One term of every sum. */
  term(left: (row: number) => Code, right: (vector: number) => Code): Code {
    const rows = this.sums.length, vectors = this.sums[0]!.length;
    const [passing, held] = [this.#passing, this.#held];
    const add = (sum: Local, a: Local, b: Local) => set(sum, multiplyAdd(this.#relaxed, a, b, sum));
    if (rows < vectors) {
      return sequence(
        ...held.map((local, row) => set(local, left(row))),
        ...Array.from({ length: vectors }, (_, vector) =>
          sequence(
            set(passing, right(vector)),
            ...this.sums.map((line, row) => add(line[vector]!, held[row]!, passing)),
          )),
      );
    }
    return sequence(
      ...held.map((local, vector) => set(local, right(vector))),
      ...this.sums.map((line, row) =>
        sequence(
          set(passing, left(row)),
          ...line.map((sum, vector) => add(sum, passing, held[vector]!)),
        )
      ),
    );
  }
}

/** Terms of a sum that follow each other in the code: fewer rounds of the loop. */
const UNROLLED = 8;

/**
 * A function (keys, queries, scores, blocks): scores [blocks * rows][strip] of keys [blocks * rows][dim] with a strip of
 * queries [dim][strip].
 */
export function scoreProduct(
  module: ModuleBuilder,
  { dim, strip, relaxed }: KernelSettings,
): FunctionBuilder {
  const built = module.function(undefined, ["i32", "i32", "i32", "i32"]);
  const [keys, queries, scores, blocks] = built.params;
  const [a, b, end] = [built.local("i32"), built.local("i32"), built.local("i32")];
  const registers = new Registers(built, strip.rows, strip.vectors, relaxed);
  const pitch = stripBytes(strip);
  const terms = (count: number) =>
    sequence(
      ...Array.from({ length: count }, (_, index) =>
        registers.term(
          (row) => v128.loadSplat32(a, (row * dim + index) * FLOAT),
          (vector) => v128.load(b, index * pitch + vector * VECTOR),
        )),
    );
  const rounds = Math.floor(dim / UNROLLED);
  const loop = rounds === 0 ? sequence() : sequence(
    set(end, i32.add(b, rounds * UNROLLED * pitch)),
    doWhile(
      sequence(
        terms(UNROLLED),
        set(a, i32.add(a, UNROLLED * FLOAT)),
        set(b, i32.add(b, UNROLLED * pitch)),
      ),
      i32.ne(b, end),
    ),
  );
  built.add(doWhile(
    sequence(
      set(a, keys),
      set(b, queries),
      registers.each((sum) => set(sum, f32x4.const(0))),
      loop,
      terms(dim % UNROLLED),
      registers.each((sum, row, vector) => v128.store(scores, sum, row * pitch + vector * VECTOR)),
      set(keys, i32.add(keys, strip.rows * dim * FLOAT)),
      set(scores, i32.add(scores, strip.rows * pitch)),
      set(blocks, i32.sub(blocks, 1)),
    ),
    blocks,
  ));
  return built;
}

/**
 * A function (values, weights, output, count) that adds to output [dim][strip] the values [count][dim], transposed, times the
 * weights [count][strip].
 */
export function outputProduct(module: ModuleBuilder, settings: KernelSettings): FunctionBuilder {
  const built = module.function(undefined, ["i32", "i32", "i32", "i32"]);
  const [values, , output] = built.params;
  for (const { rows, count } of rowBlocks(settings.dim, settings.strip.rows)) {
    const left = built.local("i32");
    built.add(
      set(left, count),
      doWhile(
        sequence(
          outputBlock(built, rows, settings),
          set(values, i32.add(values, rows * FLOAT)),
          set(output, i32.add(output, rows * stripBytes(settings.strip))),
          set(left, i32.sub(left, 1)),
        ),
        left,
      ),
    );
  }
  return built;
}

/** Some rows of the output: sums over all keys stay in registers. */
function outputBlock(
  built: FunctionBuilder<readonly ["i32", "i32", "i32", "i32"]>,
  rows: number,
  { dim, strip, relaxed }: KernelSettings,
): Code {
  const [values, weights, output, count] = built.params;
  const [a, b, end, last] = [0, 1, 2, 3].map(() => built.local("i32")) as [Local, Local, Local, Local];
  const registers = new Registers(built, rows, strip.vectors, relaxed);
  const pitch = stripBytes(strip);
  const terms = (count: number) =>
    sequence(
      ...Array.from({ length: count }, (_, index) =>
        registers.term(
          (row) => v128.loadSplat32(a, (index * dim + row) * FLOAT),
          (vector) => v128.load(b, index * pitch + vector * VECTOR),
        )),
      set(a, i32.add(a, count * dim * FLOAT)),
      set(b, i32.add(b, count * pitch)),
    );
  return sequence(
    set(a, values),
    set(b, weights),
    set(end, i32.add(b, i32.mul(i32.and(count, -UNROLLED), pitch))),
    set(last, i32.add(b, i32.mul(count, pitch))),
    registers.each((sum) => set(sum, f32x4.const(0))),
    when(i32.ne(b, end), doWhile(terms(UNROLLED), i32.ne(b, end))),
    when(i32.ne(b, last), doWhile(terms(1), i32.ne(b, last))),
    registers.each((sum, row, vector) => {
      const offset = row * pitch + vector * VECTOR;
      return v128.store(output, f32x4.add(v128.load(output, offset), sum), offset);
    }),
  );
}

/** So many rows as blocks of `most` and smaller ones, balanced: small blocks leave the multipliers idle. */
export function rowBlocks(rows: number, most: number): { readonly rows: number; readonly count: number }[] {
  const blocks: { rows: number; count: number }[] = [];
  let whole = Math.floor(rows / most), rest = rows % most;
  if (rest > 0 && 2 * rest < most && whole > 0) {
    whole--;
    rest += most;
  }
  if (whole > 0) blocks.push({ rows: most, count: whole });
  const half = Math.ceil(rest / 2);
  if (rest > most && rest % 2 === 0) blocks.push({ rows: half, count: 2 });
  else if (rest > most) blocks.push({ rows: half, count: 1 }, { rows: rest - half, count: 1 });
  else if (rest > 0) blocks.push({ rows: rest, count: 1 });
  return blocks;
}
