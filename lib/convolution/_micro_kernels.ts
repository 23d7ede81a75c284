/** Pieces of WebAssembly that convolutions are made of: register-tiled products, padding, packing and transposing of filters. */
import {
  type Code,
  countUp,
  doWhile,
  f32,
  f32x4,
  type FunctionBuilder,
  i32,
  type Local,
  memory,
  type ModuleBuilder,
  type Operand,
  sequence,
  set,
  shuffle32,
  v128,
  variables,
} from "../wasm/mod.ts";

/** Bytes of a number. */
export const FLOAT = 4;

/** Rows of a register tile: 6 rows of 2 vectors, 2 vectors of the right factor and 1 of the left fill the 16 registers of x64. */
const TILE_ROWS = 6;

/** Columns of a register tile: 2 vectors. */
const BLOCK = 8;

/** Runs code `count` times; after each time the addresses move on by so many bytes. */
export function repeat(
  kernel: FunctionBuilder,
  count: number,
  steps: readonly (readonly [address: Local, bytes: number])[],
  body: Code,
): Code {
  const advance = steps.filter(([, bytes]) => bytes !== 0)
    .map(([address, bytes]) => set(address, i32.add(address, bytes)));
  return countUp(kernel.local("i32"), 0, count, 1, sequence(body, ...advance));
}

/** a * b + c. */
export function multiplyAdd(relaxed: boolean, a: Operand, b: Operand, c: Operand): Code {
  return relaxed ? f32x4.relaxedMadd(a, b, c) : f32x4.add(c, f32x4.mul(a, b));
}

/** c - a * b. */
export function multiplySubtract(relaxed: boolean, a: Operand, b: Operand, c: Operand): Code {
  return relaxed ? f32x4.relaxedNmadd(a, b, c) : f32x4.sub(c, f32x4.mul(a, b));
}

/** Up to four numbers at an address, zeros above them; reads no byte beyond. */
export function loadLanes(address: Operand, lanes: number, offset = 0): Code {
  if (lanes === 4) return v128.load(address, offset);
  if (lanes === 1) return v128.loadZero32(address, offset);
  const two = v128.loadZero64(address, offset);
  return lanes === 2 ? two : v128.loadLane32(address, two, 2, offset + 2 * FLOAT);
}

/** Writes the first lanes of a vector. */
export function storeLanes(address: Operand, value: Operand, lanes: number, offset = 0): Code {
  if (lanes === 4) return v128.store(address, value, offset);
  if (lanes === 1) return v128.storeLane32(address, value, 0, offset);
  const two = v128.storeLane64(address, value, 0, offset);
  return lanes === 2 ? two : sequence(two, v128.storeLane32(address, value, 2, offset + 2 * FLOAT));
}

/** Columns of a product that one call computes: `vectors` of 4, of the last of which `lanes` exist. */
export interface ColumnBlock {
  readonly count: number;
  readonly vectors: number;
  readonly lanes: number;
}

/** So many columns as blocks of 8 and a rest. */
export function columnBlocks(columns: number): ColumnBlock[] {
  const blocks: ColumnBlock[] = [];
  const [count, rest] = [Math.floor(columns / BLOCK), columns % BLOCK];
  if (count > 0) blocks.push({ count, vectors: 2, lanes: 4 });
  if (rest > 0) blocks.push({ count: 1, vectors: Math.ceil(rest / 4), lanes: (rest - 1) % 4 + 1 });
  return blocks;
}

/** The columns up to whole vectors. */
export const wholeVectors = (columns: number): number => Math.ceil(columns / 4) * 4;

/** So many rows as tiles of 6 and smaller ones, balanced: 8 is 4 + 4, for small tiles leave the multipliers idle. */
export function rowTiles(rows: number): { readonly rows: number; readonly count: number }[] {
  const rest = rows % TILE_ROWS;
  const split = rest > 0 && rest < 3 && rows > TILE_ROWS;
  const full = Math.floor(rows / TILE_ROWS) - (split ? 1 : 0);
  const tiles = full > 0 ? [{ rows: TILE_ROWS, count: full }] : [];
  if (!split) return rest > 0 ? [...tiles, { rows: rest, count: 1 }] : tiles;
  return rest === 2
    ? [...tiles, { rows: 4, count: 2 }]
    : [...tiles, { rows: 4, count: 1 }, { rows: 3, count: 1 }];
}

/** One loop of a sum: how often, and by how many bytes the factors' addresses move. */
export interface Level {
  readonly count: number;
  readonly left: number;
  readonly right: number;
}

/** A product of matrices: out[row, column] = sum over the levels of left[row, k] right[k, column]. */
export interface Product {
  /** The nested loops of the sum, the innermost last. */
  readonly levels: readonly Level[];
  /** Bytes from a row to the next of the left factor and of the result; the right factor's columns are contiguous. */
  readonly leftPitch: number;
  readonly outPitch: number;
  /** Whether the result is added to what is there. */
  readonly accumulate: boolean;
  readonly relaxed: boolean;
}

