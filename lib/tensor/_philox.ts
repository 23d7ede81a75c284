/**
 * Philox-4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as
 * 1, 2, 3" (SC 2011): a 128-bit counter and a 64-bit key to four 32-bit words, by integer arithmetic alone.
 */

/** Multipliers, in halves of 16 bits as JavaScript has no 32 x 32 -> 64 bit product, and the key's increments. */
const M0 = 0xd2511f53 | 0;
const M0_HIGH = 0xd251;
const M0_LOW = 0x1f53;
const M1 = 0xcd9e8d57 | 0;
const M1_HIGH = 0xcd9e;
const M1_LOW = 0x8d57;
const WEYL0 = 0x9e3779b9 | 0;
const WEYL1 = 0xbb67ae85 | 0;
const ROUNDS = 10;

/**
 * Fills `out` from `offset` with `blocks` blocks of four words and leaves `counter` (four words, the lowest first)
 * at the block after them.
 */
export function philox(
  counter: Uint32Array,
  key: readonly [number, number],
  out: Uint32Array,
  offset: number,
  blocks: number,
): void {
  const [key0, key1] = key;
  for (let i = 0; i < blocks; i++, offset += 4) {
    let x0 = counter[0]! | 0;
    let x1 = counter[1]! | 0;
    let x2 = counter[2]! | 0;
    let x3 = counter[3]! | 0;
    let k0 = key0 | 0;
    let k1 = key1 | 0;
    for (let round = 0; round < ROUNDS; round++) {
      // Upper words of M0 * x0 and M1 * x2 by schoolbook multiplication; no partial sum exceeds 32 bits.
      const a = x0 & 0xffff;
      const b = x0 >>> 16;
      const s = Math.imul(M0_HIGH, a) + (Math.imul(M0_LOW, a) >>> 16) | 0;
      const t = Math.imul(M0_LOW, b) + (s & 0xffff) | 0;
      const upper0 = Math.imul(M0_HIGH, b) + (s >>> 16) + (t >>> 16) | 0;
      const c = x2 & 0xffff;
      const d = x2 >>> 16;
      const u = Math.imul(M1_HIGH, c) + (Math.imul(M1_LOW, c) >>> 16) | 0;
      const v = Math.imul(M1_LOW, d) + (u & 0xffff) | 0;
      const upper1 = Math.imul(M1_HIGH, d) + (u >>> 16) + (v >>> 16) | 0;
      const lower0 = Math.imul(M0, x0);
      const lower1 = Math.imul(M1, x2);
      x0 = upper1 ^ x1 ^ k0;
      x1 = lower1;
      x2 = upper0 ^ x3 ^ k1;
      x3 = lower0;
      k0 = (k0 + WEYL0) | 0;
      k1 = (k1 + WEYL1) | 0;
    }
    out[offset] = x0;
    out[offset + 1] = x1;
    out[offset + 2] = x2;
    out[offset + 3] = x3;
    increment(counter);
  }
}

function increment(counter: Uint32Array): void {
  for (let i = 0; i < 4; i++) {
    counter[i]!++;
    if (counter[i] !== 0) return;
  }
}
