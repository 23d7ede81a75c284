/** Sorted, disjoint, non-touching half-open intervals `[from, to, from, to, ...]` of whole numbers, and bits for the same. */

/** No numbers. */
export const nothing: Int32Array = new Int32Array(0);

/**
 * Adds [from, to) to intervals that are in order and begin no later; touching ones become one, empty ones are left out.
 */
export function pushInterval(bounds: number[], from: number, to: number): void {
  if (to <= from) return;
  const last = bounds.length - 1;
  if (last >= 0 && from <= bounds[last]!) bounds[last] = Math.max(bounds[last]!, to);
  else bounds.push(from, to);
}

/** How many numbers intervals hold. */
export function countOf(bounds: Int32Array): number {
  let count = 0;
  for (let i = 0; i < bounds.length; i += 2) count += bounds[i + 1]! - bounds[i]!;
  return count;
}

/** The numbers that are in `a` or in `b`. */
export function unionOf(a: Int32Array, b: Int32Array): Int32Array {
  if (a.length === 0) return b;
  if (b.length === 0) return a;
  const bounds: number[] = [];
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    if (j >= b.length || (i < a.length && a[i]! <= b[j]!)) {
      pushInterval(bounds, a[i]!, a[i + 1]!);
      i += 2;
    } else {
      pushInterval(bounds, b[j]!, b[j + 1]!);
      j += 2;
    }
  }
  return Int32Array.from(bounds);
}

/** The numbers 0 <= x < length for which `keeps` says so. */
export function intervalsWhere(length: number, keeps: (x: number) => boolean): Int32Array {
  const bounds: number[] = [];
  let open = false;
  for (let x = 0; x < length; x++) {
    if (keeps(x) !== open) {
      bounds.push(x);
      open = !open;
    }
  }
  if (open) bounds.push(length);
  return Int32Array.from(bounds);
}

/** Sets the bits [from, to): number x is bit x % 32 of word floor(x / 32), after `base` words. */
export function setBits(words: Uint32Array, base: number, from: number, to: number): void {
  if (to <= from) return;
  const [first, last] = [from >>> 5, (to - 1) >>> 5];
  const head = -1 << (from & 31);
  const tail = -1 >>> (31 - ((to - 1) & 31));
  if (first === last) {
    words[base + first]! |= head & tail;
    return;
  }
  words[base + first]! |= head;
  words.fill(0xffffffff, base + first + 1, base + last);
  words[base + last]! |= tail;
}

/** The set bits of the words that hold numbers below `length`, as intervals. */
export function intervalsOfBits(words: Uint32Array, length: number): Int32Array {
  const bounds: number[] = [];
  let open = false;
  for (let word = 0; word * 32 < length; word++) {
    // Bits from `x` on that are different from what is open: each of them ends a run.
    const bits = words[word]!;
    for (let x = 0; x < 32;) {
      const rest = ((open ? ~bits : bits) >>> x) >>> 0;
      if (rest === 0) break;
      x += 31 - Math.clz32(rest & -rest);
      bounds.push(word * 32 + x);
      open = !open;
    }
  }
  if (open) bounds.push(length);
  return Int32Array.from(bounds);
}
