/** The linear maps of Winograd's convolution, and code that applies them to tiles of vectors. */
import {
  type Code,
  f32x4,
  type FunctionBuilder,
  type Local,
  type Operand,
  sequence,
  set,
} from "../wasm/mod.ts";
import { multiplyAdd, multiplySubtract } from "./_micro_kernels.ts";

/** A matrix, row by row. */
export type Matrix = readonly (readonly number[])[];

/**
 * The maps of the convolution of a tile d of `size` = outputs + taps - 1 pixels with a filter g along one axis:
 * y = output ((filter g) * (input d)), * being the product of elements.
 */
export interface WinogradMaps {
  readonly size: number;
  /** [size, size] */
  readonly input: Matrix;
  /** [size, taps] */
  readonly filter: Matrix;
  /** [outputs, size] */
  readonly output: Matrix;
}

/**
 * Polynomials are evaluated at `points` and at infinity, and interpolated back (Cook and Toom; for nets: Lavin and Gray, "Fast
 * Algorithms for Convolutional Neural Networks", arXiv 1509.09308).
 */
function winogradMaps(points: readonly number[], taps: number): WinogradMaps {
  const size = points.length + 1;
  const outputs = size - taps + 1;
  const others = (index: number) => points.filter((_, at) => at !== index);
  const powers = (point: number, count: number) =>
    Array.from({ length: count }, (_, power) => point ** power);
  const last = (length: number) => Array.from({ length }, (_, index) => index === length - 1 ? 1 : 0);
  const input = points.map((_, index) => [...polynomial(others(index)), 0]);
  const filter = points.map((point, index) => {
    const scale = others(index).reduce((product, other) => product * (point - other), 1);
    return powers(point, taps).map((power) => power / scale);
  });
  const output = transpose([...points.map((point) => powers(point, outputs)), last(outputs)]);
  return { size, input: [...input, polynomial(points)], filter: [...filter, last(taps)], output };
}

/** Minimal filtering of tiles of images. */
export interface Scheme {
  /** Output pixels of a tile along an axis. */
  readonly outputs: number;
  /** Pixels of a tile along an axis, and products of a tile. */
  readonly size: number;
  readonly places: number;
  readonly maps: WinogradMaps;
}

export function schemeOf(points: readonly number[], taps: number): Scheme {
  const maps = winogradMaps(points, taps);
  return { outputs: maps.output.length, size: maps.size, places: maps.size ** 2, maps };
}

/** Coefficients, the constant first, of the monic polynomial with these roots. */
function polynomial(roots: readonly number[]): number[] {
  return roots.reduce<number[]>(
    (product, root) =>
      Array.from(
        { length: product.length + 1 },
        (_, power) => (product[power - 1] ?? 0) - root * (product[power] ?? 0),
      ),
    [1],
  );
}

export function transpose(matrix: Matrix): Matrix {
  return matrix[0]!.map((_, column) => matrix.map((row) => row[column]!));
}

interface Term {
  readonly factor: number;
  readonly value: Local;
}

/** Writes code that maps tiles: shares what rows for a point and for its negative have in common. */
export class TileMapper {
  readonly #kernel: FunctionBuilder;
  readonly #relaxed: boolean;
  readonly #constants = new Map<number, Local>();
  readonly #pool: Local[] = [];
  #used = 0;

  constructor(kernel: FunctionBuilder, relaxed: boolean) {
    this.#kernel = kernel;
    this.#relaxed = relaxed;
  }

