import type { CandidateRecord } from "./record.ts";

/** Where a search keeps its records, in order of submission; what is there when a search begins is where it goes on. */
export interface Journal {
  /**
   * The records kept so far, in order, in batches. Called once, before any {@link append}. Throws where they belong to
   * a search of another `identity` (the text of {@link searchIdentity}).
   */
  read(identity: string): Iterable<readonly CandidateRecord[]> | AsyncIterable<readonly CandidateRecord[]>;
  /** Keeps the records that follow: all of them or, if this is cut off, none. */
  append(records: readonly CandidateRecord[]): void | Promise<void>;
}

/** A journal in memory: for searches that take seconds, and for tests. */
export class MemoryJournal implements Journal {
  /** All records, in order. */
  readonly records: CandidateRecord[] = [];
  #identity: string | undefined;

  read(identity: string): Iterable<readonly CandidateRecord[]> {
    this.#identity ??= identity;
    if (identity !== this.#identity) throw foreignJournal(this.#identity, identity);
    return [this.records];
  }

  append(records: readonly CandidateRecord[]): void {
    for (const record of records) this.records.push(record);
  }
}

/** The error of a journal that belongs to another search. */
export function foreignJournal(kept: string, asked: string): RangeError {
  return new RangeError(
    `Cannot go on with the journal as it must belong to the same search, ${asked}: current journal is of ${kept}`,
  );
}
