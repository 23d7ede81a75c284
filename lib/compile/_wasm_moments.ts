/** Functions of a kernel that turn sums over pixels into moments, and moments of rows into other rows. */
import {
  call,
  choose,
  type Code,
  countUp,
  f32,
  f64,
  type FunctionBuilder,
  i32,
  type Local,
  type ModuleBuilder,
  type Operand,
  sequence,
  set,
  variables,
} from "../wasm/mod.ts";
import type { KernelShape } from "./_wasm_layout.ts";
import type { Reduction } from "./value.ts";

const kinds: Readonly<Record<Reduction, number>> = { mean: 0, meanSquare: 1, variance: 2, sum: 3 };

/** Addresses of sums in float64 [C] and of the float32 row [C] that they are deviations from. */
export interface Sums {
  readonly sum: Operand;
  readonly square: Operand;
  readonly shift: Operand;
}

/** The functions, made once per module; each returns the code of a call. */
export interface MomentFunctions {
  /** A moment over `span` channels and `pixels` pixels each, into all channels of the span. */
  finish(op: Reduction, sums: Sums, out: Operand, span: number, pixels: number): Code;
  /** Adds the sums of a sample to those of the batch, which are deviations from another row. */
  fold(from: Sums, to: Sums): Code;
  /** A moment over `span` neighbouring numbers of a row. */
  lanes(op: Reduction, row: Operand, out: Operand, span: number): Code;
  /** A moment over the samples of rows that lie `step` bytes apart. */
  acrossBatch(op: Reduction, rows: Operand, step: number, out: Operand): Code;
}

/** Adds the functions to a module. */
export function momentFunctions(
  module: ModuleBuilder,
  { samples, pixels, channels }: KernelShape,
): MomentFunctions {
  const finish = finishFunction(module, channels);
  const fold = foldFunction(module, channels, pixels);
  const lanes = spreadFunction(module, channels);
  const acrossBatch = acrossBatchFunction(module, channels, samples);
  return {
    finish: (op, { sum, square, shift }, out, span, count) =>
      call(finish.index, sum, square, shift, out, span, count, kinds[op]),
    fold: (from, to) => call(fold.index, from.sum, from.square, from.shift, to.sum, to.square, to.shift),
    lanes: (op, row, out, span) => call(lanes.index, row, out, span, kinds[op]),
    acrossBatch: (op, rows, step, out) => call(acrossBatch.index, rows, step, out, kinds[op], pixels),
  };
}

const promoted = (address: Operand): Code => f64.promote(f32.load(address));

/** The moment from its sums about `centre` (0 for mean squares). */
function momentOf(kind: Local, first: Local, second: Local, centre: Local, count: Local): Code {
  const mean = f64.div(first, count);
  const variance = f64.max(f64.sub(f64.div(second, count), f64.mul(mean, mean)), f64.const(0));
  return choose(
    "f64",
    i32.eq(kind, kinds.mean),
    f64.add(centre, mean),
    choose(
      "f64",
      i32.eq(kind, kinds.variance),
      variance,
      choose(
        "f64",
        i32.eq(kind, kinds.meanSquare),
        f64.div(second, count),
        f64.add(f64.mul(centre, count), first),
      ),
    ),
  );
}

function finishFunction(module: ModuleBuilder, channels: number): FunctionBuilder {
  const built = module.function(undefined, ["i32", "i32", "i32", "i32", "i32", "i32", "i32"]);
  const [sum, square, shift, out, span, pixels, kind] = built.params;
  const start = built.local("i32"), lane = built.local("i32"), end = built.local("i32");
  const [perLane, count, centre, deviation, first, second] = ["f64", "f64", "f64", "f64", "f64", "f64"].map(
    () => built.local("f64"),
  ) as [Local, Local, Local, Local, Local, Local];
  const result = built.local("f32");
  const wide = (base: Local) => f64.load(i32.add(base, i32.shl(lane, 3)));
  built.add(
    set(perLane, f64.fromI32(pixels)),
    set(count, f64.mul(perLane, f64.fromI32(span))),
    countUp(
      start,
      0,
      channels,
      span,
      sequence(
        set(end, i32.add(start, span)),
        set(
          centre,
          choose(
            "f64",
            i32.eq(kind, kinds.meanSquare),
            f64.const(0),
            promoted(i32.add(shift, i32.shl(start, 2))),
          ),
        ),
        set(first, f64.const(0)),
        set(second, f64.const(0)),
        countUp(
          lane,
          start,
          end,
          1,
          sequence(
            set(deviation, f64.sub(promoted(i32.add(shift, i32.shl(lane, 2))), centre)),
            ...accumulate(first, second, wide(sum), wide(square), deviation, perLane),
          ),
        ),
        set(result, f32.demote(momentOf(kind, first, second, centre, count))),
        countUp(lane, start, end, 1, f32.store(i32.add(out, i32.shl(lane, 2)), result)),
      ),
    ),
  );
  return built;
}

