/**
 * The same seeded search three ways, by the command `search` at smoke scale: one worker; two workers; two workers with
 * a random worker and the coordinator killed again and again. Compares the history files byte by byte, and checks what
 * they say: no function evaluated twice, every second of evaluation accounted for.
 *
 *   deno run -A bench/kill_search.ts [--candidates N] [--kills K] [--seed S] [--out FOLDER]
 *
 * N candidates are evaluated (default 200: some five minutes on two cores); the history holds those that were screened
 * out and the duplicates as well. Linux only: it finds the workers in /proc. Ends with exit code 1 if anything differs.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { from } from "arquero";
import { namesOf, readRecords, taskOf } from "../experiments/evonorm/search.ts";
import { type CandidateRecord, ownStages, wasEvaluated } from "../lib/evolution/mod.ts";
import { readTrialFile, sha256 } from "../lib/experiment/mod.ts";
import { tableText } from "../lib/figures/mod.ts";
import { type Stream, stream } from "../lib/tensor/mod.ts";
import { allGone, childrenOf, temporaryFolder } from "../tests/experiment/_helpers.ts";

const COMMAND = fileURLToPath(new URL("../tools/normlab.ts", import.meta.url));
/** More than there are workers, so that none waits for the other at each step. */
const LOOK_AHEAD = 4;
/** Orphaned workers must have ended after so many milliseconds. */
const ORPHANS = 10_000;

/** What is the same in the three runs. */
interface Search {
  readonly seed: number;
  readonly evaluations: number;
}

/** How one of them went. */
interface Run {
  readonly name: string;
  readonly workers: number;
  readonly workerKills: number;
  readonly coordinatorKills: number;
  readonly seconds: number;
  readonly out: string;
}

function start({ seed, evaluations }: Search, workers: number, out: string): Deno.ChildProcess {
  const setting = ["--scale", "smoke", "--backend", "wasm", "--look-ahead", `${LOOK_AHEAD}`];
  const length = ["--seed", `${seed}`, "--budget", `${evaluations}`];
  const args = [
    "run",
    "-A",
    COMMAND,
    "search",
    ...setting,
    ...length,
    "--workers",
    `${workers}`,
    "--out",
    out,
  ];
  return new Deno.Command(Deno.execPath(), { args, stdout: "null", stderr: "piped" }).spawn();
}

async function undisturbed(name: string, search: Search, workers: number, out: string): Promise<Run> {
  const began = performance.now();
  const { success, stderr } = await start(search, workers, out).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  const seconds = (performance.now() - began) / 1000;
  return { name, workers, workerKills: 0, coordinatorKills: 0, seconds, out };
}

/**
 * The search started anew after each kill of its coordinator, and to its end after the last. Each life loses a worker
 * first: one, because a candidate whose process dies twice is recorded as one that crashes.
 */
async function killed(
  search: Search,
  kills: number,
  longest: number,
  draws: Stream,
  out: string,
): Promise<Run> {
  const began = performance.now();
  const workers = 2;
  for (let life = 0; life < kills; life++) {
    const coordinator = start(search, workers, out);
    let ended = false;
    const output = coordinator.output().finally(() => ended = true);
    const alive = () => {
      if (ended) throw new Error(`the search ended in life ${life}, before it was killed ${kills} times`);
    };
    const pause = (seconds: number) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    const children = async () => {
      for (;;) {
        alive();
        const pids = childrenOf(coordinator.pid);
        if (pids.length > 0) return pids;
        await pause(0.005);
      }
    };
    await children();
    await pause(longest * draws.float());
    const before = await children();
    process.kill(before[draws.integers(1, before.length)[0]!]!, "SIGKILL");
    await pause(longest * draws.float());
    alive();
    const after = childrenOf(coordinator.pid);
    coordinator.kill("SIGKILL");
    await output;
    if (!await allGone([...before, ...after], ORPHANS)) throw new Error("a worker outlived its coordinator");
  }
  const { out: _, ...last } = await undisturbed("two workers, killed", search, workers, out);
  const seconds = (performance.now() - began) / 1000;
  return { ...last, workerKills: kills, coordinatorKills: kills, seconds, out };
}

/** What a run has left. */
function leftBy({ out }: Run) {
  const names = namesOf(taskOf("smoke"));
  const folder = join(out, "evonorm", "search", "candidates", "smoke");
  const files = readdirSync(folder).filter((name) => name.endsWith(".arrow"));
  const trials = files.map((name) => readTrialFile(join(folder, name)).provenance);
  return {
    records: readRecords(join(out, "journal"), names),
    trialSeconds: new Map(trials.map(({ trial, seconds }) => [String(trial.params["graph"]), seconds])),
    trials: trials.length,
    digest: sha256(readFileSync(join(out, "history.arrow"))),
  };
}

