import { Buffer } from "node:buffer";
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
  tableFromIPC,
  tableToIPC,
  Utf8,
} from "apache-arrow";
import { canonicalJson, sha256, trialIdentity } from "./_identity.ts";
import { type Provenance, type Row, type Scale, SCALES, type Trial } from "./_types.ts";

/** Version of the layout described here; a reader refuses another. */
const FORMAT = "normlab-trial-2";

const MAGIC = new TextEncoder().encode("ARROW1");

/**
 * Stands in the metadata before the sha256 of the whole file, which is taken with zeros in the digest's place. It is
 * found and checked without parsing: a damaged Arrow file can keep a parser busy for ever.
 */
const SEAL = "file-sha256=";
const NO_DIGEST = "0".repeat(64);

/** The entry of a schema's metadata that {@link sealed} fills in. */
export const SEAL_ENTRY: readonly [string, string] = ["seal", SEAL + NO_DIGEST];

/** Plain strings and not dictionaries: some readers of Arrow files still lack the latter. */
const FIELDS = [
  new Field("trial", new Utf8(), false),
  new Field("step", new Int32(), false),
  new Field("metric", new Utf8(), false),
  new Field("value", new Float64(), false),
];

/** A file that is not a whole trial of this store; `message` says in what way. */
export class BrokenFileError extends Error {
  override readonly name = "BrokenFileError";
}

/** Encodes a trial as an Arrow IPC file: columns `trial, step, metric, value`, provenance in the metadata. */
export function encodeTrial(provenance: Provenance, rows: readonly Row[]): Uint8Array {
  const schema = new Schema(FIELDS, metadataOf(provenance));
  const length = rows.length;
  const children = [
    utf8(rows.map(() => provenance.trial.name)),
    makeData({ type: new Int32(), length, data: Int32Array.from(rows, (row) => row.step) }),
    utf8(rows.map((row) => row.metric)),
    makeData({ type: new Float64(), length, data: Float64Array.from(rows, (row) => row.value) }),
  ];
  const data = makeData({ type: new Struct(FIELDS), length, nullCount: 0, children });
  return sealed(tableToIPC(new Table(schema, [new RecordBatch(schema, data)]), "file"));
}

/** Fills in the digest: the schema, and so the seal, stands at the start of the file and in its footer. */
export function sealed(bytes: Uint8Array): Uint8Array {
  const digest = sha256(bytes);
  for (const at of sealPositions(bytes)) bytes.set(new TextEncoder().encode(digest), at);
  return bytes;
}

/** Throws {@link BrokenFileError} unless the bytes are those that were sealed. */
function checkSeal(bytes: Uint8Array): void {
  const blank = bytes.slice();
  const positions = sealPositions(blank);
  if (positions.length === 0) throw new BrokenFileError("it is an Arrow file of another kind");
  const digests = positions.map((at) => new TextDecoder().decode(blank.subarray(at, at + NO_DIGEST.length)));
  for (const at of positions) blank.set(new TextEncoder().encode(NO_DIGEST), at);
  const digest = sha256(blank);
  if (digests.some((one) => one !== digest)) {
    throw new BrokenFileError("it is a damaged Arrow file (its checksum differs)");
  }
}

/** Where digests start. */
function sealPositions(bytes: Uint8Array): number[] {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const positions: number[] = [];
  for (let at = buffer.indexOf(SEAL); at !== -1; at = buffer.indexOf(SEAL, at + 1)) {
    const digest = at + SEAL.length;
    if (digest + NO_DIGEST.length <= bytes.length) positions.push(digest);
  }
  return positions;
}

/** A column of strings as Arrow lays it out: all bytes in one buffer, and where each string starts. */
export function utf8(texts: readonly string[]): Data<Utf8> {
  const encoded = texts.map((text) => new TextEncoder().encode(text));
  const valueOffsets = new Int32Array(texts.length + 1);
  encoded.forEach((bytes, i) => valueOffsets[i + 1] = valueOffsets[i]! + bytes.length);
  const data = new Uint8Array(valueOffsets[texts.length]!);
  encoded.forEach((bytes, i) => data.set(bytes, valueOffsets[i]));
  return makeData({ type: new Utf8(), length: texts.length, nullCount: 0, valueOffsets, data });
}

