/**
 * Randomness that can be repeated: counter-based streams of numbers, split by name.
 *
 * The words of a stream are Philox-4x32-10 (Salmon et al., SC 2011) of a counter; which 2^64 blocks of it a
 * stream has (key and upper half of the counter, 128 bits) is a hash of its path of names. So a child is the
 * same whether its parent or its siblings were drawn from or not, and adding a stream changes no other.
 *
 * The arithmetic is integer operations, + - * / and square root: the same numbers on every machine and every
 * engine whose doubles follow IEEE 754, bit for bit. Nothing here is fit for cryptography.
 */
import { createHash } from "node:crypto";
import { normalQuantile } from "./_normal_quantile.ts";
import { philox } from "./_philox.ts";

/** Says that the hash below is version 1 of it, so that a later one cannot be mistaken for it. */
const ROOT = createHash("sha256").update("normlab stream 1").digest();

/** 24 bits: every value is a float32, evenly spaced. */
const UNIT = 2 ** -24;

/**
 * The root of all draws that belong to `seed`; 1 and "1" are the same seed.
 *
 * @example
 * ```ts
 * import { stream } from "@normlab/normlab/tensor";
 *
 * const draws = stream(0).child("init").child("conv1");
 * const kernel = draws.normal(3 * 3 * 16 * 32, 0, 0.05); // Float32Array
 * const order = stream(0).child("order").permutation(10);
 * console.log(kernel.length, order);
 * ```
 *
 * @throws {RangeError} A number that is not a safe integer.
 * @throws {TypeError} Neither a number nor a string.
 */
export function stream(seed: number | string): Stream {
  return new Stream(hashName(ROOT, seed));
}

/**
 * A sequence of random numbers with a cursor: every call goes on where the last one stopped. Each number takes one
 * 32-bit word (`integers` and `permutation` now and then one more), so that n numbers at once are the n numbers one
 * by one.
 */
export class Stream {
  readonly #path: Uint8Array;
  /** The block of four words to generate next: the lower half counts, the upper half is the stream's own. */
  readonly #counter: Uint32Array;
  readonly #key: readonly [number, number];
  /** The block that is being used up; its last `#left` words are unused. */
  readonly #block = new Uint32Array(4);
  #left = 0;

  /** Use {@linkcode stream} and {@linkcode Stream.child}; `path` is the 32-byte hash of the names from the root. */
  constructor(path: Uint8Array) {
    this.#path = path;
    const words = new DataView(path.buffer, path.byteOffset, path.byteLength);
    this.#counter = Uint32Array.of(0, 0, words.getUint32(0, true), words.getUint32(4, true));
    this.#key = [words.getUint32(8, true), words.getUint32(12, true)];
  }

