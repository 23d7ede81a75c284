/**
 * What makes a candidate win over K anchors. `pareto` (the paper's choice): a random one of those that no other
 * dominates, so that an anchor with widely spread scores does not decide alone. `average`: the highest mean. `anchor`:
 * the highest score on one of the anchors.
 */
export type Criterion = "pareto" | "average" | { readonly anchor: number };

/** Whether `p` is at least as good as `q` in every score and better in one. Larger is better; equal ones do not. */
export function dominates(p: readonly number[], q: readonly number[]): boolean {
  let better = false;
  for (let k = 0; k < p.length; k++) {
    if (p[k]! < q[k]!) return false;
    if (p[k]! > q[k]!) better = true;
  }
  return better;
}

/** Indices of the score vectors that no other dominates, ascending; copies of such a vector all stay. */
export function paretoFront(scores: readonly (readonly number[])[]): number[] {
  // Dominance is transitive: what a vector dropped from the front dominates, the one that dropped it dominates too.
  let front: number[] = [];
  for (let i = 0; i < scores.length; i++) {
    if (front.some((j) => dominates(scores[j]!, scores[i]!))) continue;
    front = front.filter((j) => !dominates(scores[i]!, scores[j]!));
    front.push(i);
  }
  return front;
}

/** The arithmetic mean. */
export function average(scores: readonly number[]): number {
  return scores.reduce((sum, score) => sum + score, 0) / scores.length;
}

/**
 * Index of the winner among candidates with these scores. `u` in [0, 1) picks a member of the Pareto front, in index
 * order; by average or by one anchor the lowest index of the highest value wins.
 *
 * @throws {RangeError} Without candidates, or for an anchor that is not there.
 */
export function winner(scores: readonly (readonly number[])[], criterion: Criterion, u: number): number {
  if (scores.length === 0) {
    throw new RangeError(
      "Cannot select a winner as there must be at least one candidate: current number is 0",
    );
  }
  if (criterion === "pareto") {
    const front = paretoFront(scores);
    return front[Math.floor(u * front.length)]!;
  }
  const values = scores.map((vector) => criterionValue(vector, criterion));
  return values.indexOf(values.reduce((most, value) => Math.max(most, value)));
}

/** The number that ranks a candidate by a criterion; by `pareto`, which has none, the average. */
export function criterionValue(scores: readonly number[], criterion: Criterion): number {
  if (typeof criterion === "string") return average(scores);
  const { anchor } = criterion;
  const score = scores[anchor];
  if (score !== undefined) return score;
  throw new RangeError(
    `Cannot select by one anchor as it must be from 0 to ${scores.length - 1}: current anchor is ${anchor}`,
  );
}

/** Members of a tournament in a population: its share, rounded (halves up), at least 1. */
export function tournamentSize(population: number, share = 0.05): number {
  // 0.05 is not a binary fraction: without the small term 0.05 * 50 could come to lie below 2.5.
  return Math.max(1, Math.floor(population * share + 0.5 + 1e-9));
}
