/**
 * The header of a safetensors file: 8 bytes with its length (little-endian), then JSON. The file is taken as
 * hostile: whatever is returned has been checked against the file, and nothing is allocated in proportion to
 * what the header merely claims.
 */

/** Bytes of an element, by type. The order is that of the reference implementation, which lays larger types first. */
export const elementSize = {
  I64: 8,
  F64: 8,
  F32: 4,
  I32: 4,
  BF16: 2,
  F16: 2,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;

/** The element types of safetensors that the kit reads. */
export type SafetensorsDtype = keyof typeof elementSize;

/** A tensor as the header has it: [start, end) counts from the end of the header. */
export interface HeaderEntry {
  readonly dtype: SafetensorsDtype;
  readonly shape: number[];
  readonly start: number;
  readonly end: number;
}

export interface Header {
  readonly tensors: Map<string, HeaderEntry>;
  readonly metadata: Map<string, string>;
  /** Where the data begin, in bytes from the beginning of the file. */
  readonly dataStart: number;
}

const LENGTH_BYTES = 8;
const ENTRY_KEYS = "data_offsets,dtype,shape";

/** The limit of the reference implementation. */
export const MAX_HEADER_BYTES = 100_000_000;

/** The deepest that a header nests: the file's object, a tensor's object, its shape. */
const MAX_DEPTH = 3;

export function malformed(requirement: string, found: string): SyntaxError {
  return new SyntaxError(`Cannot read safetensors as ${requirement}: ${found}`);
}

/** Text of the file for a message: on one line and not long. */
export function quote(value: unknown): string {
  const text = JSON.stringify(typeof value === "string" ? value.slice(0, 80) : value) ?? "undefined";
  return text.length > 90 ? `${text.slice(0, 90)}...` : text;
}

/** Bytes from the beginning of a file up to the end of its header, by its first 8. */
export function headerBytes(first: Uint8Array, fileSize: number): number {
  if (first.length < LENGTH_BYTES) {
    throw malformed("the file must have at least 8 bytes", `current length is ${first.length}`);
  }
  const length = new DataView(first.buffer, first.byteOffset).getBigUint64(0, true);
  if (length > MAX_HEADER_BYTES) {
    throw malformed(`the header must be at most ${MAX_HEADER_BYTES} bytes`, `current length is ${length}`);
  }
  const rest = fileSize - LENGTH_BYTES;
  if (length > rest) {
    throw malformed(
      `the header must lie within the file, which has ${rest} bytes`,
      `current length is ${length}`,
    );
  }
  return LENGTH_BYTES + Number(length);
}

/** Reads and checks the header of a file of `fileSize` bytes; `bytes` are the file, or as many of it as {@linkcode headerBytes} says. */
export function parseHeader(bytes: Uint8Array, fileSize = bytes.length): Header {
  const dataStart = headerBytes(bytes, fileSize);
  const text = headerText(bytes.subarray(LENGTH_BYTES, dataStart));
  checkStructure(text);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw malformed("the header must be JSON", (error as Error).message);
  }
  if (!isObject(json)) throw malformed("the header must be an object", `current header is ${quote(json)}`);

  const tensors = new Map<string, HeaderEntry>();
  let metadata = new Map<string, string>();
  for (const [name, value] of Object.entries(json)) {
    if (name === "__metadata__") metadata = parseMetadata(value);
    else tensors.set(name, parseEntry(name, value));
  }
  checkLayout(tensors, fileSize - dataStart);
  return { tensors, metadata, dataStart };
}

function headerText(header: Uint8Array): string {
  if (header[0] !== "{".charCodeAt(0)) {
    throw malformed("the header must begin with '{'", `current first byte is ${header[0] ?? "missing"}`);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(header);
  } catch {
    throw malformed("the header must be UTF-8", "current bytes are not");
  }
}

/**
 * Refuses what JSON.parse would let pass or drown in: a key twice in one object (it takes the last, other
 * readers the first), and deep nesting. Whether the text is JSON at all is left to JSON.parse.
 */
