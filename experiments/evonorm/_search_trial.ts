/** The trial of a search, and of a published layer beside it: evonorm/search and evonorm/rejection are made of these. */
import { basename } from "node:path";
import {
  average,
  type Member,
  MemoryJournal,
  rerank,
  type Reranked,
  search,
} from "../../lib/evolution/mod.ts";
import type { Scale, Trial, TrialContext } from "../../lib/experiment/mod.ts";
import { type LayerGraph, toJSON } from "../../lib/graph/mod.ts";
import { bestLayers, byAnchor, foundLayers } from "./_found_layers.ts";
import type { Task } from "./_search_candidate.ts";
import { evaluate, progressWords, searchOptions, type SearchSetting } from "./_search_run.ts";
import { type AfterSearch, type SearchKind, SETTINGS, taskOf } from "./_search_settings.ts";

/** Layers of a search that are kept in the notes of its trial. */
const KEPT = 10;

/** The seeds of trainings after a search start here, far from those of searches. */
const CONFIRMATION_SEED = 1000;
const RERANK_SEED = 2000;

/** What a classifier that learnt nothing scores on ten classes: the honest value of a training that broke. */
export const CHANCE = 0.1;

type SearchParams = SearchSetting & Task & AfterSearch & { readonly work: number };

/** The trials of some kinds of search. */
export function searchTrials(
  scale: Scale,
  kinds: readonly SearchKind[],
  work: number,
  options: Readonly<Record<string, string>>,
): Trial[] {
  const { moves, after } = SETTINGS[scale];
  return kinds.flatMap((kind) => {
    const { method, constraint, criterion, anchors, rejection = true, seeds } = kind;
    const task = taskOf(scale, kind, basename(options["data"] ?? ""));
    const parts = [method, constraint, criterion, anchors ?? "", rejection ? "" : "untested"];
    const name = parts.filter((part) => part !== "").join("-");
    return Array.from({ length: seeds }, (_, seed): Trial => {
      const params = { method, constraint, criterion, ...moves, work, ...task, ...after };
      return { name: `${name}-seed${seed}`, seed, params };
    });
  });
}

/** The trials of published layers, trained and measured as the best layers of searches are. */
export function publishedTrials(
  scale: Scale,
  layers: readonly string[],
  seeds: number,
  options: Readonly<Record<string, string>>,
): Trial[] {
  const { after } = SETTINGS[scale];
  const params = { ...taskOf(scale, {}, basename(options["data"] ?? "")), ...after };
  return layers.flatMap((method) =>
    Array.from({ length: seeds }, (_, seed): Trial => ({
      name: `${method}-seed${seed}`,
      seed,
      params: { method, ...params },
    }))
  );
}

/** Searches, ranks the best layers again, and measures the one that is then first on the test images. */
export async function runSearchTrial({ params, seed }: Trial, context: TrialContext): Promise<void> {
  const { method, constraint, criterion, window, initialMembers, tournamentShare, lookAhead, work, ...rest } =
    params as SearchParams;
  const { rerankLayers, rerankSteps, rerankSeeds, confirmAnchors, confirmSteps, confirmSeeds, ...task } =
    rest;
  const after: AfterSearch = {
    rerankLayers,
    rerankSteps,
    rerankSeeds,
    confirmAnchors,
    confirmSteps,
    confirmSeeds,
  };
  if (method !== "evolution" && method !== "random") {
    return await confirm(method, task, after, seed, context);
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
  context.note("seconds of all candidates", progress.seconds);
  const best = bestLayers(journal.records, setting, task, KEPT);
  const again = await rankAgain(best.slice(0, rerankLayers), task, after, seed, context.runPart);
  context.note("found layers", JSON.stringify(foundLayers(best, again, task)));
  const [first] = again;
  if (first === undefined) return;
  context.report({ step: rerankSteps, metric: "accuracy ranked again", value: average(first.scores) });
  await confirm(toJSON(first.genotype), task, after, seed, context);
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

/** Ranks layers by their mean accuracy on held-out images, trained for longer and by other seeds than the search's. */
export async function rankAgain(
  layers: readonly Member<LayerGraph>[],
  task: Task,
  { rerankSteps, rerankSeeds }: Pick<AfterSearch, "rerankSteps" | "rerankSeeds">,
  seed: number,
  run: TrialContext["runPart"],
): Promise<Reranked<LayerGraph>[]> {
  const longer: Task = { ...task, steps: rerankSteps, schedule: "cosine", quality: 0, stability: 0 };
  const seeds = Array.from({ length: rerankSeeds }, (_, k) => RERANK_SEED + seed * rerankSeeds + k);
  return await rerank(layers, async ({ genotype }) => {
    const scores = await Promise.all(seeds.map((own) => train(toJSON(genotype), longer, own, run)));
    return meanScores(scores);
  }, { workers: layers.length });
}

/** Trains a layer anew, from other weights and on all training images, and measures it on the test images. */
async function confirm(
  layer: string,
  task: Task,
  { confirmAnchors, confirmSteps, confirmSeeds }: AfterSearch,
  seed: number,
  context: TrialContext,
): Promise<void> {
  const longer: Task = {
    ...task,
    anchors: confirmAnchors,
    steps: confirmSteps,
    schedule: "cosine",
    validation: 0,
    quality: 0,
    stability: 0,
  };
  const seeds = Array.from({ length: confirmSeeds }, (_, k) => CONFIRMATION_SEED + seed * confirmSeeds + k);
  const scores = meanScores(
    await Promise.all(seeds.map((own) => train(layer, longer, own, context.runPart))),
  );
  for (const [name, value] of Object.entries(byAnchor(scores, longer))) {
    context.report({ step: confirmSteps, metric: `test accuracy ${name}`, value });
  }
  context.report({ step: confirmSteps, metric: "test accuracy", value: average(scores) });
}

/** Accuracies by anchor after one training; those of a network that learnt nothing where it broke. */
async function train(
  layer: string,
  task: Task,
  seed: number,
  run: TrialContext["runPart"],
): Promise<readonly number[]> {
  const evaluation = await evaluate(layer, task, seed, run);
  return "scores" in evaluation ? evaluation.scores : task.anchors.split("+").map(() => CHANCE);
}

function meanScores(scores: readonly (readonly number[])[]): number[] {
  return scores[0]!.map((_, k) => average(scores.map((one) => one[k]!)));
}
