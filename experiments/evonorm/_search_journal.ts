/** The journal of a search as Arrow files: an append-only table in the store's folder. */
import {
  type CandidateRecord,
  fromColumns,
  type Journal,
  recordColumns,
  type RecordNames,
  repeatableColumns,
  toColumns,
} from "../../lib/evolution/mod.ts";
import { AppendTable, type FileWriter, type TableLayout, writeTable } from "../../lib/experiment/mod.ts";

/** Records in a folder of Arrow files, one row per candidate, the search's identity in each file's metadata. */
export class ArrowJournal implements Journal {
  readonly #folder: string;
  readonly #names: RecordNames;
  readonly #write: FileWriter | undefined;
  #table: AppendTable | undefined;

  constructor(folder: string, names: RecordNames, write?: FileWriter) {
    this.#folder = folder;
    this.#names = names;
    this.#write = write;
  }

  *read(identity: string): Generator<CandidateRecord[]> {
    const layout: TableLayout = { columns: recordColumns(this.#names), metadata: { identity } };
    this.#table = new AppendTable(this.#folder, layout, this.#write);
    for (const columns of this.#table.read()) yield fromColumns(columns, this.#names);
  }

  append(records: readonly CandidateRecord[]): void {
    if (this.#table === undefined) throw new Error("the journal must be read before it is appended to");
    this.#table.append(toColumns(records, this.#names));
  }
}

/** The records of the journal in a folder, whichever search it is of; none where there is no journal. */
export function readRecords(folder: string, names: RecordNames): CandidateRecord[] {
  const table = new AppendTable(folder, { columns: recordColumns(names), metadata: {} });
  return [...table.read()].flatMap((columns) => fromColumns(columns, names));
}

/**
 * Writes the history of a search as one Arrow file: all columns but measured seconds, which no second run repeats. The
 * same search gives the same bytes, however many workers it had and however often it was stopped.
 */
export function writeHistory(
  path: string,
  records: readonly CandidateRecord[],
  names: RecordNames,
  identity: string,
): void {
  const columns = repeatableColumns(names);
  writeTable(path, toColumns(records, names), { columns, metadata: { identity } });
}
