/**
 * `deno task golden [DIR...] [--backend B] [--only GROUP,...]`: does this machine compute right? Compares the kit's layers and
 * attention on each backend with reference values made in float64, and ends with a non-zero exit status on any miss.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { availableBackends, type BackendName, useBackend } from "../../lib/tensor/mod.ts";
import { checkAttention } from "./attention.ts";
import { checkTransformers, holdsTransformers } from "./dit.ts";
import { checkEmbeddings } from "./embeddings.ts";
import { checkEvolution } from "./evolution.ts";
import { checkGraphs } from "./graphs.ts";
import { checkLayers } from "./layers.ts";
import { checkMaskStats } from "./mask_stats.ts";
import { checkMetrics } from "./metrics.ts";
import { checkModels } from "./models.ts";
import { checkOverTime } from "./over_time.ts";
import { type Evaluation, type GroupReport, render } from "./report.ts";
import { checkRivals } from "./rivals.ts";
import { checkSchedulers } from "./schedulers.ts";
import { checkStability } from "./stability.ts";

/** The checks of a group of reference values: a folder in, comparisons out. */
const groups: Record<
  string,
  (folder: string, evaluation: Evaluation) => Promise<Pick<GroupReport, "comparisons" | "skipped">>
> = {
  layers: async (folder, evaluation) => ({ comparisons: await checkLayers(folder, evaluation), skipped: [] }),
  graphs: checkGraphs,
  stability: checkStability,
  models: async (folder, evaluation) =>
    await holdsTransformers(folder) ? checkTransformers(folder, evaluation) : checkModels(folder, evaluation),
  evolution: checkEvolution,
  attention: checkAttention,
  over_time: checkOverTime,
  rivals: checkRivals,
  mask_stats: checkMaskStats,
  schedulers: checkSchedulers,
  metrics: checkMetrics,
  embeddings: checkEmbeddings,
};

/** Groups that compute no tensors: they are checked once, whatever the backends. */
const withoutBackend: readonly string[] = ["evolution", "mask_stats", "schedulers", "metrics", "embeddings"];

/** The reference values that the repository carries: of layers, and of attention. */
export const [defaultFolder, attentionFolder] = ["evonorm", "diffusion"].map((name) =>
  fileURLToPath(new URL(`../../tests/golden/${name}`, import.meta.url))
) as [string, string];

/** What to check. */
export interface GoldenOptions {
  folders?: string[];
  /** Default: every backend that can be used here, software GPU included. */
  backends?: BackendName[];
  only?: string[];
  /** Default: compiled and interpreted layers, each against the reference values. */
  evaluations?: Evaluation[];
  print?: (text: string) => void;
}

/**
 * Checks each group of each folder on each backend.
 * @throws {RangeError} on an unknown group, or a folder that has none of the groups asked for
 */
export async function checkGolden(options: GoldenOptions = {}): Promise<GroupReport[]> {
  const print = options.print ?? (() => {});
  const plan: { folder: string; group: string }[] = [];
  for (const group of options.only ?? []) {
    if (!(group in groups)) {
      throw new RangeError(
        `Cannot check reference values as the group must be one of ${
          Object.keys(groups).join(", ")
        }: current group is "${group}"`,
      );
    }
  }
  const folders = options.folders?.length ? options.folders : [defaultFolder, attentionFolder];
  for (const folder of folders) {
    const present = await groupsOf(folder);
    if (present.length === 0) throw missing(Object.keys(groups), folder);
    const wanted = present.filter((group) => options.only?.includes(group) ?? true);
    plan.push(...wanted.map((group) => ({ folder: join(folder, group), group })));
  }
  const absent = (options.only ?? []).filter((name) => !plan.some(({ group }) => group === name));
  if (absent.length > 0) throw missing(absent, folders.join('" and "'));

  const reports: GroupReport[] = [];
  const [free, tensors] = [true, false].map((wanted) =>
    plan.filter(({ group }) => withoutBackend.includes(group) === wanted)
  ) as [typeof plan, typeof plan];
  for (const { folder, group } of free) {
    const evaluation: Evaluation = { evaluation: "interpreted" };
    const report = { group, backend: null, evaluation: null, ...await groups[group]!(folder, evaluation) };
    print(render(report));
    reports.push(report);
  }
  if (tensors.length === 0) return reports;
  for (const name of options.backends ?? await usableBackends(print)) {
    const { device } = await useBackend(name, { allowSoftware: true });
    print(`${name}: ${device}`);
    for (const { folder, group } of tensors) {
      for (const each of options.evaluations ?? [{ evaluation: "compiled" }, { evaluation: "interpreted" }]) {
        const { evaluation } = each;
        const report = { group, backend: name, evaluation, ...await groups[group]!(folder, each) };
        print(render(report));
        reports.push(report);
      }
    }
  }
  return reports;
}

function missing(names: readonly string[], folder: string): RangeError {
  return new RangeError(
    `Cannot check reference values as the folder must hold ${
      names.join(" or ")
    }: current folder is "${folder}"`,
  );
}

/** The groups that a folder holds, each as a folder or a JSON file of its name, in the order of {@linkcode groups}. */
async function groupsOf(folder: string): Promise<string[]> {
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    return Object.keys(groups).filter((group) =>
      entries.some((entry) => entry.isDirectory() ? entry.name === group : entry.name === `${group}.json`)
    );
  } catch (error) {
    throw new RangeError(
      `Cannot check reference values as the folder must be readable: current folder is "${folder}" (${
        (error as Error).message
      })`,
    );
  }
}

async function usableBackends(print: (text: string) => void): Promise<BackendName[]> {
  const names: BackendName[] = [];
  for (const [name, reason] of await availableBackends({ allowSoftware: true })) {
    if (reason === null) names.push(name);
    else print(`${name}: not checked, ${reason}`);
  }
  return names;
}

const help = `deno task golden [DIR...] [--backend wasm,webgpu,tensorflow] [--only ${
  Object.keys(groups).join(",")
}] [--compiled]

Compares this machine's backends with reference values: layers as fused kernels, then operation by operation; attention by own
kernels and by tiles, then as its specification. --compiled: kernels only, and layers with the interpreter too, within the same
tolerances. DIR: a folder with the groups as sub-folders; default: the copies in tests/golden. Exit status 1 on a miss, 2 on bad arguments.`;

/** Runs the command line; returns the exit status. */
export async function main(args: string[]): Promise<number> {
  try {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: {
        backend: { type: "string" },
        only: { type: "string" },
        compiled: { type: "boolean" },
        help: { type: "boolean", short: "h" },
      },
    });
    if (values.help) {
      console.log(help);
      return 0;
    }
    const reports = await checkGolden({
      folders: positionals,
      ...(values.backend ? { backends: values.backend.split(",") as BackendName[] } : {}),
      ...(values.only ? { only: values.only.split(",") } : {}),
      ...(values.compiled ? { evaluations: [{ evaluation: "compiled", toInterpreter: true }] } : {}),
      print: (text) => console.log(text),
    });
    const all = reports.flatMap(({ comparisons }) => comparisons);
    const missed = all.filter(({ passed }) => !passed).length;
    console.log(`${all.length - missed} passed, ${missed} failed`);
    return missed === 0 ? 0 : 1;
  } catch (error) {
    console.error((error as Error).message);
    return 2;
  }
}

if (import.meta.main) process.exit(await main(process.argv.slice(2)));
