/**
 * evonorm/search: evolution of layers against random search, at equal cost.
 *
 * Cost: smoke half a minute on 2 cores (wasm), laptop about an hour and a half on 2 cores (wasm), paper thousands of
 * trainings of three full-depth networks per search. Expect at laptop scale: hardly one random layer in ten passes the
 * quality test, and all searches find layers that do.
 */
import { basename } from "node:path";
import { average, MemoryJournal, search } from "../../lib/evolution/mod.ts";
import type { Experiment, Scale, Trial, TrialContext } from "../../lib/experiment/mod.ts";
import { toJSON } from "../../lib/graph/mod.ts";
import {
  candidates,
  candidateTrial,
  evaluationOf,
  fetchImages,
  prepare,
  type Task,
} from "./_search_candidate.ts";
import { searchClaims, searchFigures, searchTables } from "./_search_results.ts";
import { foundLayers, progressWords, searchOptions, type SearchSetting } from "./_search_run.ts";
import { type Confirmation, SETTINGS, taskOf } from "./_search_settings.ts";

/** Layers of a search that are kept in the notes of its trial. */
const KEPT = 10;

/** What a search is compared with. */
const BASELINES = ["BN-ReLU", "GN-ReLU"] as const;

/** The seeds of trainings after a search start here, far from those of searches. */
const CONFIRMATION_SEED = 1000;

type SearchParams = SearchSetting & Task & Confirmation & { readonly work: number };

function trials(scale: Scale, options: Readonly<Record<string, string>>): Trial[] {
  const { moves, work, searches, confirmation } = SETTINGS[scale];
  const data = basename(options["data"] ?? "");
  const found = searches.flatMap(({ seeds, ...one }) =>
    Array.from({ length: seeds }, (_, seed): Trial => {
      const { method, constraint, criterion } = one;
      const task = taskOf(scale, constraint, data);
      const name = `${method}-${constraint}-${criterion}-seed${seed}`;
      return { name, seed, params: { ...one, ...moves, work, ...task, ...confirmation } };
    })
  );
  const seeds = Math.max(...searches.map(({ seeds }) => seeds));
  const known = BASELINES.flatMap((layer) =>
    Array.from({ length: seeds }, (_, seed): Trial => {
      const params = { method: layer, ...taskOf(scale, "none", data), ...confirmation };
      return { name: `${layer}-seed${seed}`, seed, params };
    })
  );
  return [...found, ...known];
}

async function run({ params, seed }: Trial, context: TrialContext): Promise<void> {
  const { method } = params as { method: string };
  const { work, confirmAnchors, confirmSteps, confirmSeeds, ...rest } = params as SearchParams;
  const confirmation = { confirmAnchors, confirmSteps, confirmSeeds };
  const { window, initialMembers, tournamentShare, lookAhead, constraint, criterion, ...others } = rest;
  const { method: _, ...task } = others;
  if (method !== "evolution" && method !== "random") {
    return await confirm(method, task, confirmation, seed, context);
  }
  const moves = { window, initialMembers, tournamentShare, lookAhead };
  const setting: SearchSetting = { method, constraint, criterion, ...moves };
  const journal = new MemoryJournal();
  const { progress } = await search({
    ...searchOptions({ seed, setting, task, backend: context.backend.name, run: context.runPart }),
    budget: { work },
    journal,
    signal: context.signal,
    onProgress: (progress) => context.progress(0.9 * progress.work / work, progressWords(progress)),
  });
  record(journal, task, context);
  const layers = foundLayers(journal.records, setting, task, KEPT);
  context.note("found layers", JSON.stringify(layers));
  context.note("seconds of all candidates", progress.seconds);
  if (layers[0] !== undefined) {
    await confirm(toJSON(layers[0].graph), task, confirmation, seed, context);
  }
}

/** A row or two per candidate; its number is the step. */
function record({ records }: MemoryJournal, task: Task, context: TrialContext): void {
  const names = task.anchors.split("+");
  let cost = 0;
  let best = -Infinity;
  for (const { index, rejectedBy, duplicateOf, scores, stages } of records) {
    const report = (metric: string, value: number) => context.report({ step: index, metric, value });
    for (const { work = 0 } of stages) cost += work;
    report("cost", cost);
    if (duplicateOf !== null) report("duplicate", duplicateOf);
    else if (rejectedBy !== null) report(`rejected by ${rejectedBy}`, 1);
    else {
      names.forEach((name, k) => report(`accuracy ${name}`, scores![k]!));
      const value = average(scores!);
      if (value > best) report("best accuracy", best = value);
    }
  }
}

