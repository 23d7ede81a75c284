import type { Member } from "./population.ts";
import { type CandidateRecord, costOf, wasEvaluated } from "./record.ts";
import { average, dominates } from "./selection.ts";

/** Where a search stands. Every candidate is counted in one of `accepted`, `rejected` and `duplicates`. */
export interface SearchProgress<G> {
  /** Results in the history. */
  readonly candidates: number;
  /** Candidates that were evaluated: neither screened out nor duplicates. */
  readonly evaluated: number;
  /** First of their kind that passed every test. */
  readonly accepted: number;
  /** First of their kind that failed, by test. */
  readonly rejected: Readonly<Record<string, number>>;
  /** Candidates that took the result of an earlier one with the same hash. */
  readonly duplicates: number;
  /** Members of the population. */
  readonly population: number;
  /** Candidates whose evaluation goes on. */
  readonly running: number;
  /** The highest average, and the earliest of these; null while nothing was accepted. */
  readonly best: Member<G> | null;
  /** The candidates that no other one dominates, ascending, without duplicates. */
  readonly front: readonly Member<G>[];
  /** Recorded cost of all candidates, those of earlier runs included: summed over workers. */
  readonly seconds: number;
  /** Deterministic cost of all candidates. */
  readonly work: number;
  /** Since this call began. */
  readonly elapsedSeconds: number;
  /** Candidates per second of this call; NaN while there are none. */
  readonly rate: number;
  /** Time left at this call's rate until the budget is used up; NaN while there is none. */
  readonly remainingSeconds: number;
}

/** What a search has counted up. */
export class Tally<G> {
  candidates = 0;
  evaluated = 0;
  accepted = 0;
  duplicates = 0;
  seconds = 0;
  work = 0;
  /** Candidates since the last one that was evaluated. */
  idle = 0;
  readonly rejected: Record<string, number> = {};
  best: Member<G> | null = null;
  front: Member<G>[] = [];

  /** Counts a record; `member` where it was accepted. */
  add(record: CandidateRecord, member: Member<G> | null): void {
    const evaluated = wasEvaluated(record);
    const { seconds, work } = costOf(record);
    this.candidates++;
    this.seconds += seconds;
    this.work += work;
    this.idle = evaluated ? 0 : this.idle + 1;
    if (evaluated) this.evaluated++;
    if (record.duplicateOf !== null) this.duplicates++;
    else if (member === null) this.#reject(record.rejectedBy!);
    else this.#accept(member);
  }

  #reject(test: string): void {
    this.rejected[test] = (this.rejected[test] ?? 0) + 1;
  }

  #accept(member: Member<G>): void {
    const { scores } = member;
    this.accepted++;
    if (this.best === null || average(scores) > average(this.best.scores)) this.best = member;
    if (this.front.some((other) => dominates(other.scores, scores))) return;
    this.front = this.front.filter((other) => !dominates(scores, other.scores));
    this.front.push(member);
  }
}
