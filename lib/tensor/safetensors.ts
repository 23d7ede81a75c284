/**
 * Reading and writing safetensors (https://github.com/huggingface/safetensors, format 0.x): named tensors in
 * one file.
 *
 * A file from elsewhere is hostile until it is parsed: every length, offset, shape and name is checked before
 * it is used, and a file that breaks any rule of the format is refused whole.
 */
import { type FileHandle, open } from "node:fs/promises";
import {
  byteLength,
  elementSize,
  headerBytes,
  isDtype,
  isSizes,
  malformed,
  MAX_HEADER_BYTES,
  parseHeader,
  quote,
  type SafetensorsDtype,
} from "./_safetensors_header.ts";

export type { SafetensorsDtype } from "./_safetensors_header.ts";

/** The arrays that hold the elements: BF16 and F16 as their bits, BOOL as 0 and 1. */
const arrayOf = {
  I64: BigInt64Array,
  F64: Float64Array,
  F32: Float32Array,
  I32: Int32Array,
  BF16: Uint16Array,
  F16: Uint16Array,
  I16: Int16Array,
  I8: Int8Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
} as const;

/** The elements of a tensor in C order: `SafetensorsTensor<"F32">` holds a Float32Array. */
export type SafetensorsData<D extends SafetensorsDtype = SafetensorsDtype> = InstanceType<typeof arrayOf[D]>;

/**
 * A tensor of a safetensors file; `dtype` tells the type of `data` (BF16 and F16: the bits, see {@linkcode
 * toFloat32}).
 */
export type SafetensorsTensor<D extends SafetensorsDtype = SafetensorsDtype> = {
  [K in D]: { readonly dtype: K; readonly shape: number[]; readonly data: SafetensorsData<K> };
}[D];

/**
 * The tensors of a safetensors file by name, in the order of its header.
 *
 * `data` are views into `bytes` where the offset allows it, else copies: treat them as read-only, and do not
 * write to `bytes`.
 *
 * @example
 * ```ts
 * import { readSafetensors, toFloat32, writeSafetensors } from "@normlab/normlab/tensor";
 *
 * const gamma = { dtype: "F32" as const, shape: [2], data: new Float32Array([1, 0.5]) };
 * const file = writeSafetensors(new Map([["gamma", gamma]]), { format: "pt" });
 * console.log(toFloat32(readSafetensors(file).get("gamma")!)); // [1, 0.5]
 * ```
 *
 * @throws {SyntaxError} The bytes are not a valid safetensors file of the dtypes F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL.
 */
export function readSafetensors(bytes: Uint8Array): Map<string, SafetensorsTensor> {
  const { tensors, dataStart } = parseHeader(bytes);
  const result = new Map<string, SafetensorsTensor>();
  for (const [name, { dtype, shape, start, end }] of tensors) {
    const raw = bytes.subarray(dataStart + start, dataStart + end);
    result.set(name, tensorOf(name, dtype, shape, raw));
  }
  return result;
}

function tensorOf(
  name: string,
  dtype: SafetensorsDtype,
  shape: number[],
  raw: Uint8Array,
): SafetensorsTensor {
  if (dtype === "BOOL" && raw.some((byte) => byte > 1)) {
    throw malformed(`tensor ${quote(name)} of dtype BOOL must hold 0 and 1`, "current data hold other bytes");
  }
  return { dtype, shape, data: asArray(raw, dtype) } as SafetensorsTensor;
}

/**
 * The free text that a safetensors file carries under `__metadata__`.
 *
 * @throws {SyntaxError} As {@linkcode readSafetensors}.
 */
export function readSafetensorsMetadata(bytes: Uint8Array): Map<string, string> {
  return parseHeader(bytes).metadata;
}

/**
 * {@linkcode readSafetensors} of the file at `path`.
 *
 * @throws {SyntaxError} As {@linkcode readSafetensors}, naming the file.
 */
export async function readSafetensorsFile(path: string): Promise<Map<string, SafetensorsTensor>> {
  const bytes = await readWhole(path);
  return named(path, () => readSafetensors(bytes));
}

/** A safetensors file whose header is read, and whose tensors are read one by one. */
export interface SafetensorsFile {
  readonly path: string;
  /** What the header says of each tensor, in its order. */
  readonly tensors: ReadonlyMap<
    string,
    { readonly dtype: SafetensorsDtype; readonly shape: readonly number[] }
  >;
  /** The free text under `__metadata__`. */
  readonly metadata: ReadonlyMap<string, string>;
  /**
   * The bytes of one tensor, read from their range of the file.
   * @throws {RangeError} The file has no tensor of that name.
   * @throws {SyntaxError} The file has become shorter since it was opened, or holds other bytes than 0 and 1 as BOOL.
   */
  read(name: string): Promise<SafetensorsTensor>;
  close(): Promise<void>;
}