/**
 * A function (left, right, out, count): `count` tiles of `rows` rows below each other, of `vectors` vectors side by side.
 * The sums stay in registers.
 */
export function productTiles(
  module: ModuleBuilder,
  { levels, leftPitch, outPitch, accumulate, relaxed }: Product,
  rows: number,
  { vectors, lanes }: Omit<ColumnBlock, "count">,
): FunctionBuilder {
  const tiles = module.function(undefined, ["i32", "i32", "i32", "i32"]);
  const [left, right, out, count] = tiles.params;
  const [a, b] = [tiles.local("i32"), tiles.local("i32")];
  const sums = grid(rows, vectors, () => tiles.local("v128"));
  const factors = Array.from({ length: vectors }, () => tiles.local("v128"));
  const factor = tiles.local("v128");
  const lanesOf = (vector: number) => vector === vectors - 1 ? lanes : 4;

  const step = ({ left, right }: Level, index: number): Code =>
    sequence(
      ...factors.map((local, vector) => set(local, v128.load(b, index * right + 16 * vector))),
      ...sums.map((row, at) =>
        sequence(
          set(factor, v128.loadSplat32(a, at * leftPitch + index * left)),
          ...row.map((sum, vector) => set(sum, multiplyAdd(relaxed, factor, factors[vector]!, sum))),
        )
      ),
    );
  const advance = (byLeft: number, byRight: number): Code =>
    sequence(
      ...byLeft === 0 ? [] : [set(a, i32.add(a, byLeft))],
      ...byRight === 0 ? [] : [set(b, i32.add(b, byRight))],
    );
  const innermost = (level: Level): Code => {
    const unrolled = level.count <= 8 ? level.count : 4;
    const steps = (length: number) =>
      sequence(
        ...Array.from({ length }, (_, index) => step(level, index)),
        advance(length * level.left, length * level.right),
      );
    const rounds = Math.floor(level.count / unrolled);
    if (rounds === 1) return steps(level.count);
    const end = tiles.local("i32");
    return sequence(
      set(end, i32.add(b, rounds * unrolled * level.right)),
      doWhile(steps(unrolled), i32.ne(b, end)),
      steps(level.count % unrolled),
    );
  };
  const nest = ([level, ...inner]: readonly Level[]): Code => {
    if (inner.length === 0) return innermost(level!);
    const { count, left, right } = level!;
    const body = sequence(
      nest(inner),
      advance(left - inner[0]!.count * inner[0]!.left, right - inner[0]!.count * inner[0]!.right),
    );
    if (count === 1) return body;
    const counter = tiles.local("i32");
    return sequence(
      set(counter, count),
      doWhile(sequence(body, set(counter, i32.sub(counter, 1))), counter),
    );
  };
  const each = (visit: (sum: Local, row: number, vector: number) => Code): Code =>
    sequence(...sums.flatMap((line, row) => line.map((sum, vector) => visit(sum, row, vector))));
  const write = (sum: Local, row: number, vector: number): Code => {
    const [lanes, offset] = [lanesOf(vector), row * outPitch + 16 * vector];
    // Sums of parts are added to the total: in float32 more exact than going on from the total.
    const total = set(sum, f32x4.add(loadLanes(out, lanes, offset), sum));
    return sequence(...accumulate ? [total] : [], storeLanes(out, sum, lanes, offset));
  };

  tiles.add(doWhile(
    sequence(
      set(a, left),
      set(b, right),
      each((sum) => set(sum, f32x4.const(0))),
      nest(levels),
      each(write),
      set(left, i32.add(left, rows * leftPitch)),
      set(out, i32.add(out, rows * outPitch)),
      set(count, i32.sub(count, 1)),
    ),
    count,
  ));
  return tiles;
}

/** A table of values. */
export function grid<T>(rows: number, columns: number, make: (row: number, column: number) => T): T[][] {
  return Array.from(
    { length: rows },
    (_, row) => Array.from({ length: columns }, (_, column) => make(row, column)),
  );
}

/** Where images lie with margins of zeros: pixel `from` of the axis comes first, `length` pixels in all. */
export interface PaddedAxis {
  readonly input: number;
  /** Negative where zeros come before the first pixel. */
  readonly from: number;
  readonly length: number;
}

/** The part of a padded axis that holds pixels. */
function filled({ input, from, length }: PaddedAxis): { at: number; pixel: number; count: number } {
  const at = Math.max(-from, 0);
  const pixel = at + from;
  return { at, pixel, count: Math.max(Math.min(length - at, input - pixel), 0) };
}

/**
 * A function (source, target, images) that copies images [h, w, c] into padded ones [height.length, width.length, c']; the margins
 * must be zero already. With c' > c channels are written as whole vectors, zeros above.
 */
