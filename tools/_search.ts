import { join } from "node:path";
import process from "node:process";
import {
  ArrowJournal,
  bestLayers,
  candidates,
  fetchImages,
  foundLayers,
  layerEntry,
  layersText,
  namesOf,
  rankAgain,
  readRecords,
  searchOptions,
  SETTINGS,
  writeHistory,
} from "../experiments/evonorm/search.ts";
import { type CandidateRecord, type Reranked, search, searchIdentity } from "../lib/evolution/mod.ts";
import { type Trial, type TrialLimits, TrialsOnDemand, writeAtomically } from "../lib/experiment/mod.ts";
import type { LayerGraph } from "../lib/graph/mod.ts";
import { type CommandContext, print, UsageError } from "./_cli.ts";
import { rerankText } from "./_search_layers.ts";
import { type SearchPlan, searchPlan } from "./_search_options.ts";
import { SearchProgressLine } from "./_search_progress.ts";

/** Layers in `layers.json`, at least. */
const KEPT = 20;

/** Layers that are printed. */
const SHOWN = 5;

/** What a search has left. */
interface Searched {
  readonly records: readonly CandidateRecord[];
  readonly exhausted: boolean;
}

/** The command `search`. Returns the exit code. */
export async function runSearch(args: readonly string[], { signal }: CommandContext): Promise<number> {
  const plan = searchPlan(args);
  const { seed, setting, task, out } = plan;
  const { stderr } = process;
  using line = new SearchProgressLine({
    write: (text) => stderr.write(text),
    interactive: stderr.isTTY === true,
    get columns() {
      return stderr.columns ?? 80;
    },
  });
  await fetchImages(plan.data || task.data, (note) => line.say(note));
  const { records, exhausted } = await evolve(plan, line, signal);
  if (exhausted) print("The search has ended early: it finds nothing that is new.");

  const best = bestLayers(records, setting, task, Math.max(KEPT, plan.rerank));
  const file = join(out, "layers.json");
  const write = (again: readonly Reranked<LayerGraph>[]) => {
    const layers = foundLayers(best, again, task).map(layerEntry);
    writeAtomically(file, layersText({ seed, ...setting, task }, layers));
    return layers;
  };
  const layers = write([]);
  for (const { index, simplified, scores, equals } of layers.slice(0, SHOWN)) {
    const accuracies = Object.entries(scores).map(([name, score]) => `${name} ${(100 * score).toFixed(1)}%`);
    const known = equals.length === 0 ? "" : `  = ${equals.join(", ")}`;
    print(`#${index}  ${accuracies.join(", ")}  ${simplified}${known}`);
  }
  if (plan.rerank > 0 && best.length > 0) {
    const again = await trainAgain(best.slice(0, plan.rerank), plan, line, signal);
    const { rerankSteps, rerankSeeds } = SETTINGS[plan.scale].after;
    const seeds = rerankSeeds === 1 ? "another seed" : `${rerankSeeds} other seeds`;
    print("", `Trained again for ${rerankSteps} steps by ${seeds}, accuracy on held-out images:`);
    print(rerankText(write(again), namesOf(task).anchors), "");
  }
  print(`History: ${join(out, "history.arrow")}`, `Layers: ${file}`);
  return 0;
}

