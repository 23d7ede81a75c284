import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import {
  type Data,
  Field,
  Float64,
  Int32,
  makeData,
  RecordBatch,
  Schema,
  Struct,
  Table,
  tableToIPC,
  Utf8,
} from "apache-arrow";
import { BrokenFileError, parseArrow, SEAL_ENTRY, sealed, utf8 } from "./_arrow.ts";
import { type FileWriter, storageError, TEMPORARY, writeAndFlush, writeAtomically } from "./_files.ts";

/** A column of a table of our own layout. */
export interface TableColumn {
  readonly name: string;
  readonly kind: "int32" | "float64" | "utf8";
}

/** Columns by name, all of one length. */
export type TableColumns = Readonly<Record<string, ArrayLike<number> | readonly string[]>>;

/** What describes a table: its columns, and texts that its files carry in the schema's metadata. */
export interface TableLayout {
  readonly columns: readonly TableColumn[];
  readonly metadata: Readonly<Record<string, string>>;
}

/** So many small segments are merged into one. */
const MOST_SMALL = 64;
/** A segment of so many rows is not small. */
const LARGE = 4096;
/** A temporary file this old, in milliseconds, has lost its writer. */
const ORPHAN_AGE = 60_000;

const types = { int32: new Int32(), float64: new Float64(), utf8: new Utf8() };

/** Rows `from` to `to - 1` of the table, as one file. */
interface Segment {
  readonly from: number;
  readonly to: number;
  readonly file: string;
}

/**
 * A table that grows by batches of rows, as a folder of Arrow files `rows-<from>-<to>.arrow`. Every file is written
 * whole and then renamed, with a checksum in its metadata, so that a process killed at any moment leaves all of a
 * batch or nothing of it. Small files are merged now and then; the merged rows' old files are left out by readers
 * and removed. One process appends at a time; any number may read.
 */
export class AppendTable {
  readonly folder: string;
  readonly #layout: TableLayout;
  readonly #write: FileWriter;
  #segments: Segment[];
  #swept = false;

  /**
   * Opens the table, which need not be there yet.
   *
   * @throws {BrokenFileError} Rows are missing between its files.
   */
  constructor(folder: string, layout: TableLayout, write: FileWriter = writeAndFlush) {
    this.folder = folder;
    this.#layout = layout;
    this.#write = write;
    this.#segments = contiguous(folder, list(folder));
  }

  /** Number of rows. */
  get rows(): number {
    return this.#segments.at(-1)?.to ?? 0;
  }

