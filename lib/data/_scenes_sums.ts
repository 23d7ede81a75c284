/**
 * Sums in the order in which NumPy takes them: pairwise, eight partial sums in blocks of up to 128. The scores were
 * published with these; taken in the same order, what was found in a picture is the same to the last bit, and ties and
 * thresholds fall alike.
 */

const block = 128;

/** The sum of `values` from `start` on, `count` of them. */
export function pairwiseSum(
  values: ArrayLike<number>,
  start: number = 0,
  count: number = values.length,
): number {
  if (count < 8) {
    let sum = 0;
    for (let i = 0; i < count; i++) sum += values[start + i]!;
    return sum;
  }
  if (count <= block) {
    const part = Array.from({ length: 8 }, (_, i) => values[start + i]!);
    let i = 8;
    for (; i + 8 <= count; i += 8) for (let j = 0; j < 8; j++) part[j]! += values[start + i + j]!;
    const [a, b, c, d, e, f, g, h] = part as [number, number, number, number, number, number, number, number];
    let sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
    for (; i < count; i++) sum += values[start + i]!;
    return sum;
  }
  const half = (count >> 1) - ((count >> 1) % 8);
  return pairwiseSum(values, start, half) + pairwiseSum(values, start + half, count - half);
}

/** The mean of `values`, summed as {@linkcode pairwiseSum}. */
export function pairwiseMean(values: ArrayLike<number>): number {
  return pairwiseSum(values) / values.length;
}

/** The middle one of the sorted values, or the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
