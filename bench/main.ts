/**
 * All benchmarks with their peers in one command, one thread each, the search with a process per core:
 *
 *   deno task bench [--only layers,first_result,convolutions,training,search,attention] [--python PYTHON] [--quick] [--full] [--out FOLDER]
 *
 * PYTHON needs bench/peers/requirements.txt and a C++ compiler for torch.compile. Writes one Arrow file per benchmark, summary.md and the
 * figures to results/bench, with --quick (three minutes, few cases) to a temporary folder. Summary and figures are made from all files
 * in the folder, so a benchmark can be run alone. Ends with exit code 1 if a contender failed or computed something else.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { duration } from "../lib/experiment/mod.ts";
import { toSVG } from "../lib/figures/mod.ts";
import { problems } from "./_contender.ts";
import { figuresOf } from "./_figures.ts";
import { type BenchRow, type BenchSettings, decodeRows, provenance, writeRows } from "./_rows.ts";
import { summarise } from "./_summary.ts";
import * as attention from "./attention.ts";
import * as convolutions from "./convolutions.ts";
import * as firstResult from "./first_result.ts";
import * as layers from "./layers.ts";
import * as search from "./search.ts";
import * as training from "./training_step.ts";

const BENCHES: ReadonlyMap<string, (settings: BenchSettings) => Promise<BenchRow[]>> = new Map([
  ["layers", layers.run],
  ["first_result", firstResult.run],
  ["convolutions", convolutions.run],
  ["training", training.run],
  ["search", search.run],
  ["attention", attention.run],
]);

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    python: { type: "string", default: "python3" },
    quick: { type: "boolean", default: false },
    full: { type: "boolean", default: false },
    out: { type: "string" },
  },
});
const chosen = values.only?.split(",") ?? [...BENCHES.keys()];
const unknown = chosen.find((name) => !BENCHES.has(name));
if (unknown !== undefined) {
  throw new RangeError(
    `Cannot run benchmarks as '--only' must name some of ${
      [...BENCHES.keys()].join(", ")
    }: current name is ${unknown}`,
  );
}
requirePeers(values.python);

const folder = values.out ??
  (values.quick
    ? join(tmpdir(), "normlab-bench-quick")
    : fileURLToPath(new URL("../results/bench", import.meta.url)));
mkdirSync(folder, { recursive: true });
const start = performance.now();
for (const name of chosen) {
  console.log(`\n== ${name} (${duration((performance.now() - start) / 1000)} so far)`);
  const about = provenance(values);
  const rows = await BENCHES.get(name)!(values);
  writeRows(join(folder, `${name}.arrow`), rows, about);
}

const stored = readdirSync(folder).filter((file) => file.endsWith(".arrow")).map((file) => ({
  file,
  ...decodeRows(readFileSync(join(folder, file))),
}));
const rows = stored.flatMap((one) => one.rows);
const sources = stored.map(({ file, metadata }) =>
  `- \`${file}\`: ${metadata.get("date")?.slice(0, 16)}, commit ${metadata.get("commit")?.slice(0, 10)}` +
  `${metadata.get("dirty") === "true" ? " with changes" : ""}, ${metadata.get("cpu")}, ${
    metadata.get("versions")
  }, ${metadata.get("peers")}`
);
const summary = [
  "# Benchmarks",
  "",
  "Made by `deno task bench`, one thread.",
  "",
  ...sources,
  "",
  summarise(rows),
].join("\n");
writeFileSync(join(folder, "summary.md"), summary);
for (const figure of figuresOf(rows)) writeFileSync(join(folder, `${figure.name}.svg`), await toSVG(figure));

console.log(`\n${summary}`);
console.log(
  `${rows.length} rows, figures and summary.md in ${folder}; ${duration((performance.now() - start) / 1000)}`,
);
if (problems.length > 0) {
  console.error(`\n${problems.length} problems:\n${problems.join("\n")}`);
  process.exitCode = 1;
}

/** Throws unless PYTHON has the pinned packages: without its reference, a benchmark says nothing. */
function requirePeers(python: string): void {
  const { status, stderr, error } = spawnSync(python, ["-c", "import torch, numpy"], { encoding: "utf8" });
  if (status === 0) return;
  throw new Error(
    `Cannot run benchmarks as '--python' must be a Python with PyTorch (${python} -m pip install -r ` +
      `bench/peers/requirements.txt): current one is ${python}: ${
        error?.message ?? stderr.trim().split("\n").at(-1)
      }`,
  );
}
