/** Rows of all benchmarks, and the Arrow files that keep them. */
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { cpus } from "node:os";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import {
  Bool,
  type DataType,
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
  vectorFromArray,
} from "apache-arrow";
import { writeAtomically } from "../lib/experiment/mod.ts";

/** What every benchmark is told; a benchmark is a file with `run(settings: BenchSettings): Promise<BenchRow[]>`. */
export interface BenchSettings {
  /** A Python with bench/peers/requirements.txt. */
  readonly python: string;
  /** A few minutes instead of all. */
  readonly quick: boolean;
  /** Everything in every layout: longer. */
  readonly full: boolean;
}

/** One measurement: a contender at a case. */
export interface BenchRow {
  /** `layers`, `convolutions`, `training`, ... */
  bench: string;
  /** What is computed: a layer's name, a convolution. */
  case: string;
  /** Where the case comes from, to average over: `published`, `random`. */
  group: string;
  shape: string;
  contender: string;
  /** Memory layout, where a contender has a choice. */
  layout: string;
  /** Whether this is the contender's fastest layout for the case and phase. */
  best: boolean;
  /** `forward`, `forward+backward`, `first call`, `step`, ... */
  phase: string;
  min_ms: number;
  median_ms: number;
  runs: number;
  gflops: number | null;
  /** Bytes that must move (see the benchmark's formula) over the median time. */
  gbps: number | null;
  /** Largest resident memory while measuring, less what was resident after the imports. */
  peak_mib: number | null;
  /** Largest resident memory while measuring. */
  peak_absolute_mib: number | null;
  /** median_ms over that of `reference` in its best layout; below 1 is faster. */
  ratio: number | null;
  reference: string;
  /** Versions, device. */
  detail: string;
}

/** A row with what it does not need left empty. */
export function row(
  given:
    & Pick<BenchRow, "bench" | "case" | "shape" | "contender" | "phase">
    & Partial<BenchRow>
    & { milliseconds: readonly number[] },
): BenchRow {
  const { milliseconds, ...rest } = given;
  const sorted = milliseconds.toSorted((a, b) => a - b);
  return {
    group: "",
    layout: "",
    best: true,
    min_ms: sorted[0] ?? NaN,
    median_ms: sorted[sorted.length >> 1] ?? NaN,
    runs: sorted.length,
    gflops: null,
    gbps: null,
    peak_mib: null,
    peak_absolute_mib: null,
    ratio: null,
    reference: "",
    detail: "",
    ...rest,
  };
}

/** Marks each contender's fastest layout, and sets the ratio of every row to the best row of `reference` at the same case. */
export function compare(rows: readonly BenchRow[], reference: string): BenchRow[] {
  const place = (r: BenchRow) => [r.bench, r.case, r.shape, r.phase].join("|");
  const best = new Map<string, number>();
  for (const r of rows) {
    const key = `${place(r)}|${r.contender}`;
    best.set(key, Math.min(best.get(key) ?? Infinity, r.median_ms));
  }
  return rows.map((r) => {
    const against = best.get(`${place(r)}|${reference}`);
    return {
      ...r,
      best: r.median_ms === best.get(`${place(r)}|${r.contender}`),
      reference,
      ratio: against === undefined ? null : r.median_ms / against,
    };
  });
}

const FIELDS: readonly Field[] = [
  ...(["bench", "case", "group", "shape", "contender", "layout"] as const).map((name) => text(name)),
  new Field("best", new Bool(), false),
  text("phase"),
  number("min_ms", false),
  number("median_ms", false),
  new Field("runs", new Int32(), false),
  ...(["gflops", "gbps", "peak_mib", "peak_absolute_mib", "ratio"] as const).map((name) =>
    number(name, true)
  ),
  text("reference"),
  text("detail"),
];

function text(name: keyof BenchRow): Field {
  return new Field(name, new Utf8(), false);
}

function number(name: keyof BenchRow, nullable: boolean): Field {
  return new Field(name, new Float64(), nullable);
}

/** Encodes rows as an Arrow IPC file; `metadata` says where they come from. */
export function encodeRows(rows: readonly BenchRow[], metadata: ReadonlyMap<string, string>): Uint8Array {
  const schema = new Schema([...FIELDS], new Map(metadata));
  const children = FIELDS.map(({ name, type }) =>
    vectorFromArray(rows.map((r) => r[name as keyof BenchRow]), type as DataType).data[0]!
  );
  const data = makeData({ type: new Struct([...FIELDS]), length: rows.length, nullCount: 0, children });
  return tableToIPC(new Table(schema, [new RecordBatch(schema, data)]), "file");
}

/** Decodes what {@link encodeRows} made. */
export function decodeRows(bytes: Uint8Array): { rows: BenchRow[]; metadata: Map<string, string> } {
  const table = tableFromIPC(bytes);
  const rows = table.toArray().map((one) => one.toJSON() as BenchRow);
  return { rows, metadata: table.schema.metadata };
}

/** Writes rows to `path`, whole or not at all. */
export function writeRows(
  path: string,
  rows: readonly BenchRow[],
  metadata: ReadonlyMap<string, string>,
): void {
  mkdirSync(dirname(path), { recursive: true });
  writeAtomically(path, encodeRows(rows, metadata));
}

/** Date, commit, device and versions of a run. */
export function provenance(settings: BenchSettings): Map<string, string> {
  const run = (command: string, ...args: string[]) => {
    const { status, stdout } = spawnSync(command, args, {
      cwd: fileURLToPath(new URL("../", import.meta.url)),
      encoding: "utf8",
    });
    return status === 0 ? stdout.trim() : "unknown";
  };
  const peers =
    "import torch, platform; print(f'python {platform.python_version()}, torch {torch.__version__}')";
  return new Map([
    ["format", "normlab-bench-1"],
    ["date", new Date().toISOString()],
    ["commit", run("git", "rev-parse", "HEAD")],
    [
      "dirty",
      String(run("git", "status", "--porcelain", "--", ".", ":(exclude)results", ":(exclude)site") !== ""),
    ],
    ["cpu", cpus()[0]?.model.trim() ?? "unknown"],
    ["cores", String(cpus().length)],
    ["versions", `deno ${Deno.version.deno}, v8 ${Deno.version.v8}`],
    ["peers", run(settings.python, "-c", peers)],
    ["settings", JSON.stringify({ quick: settings.quick, full: settings.full })],
  ]);
}
