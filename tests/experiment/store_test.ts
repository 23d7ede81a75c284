import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DuckDBInstance } from "@duckdb/node-api";
import { tableFromIPC } from "apache-arrow";
import { fromArrow } from "arquero";
import {
  loadAllResults,
  loadResults,
  type Provenance,
  readTrialFile,
  runExperiment,
  StorageError,
  trialIdentity,
} from "../../lib/experiment/mod.ts";
import { BrokenFileError, decodeTrial, encodeTrial } from "../../lib/experiment/_arrow.ts";
import { writeArtifacts } from "../../lib/report/mod.ts";
import { temporaryFolder } from "./_helpers.ts";
import { toy } from "./_toy.ts";

const provenance: Provenance = {
  experiment: "toy/logistic",
  scale: "smoke",
  trial: { name: "a", params: { width: 8, layer: "γ·x", bias: true }, seed: 3 },
  backend: { name: "toy", device: "d", driver: "", software: false, versions: { tfjs: "4.22.0" } },
  options: {},
  commit: "0123456789abcdef",
  dirty: true,
  versions: { deno: "2.9.6" },
  lock: "ff",
  start: "2026-01-01T00:00:00.000Z",
  seconds: 1.5,
  peakMiB: 100,
  cpu: "some",
  notes: { "images/s": 12.5, text: "ok" },
};
const rows = [
  { step: 0, metric: "loss", value: Math.PI },
  { step: 2 ** 31 - 1, metric: "Genauigkeit (‰)", value: -0 },
  { step: 5, metric: "loss", value: NaN },
  { step: 6, metric: "loss", value: -Infinity },
  { step: 7, metric: "loss", value: 5e-324 },
];

Deno.test("a trial file gives back rows and provenance, bit for bit", () => {
  assert.deepEqual(decodeTrial(encodeTrial(provenance, rows)), { provenance, rows });
  assert.deepEqual(decodeTrial(encodeTrial(provenance, [])).rows, []);
  assert.deepEqual(encodeTrial(provenance, rows), encodeTrial(provenance, rows));
});

Deno.test("the columns are plain types, none nullable, none narrowed", () => {
  const { fields } = tableFromIPC(encodeTrial(provenance, rows)).schema;
  const columns = fields.map((field) => `${field.name} ${field.type} ${field.nullable}`);
  assert.deepEqual(columns, [
    "trial Utf8 false",
    "step Int32 false",
    "metric Utf8 false",
    "value Float64 false",
  ]);
});

Deno.test("a file cut anywhere, or with any byte changed, is refused", () => {
  const whole = encodeTrial(provenance, rows);
  for (let length = 0; length < whole.length; length += 7) {
    assert.throws(() => decodeTrial(whole.slice(0, length)), BrokenFileError);
  }
  for (let at = 0; at < whole.length; at += 11) {
    const damaged = whole.slice();
    damaged[at]! ^= 0x5a;
    assert.throws(() => decodeTrial(damaged), BrokenFileError, `byte ${at}`);
  }
});

Deno.test("the identity depends on what decides the rows, and on nothing else", () => {
  const key = { experiment: "e", scale: "smoke", params: { a: 1, b: 2 }, seed: 1, backend: "wasm" } as const;
  const id = trialIdentity(key);
  assert.equal(id, trialIdentity({ ...key, params: { b: 2, a: 1 } }));
  // sha256 of the canonical JSON, pinned: a change would orphan every stored trial.
  assert.equal(id, "fa4278ce2015795bd125d8164ffa25b252638e29e4c7e5b011b92bc60c6fe437");
  const others = [
    { ...key, experiment: "f" },
    { ...key, scale: "laptop" },
    { ...key, params: { a: 1, b: "2" } },
    { ...key, seed: 2 },
    { ...key, backend: "webgpu" },
  ] as const;
  assert.equal(new Set([id, ...others.map(trialIdentity)]).size, 6);
});