/**
 * Opens a safetensors file to read tensors one by one: no more of it than one tensor need be in memory.
 *
 * @throws {SyntaxError} As {@linkcode readSafetensors}, naming the file.
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const file = await open(path);
  const range = (from: number, length: number) => readRange(file, from, length);
  try {
    const { size } = await file.stat();
    const first = await range(0, 8);
    const length = named(path, () => headerBytes(first, size));
    const head = await range(0, length);
    const { tensors, metadata, dataStart } = named(path, () => parseHeader(head, size));
    return {
      path,
      tensors,
      metadata,
      async read(name) {
        const entry = tensors.get(name);
        if (!entry) {
          throw new RangeError(
            `Cannot read a tensor as the file must have it: current name is ${quote(name)}, file ${path}`,
          );
        }
        const { dtype, shape, start, end } = entry;
        const raw = await range(dataStart + start, end - start);
        return named(path, () => {
          if (raw.length === end - start) return tensorOf(name, dtype, shape, raw);
          throw malformed("the file must stay as it was opened", `tensor ${quote(name)} is cut off now`);
        });
      },
      close: () => file.close(),
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** What `read` gives; its syntax errors name the file. */
function named<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof SyntaxError) throw new SyntaxError(`${path}: ${error.message}`, { cause: error });
    throw error;
  }
}

/**
 * The bytes of a safetensors file. They depend on the tensors and `metadata` alone, not on their order in the
 * map: larger types first, then by name, which aligns every tensor to its element (the data begin at a
 * multiple of 8); the reference implementation lays out its files the same way.
 *
 * @throws {TypeError} An unknown dtype, an array of another type than the dtype's, a name that is `__metadata__`, or metadata other than text.
 * @throws {RangeError} `data` has not the number of elements that `shape` says, or the header exceeds 100 MB.
 */
export function writeSafetensors(
  tensors: ReadonlyMap<string, SafetensorsTensor>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  for (const [name, tensor] of tensors) requireWritable(name, tensor);
  const sorted = [...tensors].sort(([nameA, a], [nameB, b]) =>
    dtypeRank(a.dtype) - dtypeRank(b.dtype) || compareText(nameA, nameB)
  );
  const members: [name: string, json: string][] = [];
  const labels = Object.entries(metadata).sort(([a], [b]) => compareText(a, b));
  for (const [label, text] of labels) {
    if (typeof text !== "string") {
      throw new TypeError(
        `Cannot write metadata ${quote(label)} as it must be text: current value is ${quote(text)}`,
      );
    }
  }
  if (labels.length > 0) {
    members.push(["__metadata__", objectText(labels.map(([label, text]) => [label, JSON.stringify(text)]))]);
  }
  let size = 0;
  for (const [name, { dtype, shape, data }] of sorted) {
    members.push([name, JSON.stringify({ dtype, shape, data_offsets: [size, size += data.byteLength] })]);
  }
  return assemble(objectText(members), size, sorted.map(([, { data }]) => data));
}

/**
 * The elements of a tensor as float32, [elements]: F16 and BF16 exactly, F64 and integers rounded, BOOL as 0
 * and 1, F32 without a copy. With `into`, written to its beginning and a view of that.
 *
 * @throws {RangeError} `into` has fewer elements than the tensor.
 */
export function toFloat32(tensor: SafetensorsTensor, into?: Float32Array): Float32Array {
  const { length } = tensor.data;
  if (into && into.length < length) {
    throw new RangeError(
      `Cannot convert a tensor as 'into' must have its ${length} elements: current length is ${into.length}`,
    );
  }
  if (tensor.dtype === "F32" && !into) return tensor.data;
  const numbers = into?.subarray(0, length) ?? new Float32Array(length);
  switch (tensor.dtype) {
    case "BF16":
      fromBrainFloats(tensor.data, numbers);
      break;
    case "F16":
      fromHalves(tensor.data, numbers);
      break;
    case "I64":
      for (let i = 0; i < length; i++) numbers[i] = Number(tensor.data[i]);
      break;
    default:
      numbers.set(tensor.data);
  }
  return numbers;
}