  /**
   * The rows in order, batch by batch.
   *
   * @throws {BrokenFileError} A file is damaged, or of another layout or metadata than this table's.
   */
  *read(): Generator<TableColumns> {
    for (const segment of this.#segments) yield this.#readSegment(segment);
  }

  /**
   * Adds rows after the last one.
   *
   * @throws {StorageError} The folder cannot be written; the table is then as it was before.
   */
  append(columns: TableColumns): void {
    const from = this.rows;
    const to = from + lengthOf(columns, this.#layout);
    if (to === from) return;
    this.#prepare();
    this.#segments.push(this.#writeSegment(from, to, columns));
    this.#merge();
  }

  #prepare(): void {
    if (this.#swept) return;
    try {
      mkdirSync(this.folder, { recursive: true });
    } catch (error) {
      throw storageError("keep a table", this.folder, error);
    }
    const kept = new Set(this.#segments.map(({ file }) => file));
    for (const { file } of list(this.folder)) if (!kept.has(file)) rmSync(join(this.folder, file));
    for (const name of readdirSync(this.folder).filter((name) => name.endsWith(TEMPORARY))) {
      const path = join(this.folder, name);
      const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Infinity);
      if (age > ORPHAN_AGE) rmSync(path, { force: true });
    }
    this.#swept = true;
  }

  #writeSegment(from: number, to: number, columns: TableColumns): Segment {
    const file = fileName(from, to);
    writeAtomically(join(this.folder, file), encodeTable(columns, this.#layout), this.#write);
    return { from, to, file };
  }

  /** Makes one file of the small ones at the end, once there are many. */
  #merge(): void {
    const last = this.#segments.findLastIndex(({ from, to }) => to - from >= LARGE);
    const small = this.#segments.slice(last + 1);
    if (small.length < MOST_SMALL) return;
    const parts = small.map((segment) => this.#readSegment(segment));
    const joined = Object.fromEntries(this.#layout.columns.map(({ name }) => [
      name,
      parts.flatMap((part): (number | string)[] => Array.from(part[name] as ArrayLike<number | string>)),
    ])) as TableColumns;
    const merged = this.#writeSegment(small[0]!.from, this.rows, joined);
    this.#segments = [...this.#segments.slice(0, last + 1), merged];
    for (const { file } of small) rmSync(join(this.folder, file), { force: true });
  }

  #readSegment({ file, from, to }: Segment): TableColumns {
    const path = join(this.folder, file);
    try {
      const columns = decodeTable(readFileSync(path), this.#layout);
      if (lengthOf(columns, this.#layout) === to - from) return columns;
      throw new BrokenFileError(`it must hold ${to - from} rows`);
    } catch (error) {
      if (!(error instanceof BrokenFileError)) throw error;
      throw new BrokenFileError(
        `Cannot read the table as ${path} must be one of its files: ${error.message}`,
      );
    }
  }
}

/** Writes a table as one Arrow file, atomically. Equal columns and metadata give equal bytes. */
export function writeTable(path: string, columns: TableColumns, layout: TableLayout): void {
  writeAtomically(path, encodeTable(columns, layout));
}

/** Reads what {@link writeTable} wrote. @throws {BrokenFileError} It is damaged, or of another layout. */
export function readTable(path: string, layout: TableLayout): TableColumns {
  return decodeTable(readFileSync(path), layout);
}

function encodeTable(columns: TableColumns, layout: TableLayout): Uint8Array {
  const fields = layout.columns.map(({ name, kind }) => new Field(name, types[kind], false));
  const schema = new Schema(fields, new Map([...Object.entries(layout.metadata), SEAL_ENTRY]));
  const length = lengthOf(columns, layout);
  const children = layout.columns.map(({ name, kind }): Data => {
    const values = columns[name]!;
    if (kind === "utf8") return utf8(values as readonly string[]);
    const numbers = values as ArrayLike<number>;
    return kind === "int32"
      ? makeData({ type: types.int32, length, data: Int32Array.from(numbers) })
      : makeData({ type: types.float64, length, data: Float64Array.from(numbers) });
  });
  const data = makeData({ type: new Struct(fields), length, nullCount: 0, children });
  return sealed(tableToIPC(new Table(schema, [new RecordBatch(schema, data)]), "file"));
}

function decodeTable(bytes: Uint8Array, layout: TableLayout): TableColumns {
  const table = parseArrow(bytes);
  const describe = ({ schema }: Table) =>
    schema.fields.map(({ name, type }) => `${name}: ${type}`).join(", ");
  const expected = layout.columns.map(({ name, kind }) => `${name}: ${types[kind]}`).join(", ");
  if (describe(table) !== expected) {
    throw new BrokenFileError(`its columns are ${describe(table)} and not ${expected}`);
  }
  for (const [key, value] of Object.entries(layout.metadata)) {
    const kept = table.schema.metadata.get(key);
    if (kept !== value) throw new BrokenFileError(`its '${key}' is ${kept} and not ${value}`);
  }
  return Object.fromEntries(layout.columns.map(({ name }) => [name, table.getChild(name)!.toArray()]));
}

/** The common length of all columns. @throws {TypeError} A column is missing or of another length. */
function lengthOf(columns: TableColumns, layout: TableLayout): number {
  const length = columns[layout.columns[0]!.name]?.length ?? 0;
  for (const { name } of layout.columns) {
    if (columns[name]?.length === length) continue;
    throw new TypeError(
      `Cannot keep a table as column '${name}' must have ${length} values: current number is ${
        columns[name]?.length ?? "none"
      }`,
    );
  }
  return length;
}

const fileName = (from: number, to: number): string =>
  `rows-${String(from).padStart(8, "0")}-${String(to).padStart(8, "0")}.arrow`;

function list(folder: string): Segment[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder).flatMap((file) => {
    const [, from, to] = /^rows-(\d{8,})-(\d{8,})\.arrow$/.exec(file) ?? [];
    return from === undefined ? [] : [{ from: Number(from), to: Number(to), file }];
  });
}

/** The segments that make up the table: the longest one from each place, without those that were merged. */
function contiguous(folder: string, all: readonly Segment[]): Segment[] {
  const sorted = [...all].sort((a, b) => a.from - b.from || b.to - a.to);
  const segments: Segment[] = [];
  let next = 0;
  for (const segment of sorted) {
    if (segment.to <= next) continue;
    if (segment.from !== next) {
      throw new BrokenFileError(
        `Cannot read the table in ${folder} as its rows must follow each other: current file ${segment.file} follows row ${next}`,
      );
    }
    segments.push(segment);
    next = segment.to;
  }
  return segments;
}