/** Sums about a row become sums about a centre: with d the distance, sum + m d and square + 2 d sum + m d^2. */
function accumulate(first: Local, second: Local, sum: Code, square: Code, d: Local, m: Local): Code[] {
  const moved = f64.add(square, f64.mul(d, f64.add(f64.mul(f64.const(2), sum), f64.mul(m, d))));
  return [
    set(second, f64.add(second, moved)),
    set(first, f64.add(first, f64.add(sum, f64.mul(m, d)))),
  ];
}

function foldFunction(module: ModuleBuilder, channels: number, pixels: number): FunctionBuilder {
  const built = module.function(undefined, ["i32", "i32", "i32", "i32", "i32", "i32"]);
  const [sum, square, shift, toSum, toSquare, toShift] = built.params;
  const lane = built.local("i32");
  const { first, second, distance, m } = variables(built, "f64", "first", "second", "distance", "m");
  const wide = (base: Local) => i32.add(base, i32.shl(lane, 3));
  const narrow = (base: Local) => promoted(i32.add(base, i32.shl(lane, 2)));
  built.add(
    set(m, f64.const(pixels)),
    countUp(
      lane,
      0,
      channels,
      1,
      sequence(
        set(distance, f64.sub(narrow(shift), narrow(toShift))),
        set(first, f64.load(wide(toSum))),
        set(second, f64.load(wide(toSquare))),
        ...accumulate(first, second, f64.load(wide(sum)), f64.load(wide(square)), distance, m),
        f64.store(wide(toSum), first),
        f64.store(wide(toSquare), second),
      ),
    ),
  );
  return built;
}

function spreadFunction(module: ModuleBuilder, channels: number): FunctionBuilder {
  const built = module.function(undefined, ["i32", "i32", "i32", "i32"]);
  const [row, out, span, kind] = built.params;
  const start = built.local("i32"), lane = built.local("i32"), end = built.local("i32");
  const state = momentState(built);
  const result = built.local("f32");
  built.add(
    set(state.count, f64.fromI32(span)),
    countUp(
      start,
      0,
      channels,
      span,
      sequence(
        set(end, i32.add(start, span)),
        ...state.begin(kind, promoted(i32.add(row, i32.shl(start, 2)))),
        countUp(lane, start, end, 1, state.add(promoted(i32.add(row, i32.shl(lane, 2))))),
        set(result, f32.demote(state.moment(kind))),
        countUp(lane, start, end, 1, f32.store(i32.add(out, i32.shl(lane, 2)), result)),
      ),
    ),
  );
  return built;
}

function acrossBatchFunction(module: ModuleBuilder, channels: number, samples: number): FunctionBuilder {
  const built = module.function(undefined, ["i32", "i32", "i32", "i32", "i32"]);
  const [rows, step, out, kind, weight] = built.params;
  const lane = built.local("i32"), sample = built.local("i32"), at = built.local("i32");
  const state = momentState(built);
  const moment = built.local("f64");
  built.add(
    set(state.count, f64.const(samples)),
    countUp(
      lane,
      0,
      channels,
      1,
      sequence(
        set(at, i32.add(rows, i32.shl(lane, 2))),
        ...state.begin(kind, promoted(at)),
        countUp(sample, 0, samples, 1, sequence(state.add(promoted(at)), set(at, i32.add(at, step)))),
        set(moment, state.moment(kind)),
        // A row stands for all pixels of its sample, which matters to sums only.
        set(
          moment,
          choose("f64", i32.eq(kind, kinds.sum), f64.mul(moment, f64.fromI32(weight)), moment),
        ),
        f32.store(i32.add(out, i32.shl(lane, 2)), f32.demote(moment)),
      ),
    ),
  );
  return built;
}

/** Running sums about the first number. */
function momentState(built: FunctionBuilder) {
  const { count, centre, first, second, deviation } = variables(
    built,
    "f64",
    "count",
    "centre",
    "first",
    "second",
    "deviation",
  );
  return {
    count,
    begin: (kind: Local, value: Code): Code[] => [
      set(centre, choose("f64", i32.eq(kind, kinds.meanSquare), f64.const(0), value)),
      set(first, f64.const(0)),
      set(second, f64.const(0)),
    ],
    add: (value: Code): Code =>
      sequence(
        set(deviation, f64.sub(value, centre)),
        set(first, f64.add(first, deviation)),
        set(second, f64.add(second, f64.mul(deviation, deviation))),
      ),
    moment: (kind: Local): Code => momentOf(kind, first, second, centre, count),
  };
}
