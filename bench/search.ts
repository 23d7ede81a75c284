/**
 * Candidates a second of the search, complete pipeline, beside the same loop written in PyTorch eager; one process per core, each with
 * one thread.
 *
 *   deno run -A bench/search.ts [--python PYTHON] [--quick] [--full]
 *
 * A seeded search runs with store and journal on. What it evaluated is then given to the PyTorch processes, each candidate to the next
 * one that is free: the same graphs, and of each the stages that the search ran, up to the test that rejected it, so that both sides do
 * the same whatever their random weights find. The start of the processes is excluded: each side evaluates one published layer per
 * process first. Times are process milliseconds per candidate: of the whole, the elapsed time times the processes over the candidates;
 * of a stage, its seconds in all candidates over the candidates. What is outside of the stages is the difference: drawing and hashing,
 * journal, store, messages, building the networks, idle processes. The processor time of the processes is told too, all of their threads:
 * where something else runs on the machine, the ratio of it is the one to go by.
 */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { candidateTrial, STABILITY_BATCH, type Task } from "../experiments/evonorm/_search_candidate.ts";
import {
  ArrowJournal,
  candidates,
  namesOf,
  readRecords,
  searchOptions,
  SETTINGS,
  taskOf,
} from "../experiments/evonorm/search.ts";
import { channelMoments, type ImageSplit, loadImages, split } from "../lib/data/mod.ts";
import { search, type StageOutcome, wasEvaluated } from "../lib/evolution/mod.ts";
import { type Scale, type Trial, TrialsOnDemand } from "../lib/experiment/mod.ts";
import { fromJSON, publishedLayer, pytorchModule, toJSON } from "../lib/graph/mod.ts";
import { anchor, type AnchorName, parameterCount } from "../lib/models/mod.ts";
import { onednnFiles, stream, useBackend } from "../lib/tensor/mod.ts";
import { Contender, report } from "./_contender.ts";
import { childrenSeconds } from "./_processor_time.ts";
import { type BenchRow, type BenchSettings, compare, row } from "./_rows.ts";
import { type StagePlan, stagePlans } from "./_search_plan.ts";

const SEED = 0;
const PROCESSES = navigator.hardwareConcurrency;
/**
 * Candidates under way at once at most, those that are screened out or known already included: of five that are drawn, one is evaluated.
 * With the few of the scale's own moves, a process would wait for the other most of the time.
 */
const LOOK_AHEAD = 32;
const EAGER = "PyTorch eager";
/** The faster one at these sizes: NCHW takes a fifth longer. */
const LAYOUT = "channels_last";
/** What each process evaluates before the clock starts. */
const WARM_UP = toJSON(publishedLayer("EvoNorm-S0").graph);

/** One search that is timed. */
interface Case {
  readonly scale: Scale;
  readonly evaluations: number;
}

/** What one side took. */
interface Timed {
  /** Elapsed, in seconds. */
  readonly elapsed: number;
  /** Summed over candidates, in seconds. */
  readonly stages: Readonly<Record<string, number>>;
  /** Processor time of the processes that evaluate, all of their threads, in seconds; NaN where the system does not say. */
  readonly processor: number;
  /** Processor time of this process, which coordinates, in seconds. */
  readonly coordinator: number;
}

interface Evaluated {
  readonly graph: string;
  readonly stages: readonly StageOutcome[];
}

/** Runs the benchmark. */
export async function run({ python, quick, full }: BenchSettings): Promise<BenchRow[]> {
  const smoke = { scale: "smoke", evaluations: quick ? 20 : 80 } as const;
  const cases: Case[] = full ? [smoke, { scale: "laptop", evaluations: 12 }] : [smoke];
  const rows: BenchRow[] = [];
  for (const one of cases) {
    for (const engine of engines()) {
      const fresh = await measure(one, engine, python);
      console.log(fresh.map(describe).join("\n"));
      rows.push(...fresh);
    }
  }
  return rows;
}

/** The kit with the convolutions it carries, and with oneDNN's where that is set up. */
function engines(): readonly { readonly name: string; readonly onednn: string }[] {
  return [
    { name: "kit wasm", onednn: "off" },
    ...(existsSync(onednnFiles().ready) ? [{ name: "kit wasm with oneDNN", onednn: "" }] : []),
  ];
}

