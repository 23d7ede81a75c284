/** The draws that make a scene out of a 32-bit seed: part of the data sets' definition, hence not the kit's streams. */

import type { Gradient } from "./_scenes_paint.ts";

const span = 2 ** 32;

/** Marsaglia's xorshift128 over four words of splitmix32: integer operations alone, the same numbers everywhere. */
export class SceneDraws {
  #x: number;
  #y: number;
  #z: number;
  #w: number;

  /** @throws {RangeError} `seed` is not an integer from 0 to 2^32 - 1. */
  constructor(seed: number) {
    if (!(Number.isInteger(seed) && seed >= 0 && seed < span)) {
      throw new RangeError(
        `Cannot draw a scene as 'seed' must be an integer from 0 to 2^32 - 1: current seed is ${seed}`,
      );
    }
    let state = seed;
    const word = () => {
      state = (state + 0x9e3779b9) | 0;
      let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
      mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
      return mixed ^ (mixed >>> 15);
    };
    this.#x = word();
    this.#y = word();
    this.#z = word();
    this.#w = word() | 1; // the four words must not all be zero
  }

  /** The next word, an integer in [0, 2^32). */
  next(): number {
    let mixed = this.#x ^ (this.#x << 11);
    mixed ^= mixed >>> 8;
    this.#x = this.#y;
    this.#y = this.#z;
    this.#z = this.#w;
    this.#w = this.#w ^ (this.#w >>> 19) ^ mixed;
    return this.#w >>> 0;
  }

  /** An integer in [0, n), n below 2^20: then the product is exact. */
  below(n: number): number {
    return Math.floor(this.next() * n / span);
  }

  /** A number in [low, high). */
  real(low: number, high: number): number {
    return low + (high - low) * (this.next() / span);
  }
}

/** A nearly grey gradient. */
export function drawBackground(draws: SceneDraws): [Gradient, Gradient, Gradient] {
  const grey = draws.real(0.12, 0.4);
  const slopeX = draws.real(-0.16, 0.16);
  const slopeY = draws.real(-0.16, 0.16);
  const channel = () => ({
    base: grey + draws.real(-0.03, 0.03),
    slopeX: slopeX + draws.real(-0.04, 0.04),
    slopeY: slopeY + draws.real(-0.04, 0.04),
  });
  return [channel(), channel(), channel()];
}

/** A shade of a colour, given which of its channels are bright. */
export function drawShade(
  draws: SceneDraws,
  bright: readonly [number, number, number],
): [number, number, number] {
  const channel = (bit: number) => bit ? draws.real(0.84, 0.98) : draws.real(0.04, 0.16);
  return [channel(bright[0]), channel(bright[1]), channel(bright[2])];
}