Deno.test("results: last values, values by seed, missing trials", async () => {
  using folder = temporaryFolder();
  await runExperiment({
    experiment: toy,
    scale: "smoke",
    workers: 0,
    resultsDir: folder.path,
    limitTrials: 5,
  });
  const results = loadResults({ experiment: toy, scale: "smoke", backend: "toy", resultsDir: folder.path });
  assert.equal(results.trials.length, 5);
  assert.equal(results.missing.length, 4);
  assert.deepEqual(results.rows.columnNames(), [
    "trial",
    "seed",
    "backend",
    "growth",
    "step",
    "metric",
    "value",
  ]);
  const final = results.final("x");
  assert.equal(final.numRows(), 5);
  assert.deepEqual([...new Set(final.array("step"))], [19]);
  const bySeed = results.bySeed("x", { growth: 3.57 });
  assert.deepEqual([...bySeed.keys()], [1, 2, 3]);
  assert.equal(bySeed.get(2), results.trials[1]!.rows.filter((row) => row.metric === "x").at(-1)!.value);
  assert.throws(() => results.bySeed("x"), /must pick one trial per seed/);
  assert.equal(results.bySeed("nothing").size, 0);
});

Deno.test("all results of an experiment: by scale and options, with a word on files that belong to none", async () => {
  using folder = temporaryFolder();
  const settings = { experiment: toy, workers: 0, resultsDir: folder.path };
  await runExperiment({ ...settings, scale: "smoke" });
  await runExperiment({ ...settings, scale: "smoke", options: { fault: "none at all" } });
  await runExperiment({ ...settings, scale: "laptop", limitTrials: 2 });
  const dir = join(folder.path, "toy", "logistic", "smoke");
  writeFileSync(join(dir, "x-000000000000.arrow"), encodeTrial(provenance, rows));
  writeFileSync(join(dir, "y-000000000000.arrow"), "junk");
  const { results, warnings } = loadAllResults(toy, folder.path);
  const found = results.map(({ scale, options, trials }) => [scale, options["fault"], trials.length]);
  assert.deepEqual(found, [["smoke", "none", 9], ["smoke", "none at all", 9], ["laptop", "none", 2]]);
  assert.equal(warnings.length, 2);
  assert.match(warnings.join(), /y-000000000000.arrow was left out: it is not an Arrow file/);
  assert.match(warnings.join(), /x-000000000000.arrow was left out: it is no trial of/);
});

Deno.test("arquero reads a stored file", async () => {
  using folder = temporaryFolder();
  const { results } = await runExperiment({
    experiment: toy,
    scale: "smoke",
    workers: 0,
    resultsDir: folder.path,
  });
  const { file, rows } = results.trials[0]!;
  assert.deepEqual(fromArrow(readFileSync(file)).select("step", "metric", "value").objects(), rows);
});

Deno.test("DuckDB reads the rows of a run: as Parquet by itself, as Arrow through its columns", async () => {
  using folder = temporaryFolder();
  const { results } = await runExperiment({
    experiment: toy,
    scale: "smoke",
    workers: 0,
    resultsDir: folder.path,
  });
  const { files } = await writeArtifacts(toy, results, folder.path);
  const parquet = files.find((file) => file.endsWith("rows.parquet"))!;
  const instance = await DuckDBInstance.create(":memory:");
  const connection = await instance.connect();
  try {
    const reader = await connection.runAndReadAll(`select * from '${parquet}'`);
    const names = reader.columnNames();
    assert.deepEqual(names, results.rows.columnNames());
    const types = reader.columnTypes().map(String);
    assert.deepEqual(types, ["VARCHAR", "BIGINT", "VARCHAR", "DOUBLE", "INTEGER", "VARCHAR", "DOUBLE"]);
    const expected = results.trials.flatMap(({ rows, provenance: { trial } }) =>
      rows.map((
        { step, metric, value },
      ) => [trial.name, BigInt(trial.seed), "toy", trial.params["growth"], step, metric, value])
    );
    assert.deepEqual(reader.getRows(), expected);
  } finally {
    connection.closeSync();
    instance.closeSync();
  }
});

