/** Which numbers of a row to keep. */

/** How much of a row's mass to keep: see {@link keepMass}. */
export type MassRule = "reach" | "below";

/** Marks the `count` largest scores in `kept`; of equal ones the first. -Infinity and NaN are never marked. */
export function keepLargest(scores: Float32Array, count: number, kept: Uint8Array): void {
  const sorted = scores.filter((score) => score > -Infinity).sort();
  const least = sorted[Math.max(0, sorted.length - count)];
  if (least === undefined || count <= 0) return;
  // Those above the least kept one, then as many of its equals as are left.
  let left = Math.min(count, sorted.length);
  for (const [index, score] of scores.entries()) {
    if (score > least) {
      kept[index] = 1;
      left--;
    }
  }
  for (const [index, score] of scores.entries()) {
    if (left === 0) break;
    if (score === least) {
      kept[index] = 1;
      left--;
    }
  }
}

/**
 * Marks the largest scores that together hold the share `mass` of the row's sum. `reach`: as many as it takes to reach
 * it. `below`: as many as do not exceed it, but at least one. A row of zeros keeps nothing with `reach`.
 */
export function keepMass(scores: Float32Array, mass: number, rule: MassRule, kept: Uint8Array): void {
  const sorted = scores.slice().sort().reverse();
  let total = 0;
  for (const score of sorted) total += score;
  const wanted = mass * total;
  let count = 0;
  let sum = 0;
  for (const score of sorted) {
    if (rule === "reach" ? !(sum < wanted) : !(sum + score <= wanted)) break;
    sum += score;
    count++;
  }
  keepLargest(scores, rule === "below" ? Math.max(1, count) : count, kept);
}