async function measure(
  one: Case,
  engine: ReturnType<typeof engines>[number],
  python: string,
): Promise<BenchRow[]> {
  const task = taskOf(one.scale);
  const folder = mkdtempSync(join(tmpdir(), "normlab-bench-search-"));
  try {
    const images = await writeImages(folder, task);
    const { timed, evaluated } = await runSearch(one, task, engine.onednn, folder);
    const sides = [{ contender: engine.name, layout: "NHWC", timed }];
    const peer = await runPeers({ python, task, images, evaluated });
    if (peer !== undefined) {
      await requireEqualParameters(task, evaluated, peer.parameters);
      sides.push({ contender: EAGER, layout: LAYOUT, timed: peer.timed });
    }
    const shape = `${task.batch},${task.crop},${task.crop},3`;
    const base = {
      bench: "search",
      case: `${one.scale} task, ${evaluated.length} candidates of ${engine.name}`,
      group: one.scale,
      shape,
      detail: `${PROCESSES} processes, look-ahead ${LOOK_AHEAD}`,
    };
    const rows = sides.flatMap(({ timed, ...side }) =>
      phases(timed, evaluated.length).map(([phase, milliseconds]) =>
        row({ ...base, ...side, phase, milliseconds: [milliseconds] })
      )
    );
    return compare(rows, EAGER);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Process milliseconds per candidate by phase. */
function phases({ elapsed, processor, coordinator, stages }: Timed, count: number): [string, number][] {
  const all = Object.values(stages).reduce((sum, seconds) => sum + seconds, 0);
  const seconds = {
    candidate: elapsed * PROCESSES,
    ...Object.fromEntries(Object.entries(stages).filter(([, seconds]) => seconds > 0)),
    "all stages": all,
    "outside the stages": elapsed * PROCESSES - all,
    ...(Number.isNaN(processor) ? {} : { "processor time": processor }),
    coordinator,
  };
  return Object.entries(seconds).map(([phase, one]) => [phase, 1000 * one / count]);
}

async function timing(work: () => Promise<void>): Promise<Omit<Timed, "stages">> {
  const before = childrenSeconds();
  const cpu = process.cpuUsage();
  const began = performance.now();
  await work();
  const elapsed = (performance.now() - began) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  return { elapsed, processor: childrenSeconds() - before, coordinator: (user + system) / 1e6 };
}

/** The search with everything that it does, as the command runs it. */
async function runSearch(
  { scale, evaluations }: Case,
  task: Task,
  onednn: string,
  resultsDir: string,
): Promise<{ timed: Timed; evaluated: Evaluated[] }> {
  const before = process.env["NORMLAB_ONEDNN"];
  process.env["NORMLAB_ONEDNN"] = onednn;
  using trials = new TrialsOnDemand({
    experiment: candidates,
    scale,
    backend: "wasm",
    workers: PROCESSES,
    resultsDir,
  });
  try {
    // At once, so that every process gets one.
    const warmUps = Array.from({ length: PROCESSES }, (_, k): Trial => {
      const trial = candidateTrial(WARM_UP, task, SEED);
      return { ...trial, name: `${trial.name}-${k}`, params: { ...trial.params, warmUp: k } };
    });
    await Promise.all(warmUps.map((trial) => trials.run(trial)));
    const setting = {
      ...SETTINGS[scale].moves,
      lookAhead: LOOK_AHEAD,
      method: "evolution",
      constraint: "none",
      criterion: "pareto",
    } as const;
    const names = namesOf(task);
    const journal = join(resultsDir, "journal");
    const options = searchOptions({
      seed: SEED,
      setting,
      task,
      backend: "wasm",
      run: (trial) => trials.run(trial),
    });
    const measured = await timing(async () => {
      await search({
        ...options,
        // One more than there are processes waits for the first that is free.
        workers: PROCESSES + 1,
        budget: { evaluations },
        journal: new ArrowJournal(journal, names),
      });
    });
    const evaluated = readRecords(journal, names).filter(wasEvaluated).map(({ genotype, stages }) => ({
      graph: genotype,
      stages: stages.filter(({ name }) => names.stages.includes(name)),
    }));
    return {
      timed: { ...measured, stages: sum(evaluated.map(({ stages }) => secondsOf(stages))) },
      evaluated,
    };
  } finally {
    if (before === undefined) delete process.env["NORMLAB_ONEDNN"];
    else process.env["NORMLAB_ONEDNN"] = before;
  }
}

interface PeerAnswer {
  readonly seconds: Readonly<Record<string, number>>;
  readonly parameters: readonly number[];
}

/** The same candidates in PyTorch; undefined where that failed, which is reported. */
async function runPeers(
  { python, task, images, evaluated }: {
    python: string;
    task: Task;
    images: object;
    evaluated: readonly Evaluated[];
  },
): Promise<{ timed: Timed; parameters: (readonly number[])[] } | undefined> {
  const anchors = task.anchors.split("+");
  const requestOf = (graph: string, stages: readonly StagePlan[]) => ({
    text: pytorchModule(fromJSON(graph), { groups: task.groups }),
    anchors,
    stages,
  });
  const requests = evaluated.map(({ graph, stages }) => requestOf(graph, stagePlans(stages, task)));
  const whole = anchors.map(() => ({ steps: task.quality, evaluated: true }));
  const warmUp = requestOf(WARM_UP, [
    { name: "quality", anchors: whole },
    { name: "stability", norms: task.stability + 1 },
    { name: "training", anchors: whole },
  ]);
  const args = [fileURLToPath(new URL("./peers/search_loop.py", import.meta.url)), LAYOUT];
  const env = { PYTHONWARNINGS: "ignore", OMP_NUM_THREADS: "1" };
  const peers = Array.from(
    { length: PROCESSES },
    () => new Contender({ name: EAGER, command: python, args, env }),
  );
  try {
    await Promise.all(peers.map(async (peer) => {
      await peer.ask(images);
      await peer.ask(warmUp);
    }));
    const answers: PeerAnswer[] = [];
    let next = 0;
    const measured = await timing(async () => {
      await Promise.all(peers.map(async (peer) => {
        while (next < requests.length) {
          const index = next++;
          answers[index] = await peer.ask<PeerAnswer>(requests[index]!);
        }
      }));
    });
    return {
      timed: { ...measured, stages: sum(answers.map(({ seconds }) => seconds)) },
      parameters: answers.map(({ parameters }) => parameters),
    };
  } catch (error) {
    report((error as Error).message);
    return undefined;
  } finally {
    await Promise.all(peers.map((peer) => peer.close()));
  }
}

const secondsOf = (stages: readonly StageOutcome[]): Record<string, number> =>
  Object.fromEntries(stages.map(({ name, seconds }) => [name, seconds]));

/** By name, the stages that no candidate reached included. */
function sum(all: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const of = (name: string) => all.reduce((total, one) => total + (one[name] ?? 0), 0);
  return Object.fromEntries(["quality", "stability", "training"].map((name) => [name, of(name)]));
}

/** The search's images in files, and the request that tells a peer of them and of the task. */
async function writeImages(folder: string, task: Task): Promise<object> {
  const { train: all, classes } = await loadImages(task.data);
  const { train, validation } = split(all, {
    validation: task.validation,
    stream: stream(SEED).child("validation"),
  });
  const written = (name: string, { images, labels, count, height }: ImageSplit) => {
    const file = join(folder, name);
    writeFileSync(file, images);
    writeFileSync(file, labels, { flag: "a" });
    return { file, count, side: height };
  };
  return {
    ...task,
    stabilityBatch: STABILITY_BATCH,
    classes: classes.length,
    ...channelMoments(train),
    train: written("train", train),
    held: written("held", validation),
  };
}

/** Both sides train the same networks. */
async function requireEqualParameters(
  task: Task,
  evaluated: readonly Evaluated[],
  theirs: readonly (readonly number[])[],
): Promise<void> {
  await useBackend("wasm");
  evaluated.forEach(({ graph }, index) => {
    const ours = task.anchors.split("+").map((name) => {
      const norm = { groups: task.groups };
      const model = anchor(name as AnchorName, task.form, fromJSON(graph), stream(0), { norm });
      const count = parameterCount(model);
      model.dispose();
      return count;
    });
    if (String(ours) === String(theirs[index])) return;
    throw new Error(
      `Cannot compare searches as both sides must train as many parameters in every anchor: current numbers are ${ours} ` +
        `here and ${theirs[index]} in ${EAGER} for candidate ${index}`,
    );
  });
}

function describe(r: BenchRow): string {
  return [
    r.case.padEnd(40),
    r.contender.padEnd(22),
    r.layout.padEnd(14),
    r.phase.padEnd(19),
    `${r.median_ms.toFixed(1)} ms`.padStart(9),
    r.ratio === null ? "" : `speed ${(1 / r.ratio).toFixed(2)}x ${r.reference}`,
  ].join(" ");
}

if (import.meta.main) {
  const { benchSettings } = await import("./_settings.ts");
  await run(benchSettings());
}