  /** Sets the constants: to be run before any mapping. Call it last. */
  constants(): Code {
    return sequence(...[...this.#constants].map(([value, local]) => set(local, f32x4.const(value))));
  }

  /** rowMap tile columnMap': loads a tile of as many rows and columns as the maps have columns, stores as many as they have rows. */
  tile(
    rowMap: Matrix,
    columnMap: Matrix,
    load: (row: number, column: number) => Code,
    store: (row: number, column: number, value: Operand) => Code,
  ): Code {
    this.#used = 0;
    const [rows, columns] = [rowMap[0]!.length, columnMap[0]!.length];
    const half = rowMap.map(() => Array.from({ length: columns }, () => this.#temporary()));
    const loaded = Array.from({ length: rows }, () => this.#temporary());
    const mark = this.#used;
    const codes: Code[] = [];
    for (let column = 0; column < columns; column++) {
      this.#used = mark;
      codes.push(
        ...loaded.map((local, row) => set(local, load(row, column))),
        this.#apply(rowMap, loaded, (row, value) => set(half[row]![column]!, value)),
      );
    }
    half.forEach((values, row) => {
      this.#used = mark;
      codes.push(this.#apply(columnMap, values, (column, value) => store(row, column, value)));
    });
    return sequence(...codes);
  }

  #temporary(): Local {
    return this.#pool[this.#used++] ??= (this.#pool.push(this.#kernel.local("v128")), this.#pool.at(-1)!);
  }

  #constant(value: number): Local {
    let local = this.#constants.get(value);
    if (local === undefined) this.#constants.set(value, local = this.#kernel.local("v128"));
    return local;
  }

  /** Emits map * values, a row of the result at a time. */
  #apply(map: Matrix, values: readonly Local[], emit: (row: number, value: Operand) => Code): Code {
    const wide = map.length < map[0]!.length;
    return wide ? this.#byColumns(map, values, emit) : this.#byRows(map, values, emit);
  }

  /** Rows that differ in the signs of some terms only: the sum of the others plus or minus that of those. */
  #byRows(map: Matrix, values: readonly Local[], emit: (row: number, value: Operand) => Code): Code {
    const codes: Code[] = [];
    const done = new Set<number>();
    map.forEach((row, index) => {
      if (done.has(index)) return;
      done.add(index);
      const twin = mirrored(map, index);
      if (twin === undefined) {
        codes.push(emit(index, this.#sum(row, values)));
        return;
      }
      done.add(twin);
      const other = map[twin]!;
      const same = row.map((factor, at) => factor === other[at] ? factor : 0);
      const opposite = row.map((factor, at) => factor === other[at] ? 0 : factor);
      const lead = opposite.findLast((factor) => factor !== 0)!;
      const [even, odd] = [this.#temporary(), this.#temporary()];
      codes.push(
        set(even, this.#sum(same, values)),
        set(odd, this.#sum(opposite.map((factor) => factor / lead), values)),
        emit(index, this.#plus(even, lead, odd)),
        emit(twin, this.#plus(even, -lead, odd)),
      );
    });
    return sequence(...codes);
  }

  /** Columns that differ in the signs of some terms only: the sum and the difference of their values take their place. */
  #byColumns(map: Matrix, values: readonly Local[], emit: (row: number, value: Operand) => Code): Code {
    const codes: Code[] = [];
    const columns = transpose(map).map((column) => [...column]);
    const changed = [...values];
    const done = new Set<number>();
    columns.forEach((column, index) => {
      if (done.has(index)) return;
      const twin = mirrored(columns, index);
      if (twin === undefined) return;
      done.add(index).add(twin);
      const other = columns[twin]!;
      const [sum, difference] = [this.#temporary(), this.#temporary()];
      codes.push(
        set(sum, f32x4.add(values[index]!, values[twin]!)),
        set(difference, f32x4.sub(values[index]!, values[twin]!)),
      );
      [changed[index], changed[twin]] = [sum, difference];
      const same = column.map((factor, at) => factor === other[at] ? factor : 0);
      columns[twin] = column.map((factor, at) => factor === other[at] ? 0 : factor);
      columns[index] = same;
    });
    const rows = transpose(columns);
    return sequence(...codes, ...rows.map((row, index) => emit(index, this.#sum(row, changed))));
  }

  /** The sum of factor times value. */
  #sum(factors: readonly number[], values: readonly Local[]): Operand {
    const terms = factors.map((factor, at): Term => ({ factor, value: values[at]! }))
      .filter(({ factor }) => factor !== 0)
      .toSorted((a, b) => Number(b.factor === 1) - Number(a.factor === 1));
    const [{ factor, value }, ...rest] = terms as [Term, ...Term[]];
    const first: Operand = factor === 1
      ? value
      : factor === -1
      ? f32x4.neg(value)
      : f32x4.mul(value, this.#constant(factor));
    return rest.reduce<Operand>((sum, term) => this.#plus(sum, term.factor, term.value), first);
  }

  /** sum + factor * value. */
  #plus(sum: Operand, factor: number, value: Local): Code {
    if (factor === 1) return f32x4.add(sum, value);
    if (factor === -1) return f32x4.sub(sum, value);
    return factor > 0
      ? multiplyAdd(this.#relaxed, this.#constant(factor), value, sum)
      : multiplySubtract(this.#relaxed, this.#constant(-factor), value, sum);
  }
}

/** The row that equals row `index` but for the signs of some, not all, of its terms. */
function mirrored(map: Matrix, index: number): number | undefined {
  const row = map[index]!;
  const twin = map.findIndex((other, at) =>
    at > index && other.every((factor, k) => Math.abs(factor) === Math.abs(row[k]!)) &&
    other.some((factor, k) => factor !== 0 && factor === row[k]) &&
    other.some((factor, k) => factor !== 0 && factor !== row[k])
  );
  return twin < 0 ? undefined : twin;
}