  /**
   * The stream `name` below this one, at its start; 1 and "1" are the same name. It depends on the names from the
   * root alone, not on what was drawn.
   *
   * @throws {RangeError} A number that is not a safe integer.
   * @throws {TypeError} Neither a number nor a string.
   */
  child(name: string | number): Stream {
    return new Stream(hashName(this.#path, name));
  }

  /** One number uniform in [0, 1): a multiple of 2^-24. */
  float(): number {
    return (this.#word() >>> 8) * UNIT;
  }

  /**
   * `n` numbers uniform in [lo, hi), [n]: multiples of 2^-24 where the bounds are 0 and 1. The bounds are
   * rounded to float32.
   *
   * @throws {RangeError} `n` is not a count, or not lo < hi in float32.
   */
  uniform(n: number, lo = 0, hi = 1): Float32Array {
    requireCount(n);
    const low = Math.fround(lo);
    const high = Math.fround(hi);
    if (!(low < high && Number.isFinite(high - low))) {
      throw new RangeError(
        `Cannot draw uniform numbers as 'lo' must be less than 'hi' in float32: current bounds are [${lo}, ${hi})`,
      );
    }
    const { words, values } = this.#words(n);
    if (low === 0 && high === 1) {
      for (let i = 0; i < n; i++) values[i] = (words[i]! >>> 8) * UNIT;
      return values;
    }
    const width = (high - low) * UNIT;
    const last = floatBelow(high); // rounding to float32 could reach `hi`
    for (let i = 0; i < n; i++) values[i] = Math.min(low + width * (words[i]! >>> 8), last);
    return values;
  }

  /**
   * `n` normally distributed numbers, [n], by inversion (AS 241): 2^32 evenly spaced quantiles, within 6.34
   * standard deviations.
   *
   * @throws {RangeError} `n` is not a count, `mean` or `std` is not finite, or `std` is negative.
   */
  normal(n: number, mean = 0, std = 1): Float32Array {
    requireCount(n);
    if (!Number.isFinite(mean)) {
      throw new RangeError(`Cannot draw normal numbers as 'mean' must be finite: current mean is ${mean}`);
    }
    if (!(std >= 0 && std < Infinity)) {
      throw new RangeError(`Cannot draw normal numbers as 'std' must be 0 or more: current std is ${std}`);
    }
    const { words, values } = this.#words(n);
    for (let i = 0; i < n; i++) values[i] = mean + std * normalQuantile(words[i]!);
    return values;
  }

  /**
   * `n` integers uniform in [0, below), [n], none more likely than another.
   *
   * @throws {RangeError} `n` is not a count, or `below` is not an integer from 1 to 2^31.
   */
  integers(n: number, below: number): Int32Array {
    requireCount(n);
    if (!(Number.isInteger(below) && below >= 1 && below <= 2 ** 31)) {
      throw new RangeError(
        `Cannot draw integers as 'below' must be an integer from 1 to 2^31: current below is ${below}`,
      );
    }
    const values = new Int32Array(n);
    for (let i = 0; i < n; i++) values[i] = this.#below(below);
    return values;
  }

  /**
   * The numbers 0 to n - 1 in random order, [n]: Fisher-Yates.
   *
   * @throws {RangeError} `n` is not a count.
   */
  permutation(n: number): Int32Array {
    requireCount(n);
    const order = Int32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.#below(i + 1);
      const moved = order[i]!;
      order[i] = order[j]!;
      order[j] = moved;
    }
    return order;
  }

  #word(): number {
    if (this.#left === 0) this.#refill();
    return this.#block[4 - this.#left--]!;
  }

  #refill(): void {
    philox(this.#counter, this.#key, this.#block, 0, 1);
    this.#left = 4;
  }

  /** One integer in [0, below): the words above the largest multiple of `below` would favour the small ones. */
  #below(below: number): number {
    const limit = 2 ** 32 - 2 ** 32 % below;
    let word = this.#word();
    while (word >= limit) word = this.#word();
    return word % below;
  }

  /** The next `n` words, and the same memory as the float32 values that take their place. */
  #words(n: number): { words: Uint32Array; values: Float32Array } {
    const words = new Uint32Array(n);
    let filled = 0;
    while (filled < n && this.#left > 0) words[filled++] = this.#word();
    const blocks = (n - filled) >> 2;
    philox(this.#counter, this.#key, words, filled, blocks);
    filled += 4 * blocks;
    while (filled < n) words[filled++] = this.#word();
    return { words, values: new Float32Array(words.buffer) };
  }
}

/** SHA-256 of the parent's 32 bytes and the name; as the first part has a fixed length, no two paths look alike. */
function hashName(parent: Uint8Array, name: string | number): Uint8Array {
  if (typeof name === "number" && !Number.isSafeInteger(name)) {
    throw new RangeError(`Cannot name a stream as a number must be a safe integer: current name is ${name}`);
  }
  if (typeof name !== "number" && typeof name !== "string") {
    throw new TypeError(
      `Cannot name a stream as the name must be a number or a string: current name is a ${typeof name}`,
    );
  }
  return createHash("sha256").update(parent).update(String(name)).digest();
}

function requireCount(n: number): void {
  if (Number.isInteger(n) && n >= 0 && n < 2 ** 31) return;
  throw new RangeError(`Cannot draw numbers as 'n' must be an integer from 0 to 2^31 - 1: current n is ${n}`);
}

/** The largest float32 below `value`, itself a float32. */
function floatBelow(value: number): number {
  const bits = new Int32Array(1);
  const floats = new Float32Array(bits.buffer);
  floats[0] = value;
  if (value === 0) bits[0] = -0x7fffffff;
  else bits[0]! += value > 0 ? -1 : 1;
  return floats[0];
}