// Plain loops: models have billions of elements, and typed arrays map a hundred times slower.
function fromBrainFloats(bits: Uint16Array, numbers: Float32Array): void {
  const words = new Uint32Array(numbers.buffer, numbers.byteOffset, numbers.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
}

function fromHalves(bits: Uint16Array, numbers: Float32Array): void {
  const table = halves ??= Float32Array.from({ length: 1 << 16 }, (_, index) => halfToNumber(index));
  for (let i = 0; i < bits.length; i++) numbers[i] = table[bits[i]!]!;
}

/** All half-precision numbers by their bits, once they are needed. */
let halves: Float32Array | undefined;

/** A half-precision number (IEEE 754 binary16) from its bits, exact. */
function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (exponent === 0 ? fraction : fraction + 1024) * powersOfTwo[exponent || 1]!;
}

/** What one unit of the fraction is worth, by biased exponent: 2^(exponent - 25). */
const powersOfTwo = Float64Array.from({ length: 31 }, (_, exponent) => (1 << exponent) / 2 ** 25);

function asArray(raw: Uint8Array, dtype: SafetensorsDtype): SafetensorsData {
  // Not raw.slice(), which copies nothing where the bytes are a Buffer of node:fs.
  const bytes = raw.byteOffset % elementSize[dtype] === 0 ? raw : new Uint8Array(raw);
  return new arrayOf[dtype](bytes.buffer as ArrayBuffer, bytes.byteOffset, raw.length / elementSize[dtype]);
}

/** Most operating systems read at most 2 GiB at once, and so does readFile. */
const CHUNK_BYTES = 1 << 30;

async function readWhole(path: string): Promise<Uint8Array> {
  const file = await open(path);
  try {
    return await readRange(file, 0, (await file.stat()).size);
  } finally {
    await file.close();
  }
}

/** Fewer bytes only where the file ends before. */
async function readRange(file: FileHandle, from: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let filled = 0;
  while (filled < length) {
    const most = Math.min(CHUNK_BYTES, length - filled);
    const { bytesRead } = await file.read(bytes, filled, most, from + filled);
    if (bytesRead === 0) break; // shortened meanwhile, which the checks of the layout will find
    filled += bytesRead;
  }
  return bytes.subarray(0, filled);
}

function requireWritable(name: string, { dtype, shape, data }: SafetensorsTensor): void {
  const cannot = `Cannot write tensor ${quote(name)} as`;
  if (name === "__metadata__") {
    throw new TypeError(`${cannot} the format must not use its name: current name is ${name}`);
  }
  if (!isDtype(dtype)) {
    throw new TypeError(
      `${cannot} 'dtype' must be one of ${Object.keys(elementSize).join(", ")}: current dtype is ${
        quote(dtype)
      }`,
    );
  }
  if (!(data instanceof arrayOf[dtype])) {
    const given = (data as object | undefined)?.constructor.name ?? "missing";
    throw new TypeError(
      `${cannot} the data of ${dtype} must be a ${arrayOf[dtype].name}: current data are ${given}`,
    );
  }
  if (!isSizes(shape) || byteLength(dtype, shape) !== data.byteLength) {
    throw new RangeError(
      `${cannot} the data must have the elements of shape ${quote(shape)}: current data have ${data.length}`,
    );
  }
}

function dtypeRank(dtype: SafetensorsDtype): number {
  return Object.keys(elementSize).indexOf(dtype);
}

/** By code units, so that the order does not depend on a locale. */
function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** JSON text of an object with the members in the given order; an object would put names such as "10" first. */
function objectText(members: [name: string, json: string][]): string {
  return `{${members.map(([name, json]) => `${JSON.stringify(name)}:${json}`).join()}}`;
}

function assemble(header: string, size: number, arrays: SafetensorsData[]): Uint8Array {
  const encoded = new TextEncoder().encode(header);
  const headerLength = Math.ceil(encoded.length / 8) * 8;
  if (headerLength > MAX_HEADER_BYTES) {
    throw new RangeError(
      `Cannot write safetensors as the header must be at most ${MAX_HEADER_BYTES} bytes: current length is ${headerLength}`,
    );
  }
  const bytes = new Uint8Array(8 + headerLength + size);
  new DataView(bytes.buffer).setUint32(0, headerLength, true);
  bytes.fill(" ".charCodeAt(0), 8, 8 + headerLength);
  bytes.set(encoded, 8);
  let offset = 8 + headerLength;
  for (const { buffer, byteOffset, byteLength } of arrays) {
    bytes.set(new Uint8Array(buffer, byteOffset, byteLength), offset);
    offset += byteLength;
  }
  return bytes;
}