type Left = ReturnType<typeof leftBy>;

function outcome(run: Run, { records, trials, digest }: Left) {
  const duplicates = records.filter(({ duplicateOf }) => duplicateOf !== null).length;
  const inactive = records.filter(({ rejectedBy, hash }) => rejectedBy !== null && hash === null).length;
  const share = (of: number) => `${duplicates} (${(100 * duplicates / of).toFixed(1)}%)`;
  return {
    "run": run.name,
    "workers killed": run.workerKills,
    "coordinators killed": run.coordinatorKills,
    "seconds": Math.round(run.seconds),
    "candidates": records.length,
    "input unused": inactive,
    "duplicates, of the others": share(records.length - inactive),
    "evaluated": records.filter(wasEvaluated).length,
    "trainings stored": trials,
    "sha256 of the history": digest.slice(0, 16),
  };
}

/** Where the time went, in seconds. */
function account(run: Run, { records, trialSeconds }: Left) {
  const own: readonly string[] = ownStages;
  const sum = (values: Iterable<number>) => [...values].reduce((total, value) => total + value, 0);
  const stages = (record: CandidateRecord, ofSearch: boolean) =>
    sum(record.stages.filter(({ name }) => own.includes(name) === ofSearch).map(({ seconds }) => seconds));
  const evaluated = records.filter(wasEvaluated);
  const gaps = evaluated.map((record) => trialSeconds.get(record.genotype)! - stages(record, false));
  const total = sum(trialSeconds.values());
  const round = (seconds: number) => Number(seconds.toFixed(2));
  return {
    "run": run.name,
    "processes x elapsed": round(run.workers * run.seconds),
    "trials": round(total),
    "their stages in the history": round(sum(evaluated.map((record) => stages(record, false)))),
    "difference": `${round(sum(gaps))} (${(100 * sum(gaps) / total).toFixed(1)}%)`,
    "largest difference of one": round(Math.max(...gaps)),
    "screening and hashing": round(sum(records.map((record) => stages(record, true)))),
  };
}

/** What must not be in a history. */
function problems({ records, trials }: Left): string[] {
  const found: string[] = [];
  const evaluated = new Map<string, number>();
  for (const record of records) {
    const { index, hash, duplicateOf } = record;
    if (wasEvaluated(record)) {
      if (hash === null) found.push(`candidate ${index} was evaluated without a hash`);
      else if (evaluated.has(hash)) found.push(`candidate ${index} repeats ${evaluated.get(hash)}`);
      else evaluated.set(hash, index);
    }
    if (duplicateOf !== null && evaluated.get(hash!) !== duplicateOf) {
      found.push(`candidate ${index} is no duplicate of ${duplicateOf}`);
    }
  }
  if (trials !== evaluated.size) {
    found.push(`${trials} trainings are stored for ${evaluated.size} evaluations`);
  }
  return found;
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      candidates: { type: "string", default: "200" },
      kills: { type: "string", default: "10" },
      seed: { type: "string", default: "11" },
      out: { type: "string" },
    },
  });
  const search = { seed: Number(values.seed), evaluations: Number(values.candidates) };
  const kills = Number(values.kills);
  using made = temporaryFolder();
  const folder = (name: string) => join(values.out ?? made.path, name);
  const one = await undisturbed("one worker", search, 1, folder("one"));
  const two = await undisturbed("two workers", search, 2, folder("two"));
  // Two pauses a life: all lives together are as long as the undisturbed search at most, and half of it on average.
  const longest = two.seconds / (2 * kills);
  const draws = stream(search.seed).child("kills");
  const runs = [one, two, await killed(search, kills, longest, draws, folder("killed"))];
  const left = runs.map(leftBy);
  console.log(tableText(from(runs.map((run, k) => outcome(run, left[k]!)))), "\n");
  console.log("Seconds:");
  console.log(tableText(from(runs.map((run, k) => account(run, left[k]!)))), "\n");
  const wrong = left.flatMap(problems);
  const same = left.every(({ digest }) => digest === left[0]!.digest);
  console.log(`The three history files are ${same ? "the same, bit for bit" : "NOT the same"}.`);
  console.log(wrong.length === 0 ? "No function was evaluated twice." : wrong.join("\n"));
  Deno.exitCode = same && wrong.length === 0 ? 0 : 1;
}