/** A Python that has pyarrow: the one on PATH, or the one that NORMLAB_PYTHON names. */
const python = [Deno.env.get("NORMLAB_PYTHON"), "python3"].find(
  (command) =>
    command !== undefined && command !== "" && spawnSync(command, ["-c", "import pyarrow"]).status === 0,
);
if (python === undefined) {
  console.log("skipping the test of pyarrow: no python3 with pyarrow (NORMLAB_PYTHON)");
}

Deno.test({
  name: "pyarrow reads a stored file, and its metadata",
  ignore: python === undefined,
  async fn() {
    using folder = temporaryFolder();
    await runExperiment({
      experiment: toy,
      scale: "smoke",
      workers: 0,
      resultsDir: folder.path,
      limitTrials: 1,
    });
    const dir = join(folder.path, "toy", "logistic", "smoke");
    const file = join(dir, readdirSync(dir)[0]!);
    const script = `
import json, sys, pyarrow.ipc
table = pyarrow.ipc.open_file(sys.argv[1]).read_all()
table.validate(full=True)
metadata = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
values = [v.hex() for v in table.column("value").to_pylist()]
print(json.dumps([[str(f.type) for f in table.schema], table.column("step").to_pylist(), values, metadata["params"]]))`;
    const { stdout, stderr, status } = spawnSync(python!, ["-c", script, file], { encoding: "utf8" });
    assert.equal(status, 0, stderr);
    const [types, steps, values, params] = JSON.parse(stdout);
    const stored = readTrialFile(file);
    assert.deepEqual(types, ["string", "int32", "string", "double"]);
    assert.deepEqual(steps, stored.rows.map((row) => row.step));
    assert.deepEqual(JSON.parse(params), stored.provenance.trial.params);
    assert.equal(values.filter((value: string) => value === "nan").length, 1);
    assert.equal(values.filter((value: string) => value === "-0x0.0p+0").length, 1);
    assert.equal(values.length, stored.rows.length);
  },
});

/** Mounts a file system of 256 KiB; undefined where that is not allowed. */
function smallDisk(path: string): { readOnly(): void } & Disposable | undefined {
  mkdirSync(path, { recursive: true });
  const mount = (...args: string[]) => spawnSync("mount", args).status === 0;
  if (!mount("-t", "tmpfs", "-o", "size=320k", "tmpfs", path)) return undefined;
  return {
    readOnly: () => void mount("-o", "remount,ro", path),
    [Symbol.dispose]: () => void spawnSync("umount", [path]),
  };
}

Deno.test("a disk that is really full, and one that is really read-only", async (context) => {
  using folder = temporaryFolder();
  const path = join(folder.path, "disk");
  using disk = smallDisk(path);
  await context.step({
    name: disk === undefined
      ? "skipped: this user may not mount a file system"
      : "on a file system of 320 KiB",
    ignore: disk === undefined,
    async fn() {
      const dir = join(path, "toy", "logistic", "smoke");
      const settings = { experiment: toy, scale: "smoke", workers: 0, resultsDir: path } as const;
      await runExperiment({ ...settings, limitTrials: 3 });
      const before = readdirSync(dir);
      writeFileSync(join(path, "ballast"), new Uint8Array(150_000));
      const full = (error: Error) => error instanceof StorageError && /its disk is full/.test(error.message);
      await assert.rejects(runExperiment(settings), full);
      assert.deepEqual(readdirSync(dir), before);
      disk!.readOnly();
      await assert.rejects(runExperiment(settings), /read-only file system/);
      const { results } = await runExperiment({ ...settings, limitTrials: 0 });
      assert.equal(results.trials.length, 3, "what is stored can still be read");
    },
  });
});