/** Runs the search to the end of its budget and writes its history. */
async function evolve(
  plan: SearchPlan,
  line: SearchProgressLine,
  signal: AbortSignal,
): Promise<Searched> {
  const { seed, setting, task, budget, out } = plan;
  const workers = Math.min(plan.workers, setting.lookAhead);
  if (workers < plan.workers) {
    line.say(
      `${plan.workers - workers} of ${plan.workers} workers stay idle: --look-ahead is ${setting.lookAhead}`,
    );
  }
  using trials = trialsOf(plan, workers, limitsOf(plan), line, signal);
  const { name: backend } = await trials.prepare();
  const options = searchOptions({ seed, setting, task, backend, run: (trial) => trials.run(trial) });
  const names = namesOf(task);
  const journal = join(out, "journal");
  const { progress, ended } = await search({
    ...options,
    // One more than there are workers: it waits, and no worker does.
    workers: Math.min(workers + 1, setting.lookAhead),
    budget,
    journal: new ArrowJournal(journal, names),
    signal,
    onProgress: (progress) => line.show(progress),
  }).catch((error: Error) => {
    throw otherSearch(error, out) ?? error;
  });
  const records = readRecords(journal, names);
  writeHistory(join(out, "history.arrow"), records, names, searchIdentity(options));
  line.end(progress);
  return { records, exhausted: ended === "exhausted" };
}

/** Ranks layers again; what is stored of it already is not run. */
async function trainAgain(
  layers: Parameters<typeof rankAgain>[0],
  plan: SearchPlan,
  line: SearchProgressLine,
  signal: AbortSignal,
): Promise<Reranked<LayerGraph>[]> {
  const { after } = SETTINGS[plan.scale];
  const { seconds, ...others } = limitsOf(plan);
  // Time in proportion to the steps: a layer that kept the limit in the search is not to fail for training longer.
  const longer = Math.max(1, after.rerankSteps / plan.task.steps);
  const limits = { ...others, ...(seconds === undefined ? {} : { seconds: seconds * longer }) };
  using trials = trialsOf(plan, plan.workers, limits, line, signal);
  const all = layers.length * after.rerankSeeds;
  let done = 0;
  const run = async (trial: Trial) => {
    const outcome = await trials.run(trial);
    line.step(`ranking again: ${++done} of ${all} trainings`);
    return outcome;
  };
  const again = await rankAgain(layers, plan.task, after, plan.seed, run);
  line.clear();
  return again;
}

function limitsOf({ scale, limits }: SearchPlan): TrialLimits {
  return { ...candidates.limits?.(scale), ...limits };
}

function trialsOf(
  { scale, backend, data, out }: SearchPlan,
  workers: number,
  limits: TrialLimits,
  line: SearchProgressLine,
  signal: AbortSignal,
): TrialsOnDemand {
  return new TrialsOnDemand({
    experiment: candidates,
    scale,
    backend,
    workers,
    options: { data },
    resultsDir: out,
    limits,
    fetch: false,
    onWarning: (message) => line.say(`warning: ${message}`),
    signal,
  });
}

/** What to do about a folder of another search, whose error compares two long descriptions. */
function otherSearch({ message }: Error, folder: string): UsageError | undefined {
  const differences = differentColumns(message) ?? differentIdentity(message);
  if (differences === undefined) return undefined;
  return new UsageError(`--out ${folder} holds another search, so name another folder: ${differences}`);
}

function differentColumns(message: string): string | undefined {
  const [, kept, asked] = /its columns are (.*) and not (.*)$/.exec(message) ?? [];
  if (kept === undefined || asked === undefined) return undefined;
  const [before, now] = [kept, asked].map((text) =>
    [...text.matchAll(/\bscore_(\w+):/g)].map(([, name]) => name).join("+")
  );
  return before === now ? undefined : `anchors were "${before}", now "${now}"`;
}

function differentIdentity(message: string): string | undefined {
  const [, kept, asked] = /'identity' is (\{.*\}) and not (\{.*\})$/.exec(message) ?? [];
  if (kept === undefined || asked === undefined) return undefined;
  const flat = (text: string) => {
    const { settings, task, ...others } = JSON.parse(text);
    return { ...others, ...settings, ...task } as Record<string, unknown>;
  };
  const [before, now] = [flat(kept), flat(asked)];
  return Object.keys({ ...before, ...now })
    .filter((name) => JSON.stringify(before[name]) !== JSON.stringify(now[name]))
    .map((name) => `${name} was ${JSON.stringify(before[name])}, now ${JSON.stringify(now[name])}`)
    .join("; ");
}
