/** The softmax over keys that come a few at a time, as WebAssembly: scores are in units of ln 2, queries across the lanes. */
import {
  type Code,
  countUp,
  doWhile,
  f32x4,
  type FunctionBuilder,
  i32,
  i32x4,
  type Local,
  type ModuleBuilder,
  sequence,
  set,
  v128,
  variables,
  when,
} from "../wasm/mod.ts";
import { type KernelSettings, multiplyAdd, stripBytes, VECTOR } from "./_wasm_products.ts";

// 2^f on |f| <= 1/2: 1 + f P(f), fitted to the least relative error, 9e-8 (iterated weighted least squares).
const EXP2 = [0.0013264727247, 0.0096715126882, 0.0555073374357, 0.2402224208463, 0.6931469775987, 1];
const MAGIC = 1.5 * 2 ** 23;
/** 2^-127 comes out as exactly 0, so all below is 0 as well. */
const LEAST = -127;
/** Where a maximum starts: below every score, but finite, so that scores of -infinity get weight 0. */
const NO_MAXIMUM = -3e38;
/** Weights may exceed 1 by 2 to this before the sums are scaled down to a new maximum: it is rarely needed then. */
const SLACK = 8;

/** Powers of two of vectors. */
class Exp2 {
  readonly #locals: readonly Local[];
  readonly #coefficients: readonly Local[];
  readonly #magic: Local;
  readonly #least: Local;
  readonly #relaxed: boolean;

