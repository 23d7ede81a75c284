import { basename, join } from "node:path";
import process from "node:process";
import {
  ArrowJournal,
  bestLayers,
  candidates,
  CONSTRAINTS,
  criterionOf,
  describeLayer,
  fetchImages,
  namesOf,
  readRecords,
  searchOptions,
  type SearchSetting,
  SETTINGS,
  taskOf,
  writeHistory,
} from "../experiments/evonorm/search.ts";
import { type Budget, search, searchIdentity } from "../lib/evolution/mod.ts";
import { TrialsOnDemand, writeAtomically } from "../lib/experiment/mod.ts";
import {
  checkedBackend,
  checkedScale,
  type CommandContext,
  parse,
  print,
  UsageError,
  wholeNumber,
} from "./_cli.ts";
import { SearchProgressLine } from "./_search_progress.ts";

const METHODS = ["evolution", "random"] as const;

/** Layers in `layers.json`. */
const KEPT = 20;

/** The command `search`. Returns the exit code. */
export async function runSearch(args: readonly string[], { signal }: CommandContext): Promise<number> {
  const { values } = parse(args, {
    budget: { type: "string" },
    seed: { type: "string", default: "0" },
    workers: { type: "string" },
    constraint: { type: "string", default: "none" },
    method: { type: "string", default: "evolution" },
    criterion: { type: "string", default: "pareto" },
    scale: { type: "string", default: "laptop" },
    data: { type: "string", default: "" },
    backend: { type: "string", default: "auto" },
    "look-ahead": { type: "string" },
    seconds: { type: "string" },
    memory: { type: "string" },
    out: { type: "string", default: "search" },
  }, []);
  const evaluations = wholeNumber("budget", values.budget, 1);
  if (evaluations === undefined) {
    throw new UsageError("--budget must say how many candidates are evaluated");
  }
  const seed = wholeNumber("seed", values.seed, 0)!;
  const workers = wholeNumber("workers", values.workers, 1) ?? navigator.hardwareConcurrency;
  const scale = checkedScale(values.scale);
  const constraint = oneOf("constraint", values.constraint, CONSTRAINTS);
  const method = oneOf("method", values.method, METHODS);
  const asked = checkedBackend(values.backend);
  const task = taskOf(scale, { constraint }, basename(values.data));
  const { moves } = SETTINGS[scale];
  const lookAhead = wholeNumber("look-ahead", values["look-ahead"], 1) ?? moves.lookAhead;
  const setting: SearchSetting = { method, constraint, criterion: values.criterion, ...moves, lookAhead };
  try {
    criterionOf(setting.criterion, task);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const seconds = wholeNumber("seconds", values.seconds, 1);
  const mib = wholeNumber("memory", values.memory, 1);
  const limits = {
    ...candidates.limits?.(scale),
    ...(seconds === undefined ? {} : { seconds }),
    ...(mib === undefined ? {} : { mib }),
  };

  const { stderr } = process;
  using line = new SearchProgressLine({
    write: (text) => stderr.write(text),
    interactive: stderr.isTTY === true,
    get columns() {
      return stderr.columns ?? 80;
    },
  });
  if (workers > lookAhead) {
    line.say(`${workers - lookAhead} of ${workers} workers stay idle: --look-ahead is ${lookAhead}`);
  }
  await fetchImages(values.data || task.data, (note) => line.say(note));
  using trials = new TrialsOnDemand({
    experiment: candidates,
    scale,
    backend: asked,
    workers: Math.min(workers, lookAhead),
    options: { data: values.data },
    resultsDir: values.out,
    limits,
    fetch: false,
    onWarning: (message) => line.say(`warning: ${message}`),
    signal,
  });
  const { name: backend } = await trials.prepare();
  const run = trials.run.bind(trials);
  const options = searchOptions({ seed, setting, task, backend, run });
  const names = namesOf(task);
  const journal = join(values.out, "journal");
  const budget: Budget = { evaluations };
  const { progress, ended } = await search({
    ...options,
    workers: Math.min(workers, lookAhead),
    budget,
    journal: new ArrowJournal(journal, names),
    signal,
    onProgress: (progress) => line.show(progress),
  }).catch((error: Error) => {
    throw otherSearch(error, values.out) ?? error;
  });
  const records = readRecords(journal, names);
  const layers = bestLayers(records, setting, task, KEPT).map((one) => describeLayer(one, task));
  const history = join(values.out, "history.arrow");
  const best = join(values.out, "layers.json");
  writeHistory(history, records, names, searchIdentity(options));
  writeAtomically(best, `${JSON.stringify({ seed, ...setting, task, layers }, null, 1)}\n`);
  line.end(progress);
  if (ended === "exhausted") print("The search has ended early: it finds nothing that is new.");
  for (const { index, formula, scores } of layers.slice(0, 5)) {
    const accuracies = Object.entries(scores).map(([name, score]) => `${name} ${(100 * score).toFixed(1)}%`);
    print(`#${index}  ${accuracies.join(", ")}  ${formula}`);
  }
  print(`History: ${history}`, `Layers: ${best}`);
  return 0;
}

function oneOf<T extends string>(name: string, text: string, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === text);
  if (found !== undefined) return found;
  throw new UsageError(`--${name} must be one of ${choices.join(", ")}: current one is '${text}'`);
}

/** What to do about a folder of another search, whose error compares two long descriptions. */
function otherSearch({ message }: Error, folder: string): UsageError | undefined {
  const [, kept, asked] = /'identity' is (\{.*\}) and not (\{.*\})$/.exec(message) ?? [];
  if (kept === undefined || asked === undefined) return undefined;
  const flat = (text: string) => {
    const { settings, task, ...others } = JSON.parse(text);
    return { ...others, ...settings, ...task } as Record<string, unknown>;
  };
  const [before, now] = [flat(kept), flat(asked)];
  const differences = Object.keys({ ...before, ...now })
    .filter((name) => JSON.stringify(before[name]) !== JSON.stringify(now[name]))
    .map((name) => `${name} was ${JSON.stringify(before[name])}, now ${JSON.stringify(now[name])}`);
  return new UsageError(
    `--out ${folder} holds another search, so name another folder: ${differences.join("; ")}`,
  );
}