function checkStructure(text: string): void {
  const keys: (Set<string> | null)[] = [];
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    if (character === "{" || character === "[") {
      keys.push(character === "{" ? new Set() : null);
      if (keys.length > MAX_DEPTH) {
        throw malformed(`the header must nest at most ${MAX_DEPTH} deep`, "current header nests deeper");
      }
    } else if (character === "}" || character === "]") {
      keys.pop();
    } else if (character === '"') {
      const end = endOfString(text, i);
      const seen = keys.at(-1);
      if (seen && isKey(text, end)) addKey(seen, text.slice(i, end));
      i = end - 1;
    }
  }
}

/** The index after the closing quote of the string that opens at `start`, or the end of the text. */
function endOfString(text: string, start: number): number {
  let i = start + 1;
  while (i < text.length && text[i] !== '"') i += text[i] === "\\" ? 2 : 1;
  return Math.min(i + 1, text.length);
}

function isKey(text: string, after: number): boolean {
  while (" \t\n\r".includes(text[after] ?? "x")) after++;
  return text[after] === ":";
}

function addKey(seen: Set<string>, literal: string): void {
  let key: string;
  try {
    key = JSON.parse(literal); // "\u0061" and "a" are the same key
  } catch {
    return; // not JSON, which JSON.parse of the whole will say
  }
  if (seen.has(key)) throw malformed("a name must occur once", `current header repeats ${quote(key)}`);
  seen.add(key);
}

function parseMetadata(value: unknown): Map<string, string> {
  const entries = isObject(value) ? Object.entries(value) : undefined;
  if (!entries?.every((entry): entry is [string, string] => typeof entry[1] === "string")) {
    throw malformed("__metadata__ must map text to text", `current value is ${quote(value)}`);
  }
  return new Map(entries);
}

function parseEntry(name: string, value: unknown): HeaderEntry {
  if (!isObject(value) || Object.keys(value).sort().join() !== ENTRY_KEYS) {
    throw malformed(
      `tensor ${quote(name)} must have exactly dtype, shape and data_offsets`,
      `current entry is ${quote(value)}`,
    );
  }
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isDtype(dtype)) {
    throw malformed(
      `the dtype of tensor ${quote(name)} must be one of ${Object.keys(elementSize).join(", ")}`,
      `current dtype is ${quote(dtype)}`,
    );
  }
  if (!isSizes(shape)) {
    throw malformed(
      `the shape of tensor ${quote(name)} must be integers from 0 to 2^53 - 1`,
      `current shape is ${quote(shape)}`,
    );
  }
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!) {
    throw malformed(
      `the data_offsets of tensor ${quote(name)} must be [start, end] with 0 <= start <= end`,
      `current data_offsets are ${quote(offsets)}`,
    );
  }
  const [start, end] = offsets as [number, number];
  if (byteLength(dtype, shape) !== end - start) {
    throw malformed(
      `tensor ${quote(name)} must have the bytes of ${dtype} ${quote(shape)}`,
      `current data_offsets ${quote(offsets)} hold ${end - start}`,
    );
  }
  return { dtype, shape, start, end };
}

/** Bytes of a tensor, or NaN where they are beyond what a number counts exactly. */
export function byteLength(dtype: SafetensorsDtype, shape: readonly number[]): number {
  if (shape.includes(0)) return 0;
  let bytes: number = elementSize[dtype];
  for (const size of shape) {
    bytes *= size;
    if (!Number.isSafeInteger(bytes)) return NaN;
  }
  return bytes;
}

/** The tensors must cover the data exactly: no overlap, no hole (where anything could hide), nothing outside. */
function checkLayout(tensors: Map<string, HeaderEntry>, available: number): void {
  let covered = 0;
  for (
    const [name, { start, end }] of [...tensors].sort(([, a], [, b]) => a.start - b.start || a.end - b.end)
  ) {
    if (start !== covered) {
      throw malformed(
        `the tensors must follow each other without ${start < covered ? "overlaps" : "holes"}`,
        `current tensor ${quote(name)} starts at ${start}, not ${covered}`,
      );
    }
    covered = end;
  }
  if (covered !== available) {
    throw malformed(
      `the tensors must cover the data, which have ${available} bytes`,
      `current tensors cover ${covered}`,
    );
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isDtype(value: unknown): value is SafetensorsDtype {
  return typeof value === "string" && Object.hasOwn(elementSize, value);
}

export function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}
