import type { Member } from "./population.ts";
import type { CandidateRecord } from "./record.ts";
import { average, type Criterion, criterionValue, paretoFront } from "./selection.ts";
import type { Space } from "./settings.ts";

/**
 * The best `count` of candidates with scores, best first. By `pareto` front after front, within a front by average; by
 * average or by one anchor simply so. Equal ones stay in the order given.
 */
export function rank<T extends { readonly scores: readonly number[] }>(
  candidates: readonly T[],
  criterion: Criterion,
  count = Infinity,
): T[] {
  const byValue = (list: readonly T[]) =>
    list
      .map((candidate) => ({ candidate, value: criterionValue(candidate.scores, criterion) }))
      .sort((a, b) => b.value - a.value)
      .map(({ candidate }) => candidate);
  if (criterion !== "pareto") return byValue(candidates).slice(0, count);
  const ranked: T[] = [];
  for (let rest = [...candidates]; rest.length > 0 && ranked.length < count;) {
    const front = new Set(paretoFront(rest.map(({ scores }) => scores)));
    ranked.push(...byValue(rest.filter((_, i) => front.has(i))));
    rest = rest.filter((_, i) => !front.has(i));
  }
  return ranked.slice(0, count);
}

/** The best `count` accepted candidates of a journal, each function once, best first. */
export function bestCandidates<G>(
  records: Iterable<CandidateRecord>,
  space: Pick<Space<G>, "decode">,
  criterion: Criterion,
  count: number,
): Member<G>[] {
  const accepted: { index: number; scores: readonly number[]; encoded: string }[] = [];
  for (const { index, scores, genotype, duplicateOf } of records) {
    if (scores !== null && duplicateOf === null) accepted.push({ index, scores, encoded: genotype });
  }
  return rank(accepted, criterion, count)
    .map(({ index, scores, encoded }) => ({ index, scores, genotype: space.decode(encoded) }));
}

/** A candidate that was evaluated again. */
export interface Reranked<G> extends Member<G> {
  /** Its place before, from 0. */
  readonly before: number;
  /** Its scores before; `scores` are the new ones. */
  readonly scoresBefore: readonly number[];
}

/**
 * Ranks candidates once more by another evaluation: more steps, more seeds, held-out data. One candidate after the
 * other is given to `evaluate`, `workers` at once; its scores may be of other anchors than the search's.
 */
export async function rerank<G>(
  candidates: readonly Member<G>[],
  evaluate: (candidate: Member<G>) => readonly number[] | Promise<readonly number[]>,
  options: { readonly criterion?: Criterion; readonly workers?: number } = {},
): Promise<Reranked<G>[]> {
  const { criterion = "average", workers = 1 } = options;
  const reranked: Reranked<G>[] = [];
  const queue = candidates.map((candidate, before) => ({ candidate, before }));
  const work = async () => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const { candidate: { index, genotype, scores: scoresBefore }, before } = next;
      const scores = await evaluate(next.candidate);
      reranked[before] = { index, genotype, scores, before, scoresBefore };
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, workers) }, work));
  return rank(reranked, criterion);
}

/** The running maximum of the average score, one number per record: the curve of a search over its cost. */
export function bestSoFar(
  records: Iterable<Pick<CandidateRecord, "scores">>,
  value: (scores: readonly number[]) => number = average,
): number[] {
  let best = NaN;
  const curve: number[] = [];
  for (const { scores } of records) {
    if (scores !== null) best = Number.isNaN(best) ? value(scores) : Math.max(best, value(scores));
    curve.push(best);
  }
  return curve;
}