export function padImages(
  module: ModuleBuilder,
  [height, width]: readonly [PaddedAxis, PaddedAxis],
  channels: number,
  paddedChannels: number,
): FunctionBuilder {
  const copy = module.function(undefined, ["i32", "i32", "i32"]);
  const [source, target, images] = copy.params;
  const [rows, columns] = [filled(height), filled(width)];
  if (rows.count * columns.count === 0) return copy;
  const { from, to } = variables(copy, "i32", "from", "to");
  const sourceRow = width.input * channels * FLOAT;
  const targetRow = width.length * paddedChannels * FLOAT;
  let copyRow: Code;
  if (channels === paddedChannels) {
    copyRow = memory.copy(to, from, columns.count * channels * FLOAT);
  } else {
    const { p, q } = variables(copy, "i32", "p", "q");
    const vectors = Array.from(
      { length: Math.ceil(channels / 4) },
      (_, vector) =>
        v128.store(q, loadLanes(p, Math.min(channels - 4 * vector, 4), 16 * vector), 16 * vector),
    );
    copyRow = sequence(
      set(p, from),
      set(q, to),
      repeat(copy, columns.count, [[p, channels * FLOAT], [q, paddedChannels * FLOAT]], sequence(...vectors)),
    );
  }
  copy.add(doWhile(
    sequence(
      set(from, i32.add(source, rows.pixel * sourceRow + columns.pixel * channels * FLOAT)),
      set(to, i32.add(target, rows.at * targetRow + columns.at * paddedChannels * FLOAT)),
      repeat(copy, rows.count, [[from, sourceRow], [to, targetRow]], copyRow),
      set(source, i32.add(source, height.input * sourceRow)),
      set(target, i32.add(target, height.length * targetRow)),
      set(images, i32.sub(images, 1)),
    ),
    images,
  ));
  return copy;
}

/** A function (source, target): the transpose of a matrix, [rows, columns] -> [columns, rows]. */
export function transposeMatrix(module: ModuleBuilder, rows: number, columns: number): FunctionBuilder {
  const transpose = module.function(undefined, ["i32", "i32"]);
  const [source, target] = transpose.params;
  const { from, to } = variables(transpose, "i32", "from", "to");
  const whole = rows % 4 === 0 && columns % 4 === 0;
  const side = whole ? 4 : 1;
  const [fromPitch, toPitch] = [columns * FLOAT, rows * FLOAT];
  const block = whole
    ? transposeBlock(transpose, from, to, fromPitch, toPitch)
    : f32.store(to, f32.load(from));
  const line = sequence(
    set(from, source),
    set(to, target),
    repeat(transpose, columns / side, [[from, side * FLOAT], [to, side * toPitch]], block),
  );
  transpose.add(repeat(transpose, rows / side, [[source, side * fromPitch], [target, side * FLOAT]], line));
  return transpose;
}

/** Transposes 4 x 4 numbers. */
function transposeBlock(
  kernel: FunctionBuilder,
  from: Local,
  to: Local,
  fromPitch: number,
  toPitch: number,
): Code {
  const { a, b, c, d } = variables(kernel, "v128", "a", "b", "c", "d");
  const { ab, cd, abHigh, cdHigh } = variables(kernel, "v128", "ab", "cd", "abHigh", "cdHigh");
  return sequence(
    ...[a, b, c, d].map((line, row) => set(line, v128.load(from, row * fromPitch))),
    set(ab, shuffle32(a, b, [0, 4, 1, 5])),
    set(cd, shuffle32(c, d, [0, 4, 1, 5])),
    set(abHigh, shuffle32(a, b, [2, 6, 3, 7])),
    set(cdHigh, shuffle32(c, d, [2, 6, 3, 7])),
    v128.store(to, shuffle32(ab, cd, [0, 1, 4, 5])),
    v128.store(to, shuffle32(ab, cd, [2, 3, 6, 7]), toPitch),
    v128.store(to, shuffle32(abHigh, cdHigh, [0, 1, 4, 5]), 2 * toPitch),
    v128.store(to, shuffle32(abHigh, cdHigh, [2, 3, 6, 7]), 3 * toPitch),
  );
}

/**
 * A function (source, target, last) that packs a matrix [rows, columns] into the blocks of {@linkcode columnBlocks}, each of
 * contiguous rows: blocks of 8 at `target`, `blockBytes` apart, a narrower one at `last`.
 */
export function packColumns(
  module: ModuleBuilder,
  rows: number,
  columns: number,
  blockBytes: number,
): FunctionBuilder {
  const pack = module.function(undefined, ["i32", "i32", "i32"]);
  const [source, target, last] = pack.params;
  const { from, to } = variables(pack, "i32", "from", "to");
  for (const { count, vectors, lanes } of columnBlocks(columns)) {
    const full = vectors === 2 && lanes === 4;
    const copy = Array.from(
      { length: vectors },
      (_, vector) =>
        v128.store(to, loadLanes(from, vector === vectors - 1 ? lanes : 4, 16 * vector), 16 * vector),
    );
    const block = sequence(
      set(from, source),
      set(to, full ? target : last),
      repeat(pack, rows, [[from, columns * FLOAT], [to, 16 * vectors]], sequence(...copy)),
    );
    pack.add(repeat(pack, count, [[source, 16 * vectors], [target, blockBytes]], block));
  }
  return pack;
}