function metadataOf(provenance: Provenance): Map<string, string> {
  const { experiment, scale, trial, backend } = provenance;
  return new Map([
    ["format", FORMAT],
    ["experiment", experiment],
    ["scale", scale],
    ["trial", trial.name],
    ["params", canonicalJson(trial.params)],
    ["seed", String(trial.seed)],
    ["identity", identityOf(provenance)],
    ["backend", canonicalJson(backend)],
    ["options", canonicalJson(provenance.options)],
    ["commit", provenance.commit],
    ["dirty", String(provenance.dirty)],
    ["versions", canonicalJson(provenance.versions)],
    ["lock_sha256", provenance.lock],
    ["start", provenance.start],
    ["seconds", String(provenance.seconds)],
    ["peak_mib", String(provenance.peakMiB)],
    ["cpu", provenance.cpu],
    ["notes", canonicalJson(provenance.notes)],
    SEAL_ENTRY,
  ]);
}

/** The identity of the trial that `provenance` describes. */
export function identityOf(provenance: Provenance): string {
  const { experiment, scale, trial, backend } = provenance;
  return trialIdentity({ experiment, scale, params: trial.params, seed: trial.seed, backend: backend.name });
}

/** sha256 over the rows, bit for bit: equal digests mean equal steps, metrics and float64 values. */
export function rowsDigest(rows: readonly Row[]): string {
  const bits = new DataView(new ArrayBuffer(8));
  const text = rows.map((row) => {
    bits.setFloat64(0, row.value);
    return `${row.step}\t${bits.getBigUint64(0).toString(16)}\t${row.metric}`;
  });
  return sha256(text.join("\n"));
}

/** Decodes what {@link encodeTrial} made. Throws {@link BrokenFileError} for anything else. */
export function decodeTrial(bytes: Uint8Array): { provenance: Provenance; rows: Row[] } {
  const table = parseArrow(bytes);
  const metadata = table.schema.metadata;
  if (metadata.get("format") !== FORMAT) throw new BrokenFileError("it is an Arrow file of another kind");
  const provenance = parseProvenance(metadata);
  const rows = parseRows(table, provenance.trial.name);
  if (identityOf(provenance) !== metadata.get("identity")) {
    throw new BrokenFileError("its metadata does not belong to its identity");
  }
  return { provenance, rows };
}

/** A whole file with an intact seal, as a table. Throws {@link BrokenFileError} for anything else. */
export function parseArrow(bytes: Uint8Array): Table {
  const magicAt = (offset: number) => MAGIC.every((byte, i) => bytes[offset + i] === byte);
  if (bytes.length < 2 * MAGIC.length || !magicAt(0)) throw new BrokenFileError("it is not an Arrow file");
  if (!magicAt(bytes.length - MAGIC.length)) throw new BrokenFileError("it is a truncated Arrow file");
  checkSeal(bytes);
  try {
    return tableFromIPC(bytes);
  } catch (error) {
    throw new BrokenFileError(`it is a damaged Arrow file (${(error as Error).message})`);
  }
}

function parseRows(table: Table, trial: string): Row[] {
  const columns = table.schema.fields.map((field) => `${field.name}: ${field.type}`).join(", ");
  const expected = FIELDS.map((field) => `${field.name}: ${field.type}`).join(", ");
  if (columns !== expected) throw new BrokenFileError(`its columns are ${columns} and not ${expected}`);
  try {
    const [trials, steps, metrics, values] = FIELDS.map((field) =>
      table.getChild(field.name)?.toArray() ?? []
    );
    return Array.from({ length: table.numRows }, (_, i) => {
      if (trials[i] !== trial) throw new BrokenFileError("its rows belong to another trial");
      return { step: Number(steps[i]), metric: String(metrics[i]), value: Number(values[i]) };
    });
  } catch (error) {
    if (error instanceof BrokenFileError) throw error;
    throw new BrokenFileError(`it is a damaged Arrow file (${(error as Error).message})`);
  }
}

function parseProvenance(metadata: Map<string, string>): Provenance {
  const text = (key: string): string => {
    const value = metadata.get(key);
    if (value === undefined) throw new BrokenFileError(`its metadata lacks '${key}'`);
    return value;
  };
  const json = <T>(key: string): T => {
    try {
      return JSON.parse(text(key)) as T;
    } catch {
      throw new BrokenFileError(`its metadata '${key}' is not JSON`);
    }
  };
  const scale = text("scale");
  if (!(SCALES as readonly string[]).includes(scale)) throw new BrokenFileError(`its scale is '${scale}'`);
  const trial: Trial = { name: text("trial"), params: json("params"), seed: Number(text("seed")) };
  return {
    experiment: text("experiment"),
    scale: scale as Scale,
    trial,
    backend: json("backend"),
    options: json("options"),
    commit: text("commit"),
    dirty: text("dirty") === "true",
    versions: json("versions"),
    lock: text("lock_sha256"),
    start: text("start"),
    seconds: Number(text("seconds")),
    peakMiB: Number(text("peak_mib")),
    cpu: text("cpu"),
    notes: json("notes"),
  };
}