  constructor(built: FunctionBuilder, relaxed: boolean) {
    const local = () => built.local("v128");
    this.#locals = [local(), local(), local()];
    this.#coefficients = EXP2.map(local);
    [this.#magic, this.#least] = [local(), local()];
    this.#relaxed = relaxed;
  }

  /** To be placed before the code that uses it: constants inside of loops are slow. */
  prologue(): Code {
    return sequence(
      ...EXP2.map((value, at) => set(this.#coefficients[at]!, f32x4.const(value))),
      set(this.#magic, f32x4.const(MAGIC)),
      set(this.#least, f32x4.const(LEAST)),
    );
  }

  /** Sets `result`, which may be part of the argument, to 2^argument; the argument is at most 127. */
  set(result: Local, argument: Code): Code {
    const [x, shifted, power] = this.#locals as [Local, Local, Local];
    return sequence(
      set(x, f32x4.pmax(argument, this.#least)),
      // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
      set(shifted, f32x4.add(x, this.#magic)),
      set(x, f32x4.sub(x, f32x4.sub(shifted, this.#magic))),
      set(power, this.#coefficients[0]!),
      ...this.#coefficients.slice(1).map((term) => set(power, multiplyAdd(this.#relaxed, power, x, term))),
      set(result, i32x4.add(power, i32x4.shl(shifted, 23))),
    );
  }
}

/** A function (statistics): no key seen yet, maxima [strip] and sums [strip]. */
export function startSoftmax(module: ModuleBuilder, { strip }: KernelSettings): FunctionBuilder {
  const built = module.function(undefined, ["i32"]);
  const [statistics] = built.params;
  for (let vector = 0; vector < strip.vectors; vector++) {
    built.add(
      v128.store(statistics, f32x4.const(NO_MAXIMUM), vector * VECTOR),
      v128.store(statistics, f32x4.const(0), (strip.vectors + vector) * VECTOR),
    );
  }
  return built;
}

/**
 * A function (scores, count, statistics, output): scores [count][strip] become weights 2^(score - maximum), their sums are added to
 * the statistics; with a new maximum what was summed before, output [dim][strip] too, is scaled down. Writes up to three rows of
 * scores behind the last one.
 */
export function softmaxPart(module: ModuleBuilder, { dim, strip, relaxed }: KernelSettings): FunctionBuilder {
  const built = module.function(undefined, ["i32", "i32", "i32", "i32"]);
  const [scores, count, statistics, output] = built.params;
  const exp2 = new Exp2(built, relaxed);
  const [at, end, from, pair] = [0, 1, 2, 3].map(() => built.local("i32")) as [Local, Local, Local, Local];
  const pitch = stripBytes(strip);
  const width = strip.vectors % 2 === 0 ? 2 : 1;
  const local = () => built.local("v128");
  const vectors = Array.from({ length: width }, (_, vector) => ({
    offset: vector * VECTOR,
    most: [local(), local(), local(), local()] as const,
    maximum: local(),
    scale: local(),
    sum: local(),
    value: local(),
  }));
  const sumOffset = pitch;
  const each = (visit: (vector: typeof vectors[number]) => Code) => sequence(...vectors.map(visit));
  const rows = 4;
  // The rows up to a multiple of four have no keys.
  built.add(
    exp2.prologue(),
    set(end, i32.add(scores, i32.mul(count, pitch))),
    ...Array.from(
      { length: (rows - 1) * strip.vectors },
      (_, index) => v128.store(end, f32x4.const(-Infinity), index * VECTOR),
    ),
    set(end, i32.add(scores, i32.mul(i32.and(i32.add(count, rows - 1), -rows), pitch))),
  );
  const overRows = (perRound: number, visit: (row: number) => Code): Code =>
    sequence(
      set(at, from),
      doWhile(
        sequence(
          ...Array.from({ length: perRound }, (_, row) => visit(row)),
          set(at, i32.add(at, perRound * pitch)),
        ),
        i32.ltU(at, end),
      ),
    );
  const rescale = countUp(
    at,
    0,
    dim * pitch,
    pitch,
    each(({ offset, scale }) =>
      v128.store(
        i32.add(output, at),
        f32x4.mul(v128.load(i32.add(output, at), offset), scale),
        offset,
      )
    ),
  );
  const exceeds = vectors.map(({ most, maximum }) =>
    f32x4.gt(most[0], f32x4.add(maximum, f32x4.const(SLACK)))
  ).reduce((a, b) => v128.or(a, b));
  const body = sequence(
    each(({ most }) => sequence(...most.map((one) => set(one, f32x4.const(-Infinity))))),
    overRows(
      rows,
      (row) =>
        each(({ most, offset }) =>
          set(most[row]!, f32x4.pmax(most[row]!, v128.load(at, row * pitch + offset)))
        ),
    ),
    each(({ most: [a, b, c, d], maximum, offset, sum }) =>
      sequence(
        set(a, f32x4.pmax(f32x4.pmax(a, b), f32x4.pmax(c, d))),
        set(maximum, v128.load(statistics, offset)),
        set(sum, v128.load(statistics, sumOffset + offset)),
      )
    ),
    when(
      v128.anyTrue(exceeds),
      sequence(
        each(({ most, maximum, scale, offset, sum }) =>
          sequence(
            set(scale, maximum),
            set(maximum, f32x4.pmax(maximum, most[0])),
            v128.store(statistics, maximum, offset),
            exp2.set(scale, f32x4.sub(scale, maximum)),
            set(sum, f32x4.mul(sum, scale)),
          )
        ),
        rescale,
      ),
    ),
    overRows(2, (row) =>
      each(({ offset, maximum, sum, value }) =>
        sequence(
          exp2.set(value, f32x4.sub(v128.load(at, row * pitch + offset), maximum)),
          v128.store(at, value, row * pitch + offset),
          set(sum, f32x4.add(sum, value)),
        )
      )),
    each(({ sum, offset }) => v128.store(statistics, sum, sumOffset + offset)),
  );
  const advance = (...locals: readonly Local[]) =>
    sequence(...locals.map((one) => set(one, i32.add(one, width * VECTOR))));
  built.add(
    set(from, scores),
    set(pair, strip.vectors / width),
    doWhile(
      sequence(body, advance(from, end, statistics, output), set(pair, i32.sub(pair, 1))),
      pair,
    ),
  );
  return built;
}

/**
 * A function (scores, pattern, first, last): scores [key][strip] of keys first ... last - 1 of a tile, at most 32, become -infinity
 * where the pattern, a word for each query of the strip, has no bit.
 */
export function maskScores(module: ModuleBuilder, { strip }: KernelSettings): FunctionBuilder {
  const built = module.function(undefined, ["i32", "i32", "i32", "i32"]);
  const [scores, pattern, first, last] = built.params;
  const { at, shift, end, vector } = variables(built, "i32", "at", "shift", "end", "vector");
  const { word, none } = variables(built, "v128", "word", "none");
  const pitch = stripBytes(strip);
  // From the last key down: its bit comes first into the sign.
  built.add(
    set(none, f32x4.const(-Infinity)),
    set(shift, i32.sub(32, last)),
    set(end, i32.add(scores, i32.mul(first, pitch))),
    set(scores, i32.add(scores, i32.mul(last, pitch))),
    countUp(
      vector,
      0,
      strip.vectors * VECTOR,
      VECTOR,
      sequence(
        set(word, i32x4.shl(v128.load(i32.add(pattern, vector)), shift)),
        set(at, i32.add(scores, vector)),
        doWhile(
          sequence(
            set(at, i32.sub(at, pitch)),
            v128.store(at, v128.select(v128.load(at), none, i32x4.shrS(word, 31))),
            set(word, i32x4.add(word, word)),
          ),
          i32.gtU(at, i32.add(end, vector)),
        ),
      ),
    ),
  );
  return built;
}

const LN2 = 0.6931471805599453;

/** Sets `result` to the natural logarithm of 2^maximum * sum, -infinity for a sum of 0; the sum is a normal number or 0. */
export function logSumExp(built: FunctionBuilder, result: Local, maximum: Local, sum: Local): Code {
  const { exponent, mantissa, high, ratio, square } = variables(
    built,
    "v128",
    "exponent",
    "mantissa",
    "high",
    "ratio",
    "square",
  );
  // sum = mantissa 2^exponent with mantissa in [sqrt(1/2), sqrt(2)); ln of it is 2 atanh of (mantissa - 1) / (mantissa + 1).
  const series = [2 / 9, 2 / 7, 2 / 5, 2 / 3, 2].map((term) => f32x4.const(term)).reduce((total, term) =>
    f32x4.add(f32x4.mul(total, square), term)
  );
  const one = f32x4.const(1);
  return sequence(
    set(exponent, f32x4.fromI32x4(i32x4.sub(i32x4.shrU(sum, 23), i32x4.const(127)))),
    set(mantissa, v128.or(v128.and(sum, i32x4.const(0x007fffff)), one)),
    set(high, f32x4.gt(mantissa, f32x4.const(Math.SQRT2))),
    set(exponent, f32x4.add(exponent, v128.and(high, one))),
    set(mantissa, v128.select(f32x4.mul(mantissa, f32x4.const(0.5)), mantissa, high)),
    set(ratio, f32x4.div(f32x4.sub(mantissa, one), f32x4.add(mantissa, one))),
    set(square, f32x4.mul(ratio, ratio)),
    set(
      result,
      f32x4.add(f32x4.mul(f32x4.add(maximum, exponent), f32x4.const(LN2)), f32x4.mul(series, ratio)),
    ),
    set(result, v128.select(f32x4.const(-Infinity), result, f32x4.eq(sum, f32x4.const(0)))),
    // A sum that is no number stays so.
    set(result, v128.or(result, f32x4.ne(sum, sum))),
  );
}