/** Trains a layer anew, from other weights and on all training images, and measures it on the test images. */
async function confirm(
  layer: string,
  task: Task,
  { confirmAnchors, confirmSteps, confirmSeeds }: Confirmation,
  seed: number,
  context: TrialContext,
): Promise<void> {
  const names = confirmAnchors.split("+");
  const long: Task = {
    ...task,
    anchors: confirmAnchors,
    steps: confirmSteps,
    schedule: "cosine",
    validation: 0,
    quality: 0,
    stability: 0,
  };
  const seeds = Array.from({ length: confirmSeeds }, (_, k) => CONFIRMATION_SEED + seed * confirmSeeds + k);
  const outcomes = await Promise.all(
    seeds.map((own) => context.runPart(candidateTrial(layer, long, own))),
  );
  const scores = outcomes.map((outcome) => {
    const evaluation = evaluationOf(outcome, long);
    // What a classifier that learnt nothing scores: the honest value of a training that broke.
    return "scores" in evaluation ? evaluation.scores : names.map(() => 0.1);
  });
  names.forEach((name, k) => {
    const value = average(scores.map((one) => one[k]!));
    context.report({ step: confirmSteps, metric: `test accuracy ${name}`, value });
  });
  context.report({ step: confirmSteps, metric: "test accuracy", value: average(scores.map(average)) });
}

/** Evolution and random search over layer graphs, and what became of the best layers. */
export const searches: Experiment = {
  id: "evonorm/search",
  title: "Evolution of layers against random search",
  source: "Evolving Normalization-Activation Layers (arXiv 2004.02967), section 4",
  module: import.meta.url,
  summary:
    `Layers are graphs of 10 nodes over the paper's primitives. Each candidate is trained in several anchor networks on CIFAR-10 images;
its scores are the accuracies on held-out images. A candidate is rejected if its output does not depend on its input, if its accuracy
after a few steps is too low in one of the anchors, or if gradient ascent drives the norm of the loss gradient in the first anchor
beyond 1e8; one that computes the same as an earlier one takes its result. Evolution: a tournament over the newest accepted layers, a random
member of its Pareto front mutated twice, half of the offspring replaced by fresh random layers. Random search draws fresh layers only and
rejects by the same tests. Searches have the same budget in multiplications of the networks' convolutions, rejected candidates included, so
that a cheap rejection is an advantage. All candidates of a seed share held-out images, initial weights and order of images, and
searches of the same seed meet the same random layers.

After a search its best layer by mean accuracy within the Pareto front is trained anew, from other weights, for longer and on all training
images, in all anchors, and measured on the test images, beside BN-ReLU and GN-ReLU in the same way: the accuracy that selected it is not counted
for it.

Deviations from the paper. Its search had 5,000 workers for two days, anchors of full depth and thousands of steps each. At laptop scale
anchors have a block per stage and are trained for 240 steps on 16x16 crops of 4,500 images; windows and tournaments are smaller to match.
In which anchors the tests are run, how populations start, and what becomes of duplicates is not published; the choices here are options of the
search.

What a small proxy can say: whether evolution uses its budget better than random search on this task. Which layers it finds is a matter
of the task: layers that train fast in small networks, not necessarily those that end best in large ones.`
      .replaceAll(/([^\n])\n([^\n])/g, "$1 $2"),
  cost: {
    smoke: "2 cores: half a minute (wasm)",
    laptop: "2 cores: one to two hours (wasm), estimated",
    paper: "15 searches of thousands of trainings of full-depth networks: a cluster (not measured)",
  },
  scales: ["smoke", "laptop", "paper"],
  options: {
    data: {
      description:
        "images: cifar10-mini (shipped), cifar10 (downloaded), or a folder; default: the scale's own",
      default: "",
    },
  },
  parts: candidates,
  trials,
  fetch: (scale, options, onProgress) =>
    fetchImages(options["data"] || SETTINGS[scale].task.data, onProgress),
  prepare,
  run,
  tables: searchTables,
  figures: searchFigures,
  claims: searchClaims,
};

// What the command `search` is made of.
export { ArrowJournal, readRecords, writeHistory } from "./_search_journal.ts";
export { CONSTRAINTS, criterionOf, namesOf } from "./_search_run.ts";
export {
  candidates,
  fetchImages,
  foundLayers,
  progressWords,
  searchOptions,
  type SearchSetting,
  SETTINGS,
  taskOf,
};
