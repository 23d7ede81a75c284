import { setImmediate } from "node:timers";
import {
  average,
  type Candidate,
  type CandidateRecord,
  type Evaluation,
  type Journal,
  MemoryJournal,
  repeatableColumns,
  search,
  type SearchOptions,
  type SearchResult,
  toColumns,
} from "../../lib/evolution/mod.ts";
import { type Stream, stream } from "../../lib/tensor/mod.ts";
import { type Digits, digits, evaluateDigits, names } from "./_digits.ts";

/** A search of digits by seed 1 for 400 candidates, unless said otherwise. */
export function digitsSearch(changes: Partial<SearchOptions<Digits>> = {}): SearchOptions<Digits> {
  return {
    draws: stream(1),
    identity: { seed: 1 },
    space: digits,
    ...names,
    evaluate: evaluateDigits,
    budget: { candidates: 400 },
    ...changes,
  };
}

/** Runs a search and gives its records with its result. */
export async function run<G>(
  options: SearchOptions<G>,
): Promise<SearchResult<G> & { records: CandidateRecord[] }> {
  const journal = new MemoryJournal();
  const result = await search({ journal, ...options });
  return { ...result, records: journal.records };
}

/** What two runs of the same search have in common. */
export function repeatable(records: readonly CandidateRecord[]): string {
  const columns = toColumns(records, names);
  return repeatableColumns(names).map(({ name }) =>
    `${name}: ${Array.from(columns[name] as ArrayLike<number | string>)}`
  ).join("\n");
}

/** The same evaluation, answered after a random while: results arrive in any order. */
export function scrambled<G>(
  evaluate: (candidate: Candidate<G>) => Evaluation,
  draws: Stream,
): (candidate: Candidate<G>) => Promise<Evaluation> {
  return async (candidate) => {
    for (let turns = draws.integers(1, 12)[0]!; turns > 0; turns--) {
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
    return evaluate(candidate);
  };
}

/** A journal that keeps what it was given until its process dies, and nothing after that. */
export class MortalJournal implements Journal {
  readonly #kept: CandidateRecord[];
  #alive = true;

  constructor(kept: CandidateRecord[]) {
    this.#kept = kept;
  }

  read(): Iterable<readonly CandidateRecord[]> {
    return [this.#kept];
  }

  append(records: readonly CandidateRecord[]): void {
    if (this.#alive) this.#kept.push(...records);
  }

  die(): void {
    this.#alive = false;
  }
}

/** The best average of a history. */
export const bestAverage = (records: readonly CandidateRecord[]): number =>
  Math.max(...records.flatMap(({ scores }) => (scores === null ? [] : average(scores))));
