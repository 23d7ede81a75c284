/** Random layers that are all trained to the end: the trial of evonorm/random-layers, read by evonorm/rejection too. */
import { basename } from "node:path";
import type { Scale, Trial, TrialContext, TrialOutcome } from "../../lib/experiment/mod.ts";
import { formula, toJSON } from "../../lib/graph/mod.ts";
import { stream } from "../../lib/tensor/mod.ts";
import { candidateTrial, type Task } from "./_search_candidate.ts";
import { spaceOf } from "./_search_run.ts";
import { randomLayerTask, SETTINGS } from "./_search_settings.ts";

type RandomLayerParams = Task & { readonly layer: string; readonly layers: number };

/** A random layer as the notes of its trial keep it. */
export interface DrawnLayer {
  /** Its number among all that were drawn, inactive ones and duplicates included. */
  readonly index: number;
  readonly formula: string;
  readonly graph: string;
}

/** One trial for each seed: so many random layers. */
export function randomLayerTrials(scale: Scale, options: Readonly<Record<string, string>>): Trial[] {
  const { seeds, layers } = SETTINGS[scale].randomLayers;
  return ofEachSeed(seeds, "random", { layer: "random", layers, ...taskFor(scale, options) });
}

/** Published layers in the same way, one each. */
export function publishedLayerTrials(
  scale: Scale,
  names: readonly string[],
  options: Readonly<Record<string, string>>,
): Trial[] {
  const { seeds } = SETTINGS[scale].randomLayers;
  return names.flatMap((layer) => ofEachSeed(seeds, layer, { layer, layers: 1, ...taskFor(scale, options) }));
}

const taskFor = (scale: Scale, options: Readonly<Record<string, string>>): Task =>
  randomLayerTask(scale, basename(options["data"] ?? ""));

const ofEachSeed = (seeds: number, name: string, params: RandomLayerParams): Trial[] =>
  Array.from({ length: seeds }, (_, seed) => ({ name: `${name}-seed${seed}`, params, seed }));

/**
 * Draws layers as a search draws fresh ones, and trains each whose output depends on its input, each function once. The
 * number of a layer is the step of its rows: those of its training, or `inactive`, or `duplicate` of which.
 */
export async function runRandomLayerTrial({ params, seed }: Trial, context: TrialContext): Promise<void> {
  const { layer, layers, ...task } = params as RandomLayerParams;
  if (layer !== "random") {
    return copyRows(await context.runPart(candidateTrial(layer, task, seed)), 0, context);
  }
  const space = spaceOf("none");
  const draws = stream(seed).child("random layers");
  const byHash = new Map<string, number>();
  const drawn: DrawnLayer[] = [];
  let done = 0;
  const open: Promise<TrialOutcome>[] = [];
  for (let index = 0; byHash.size < layers; index++) {
    const graph = space.fresh(draws.child(index));
    if (space.screen!(graph) !== null) {
      context.report({ step: index, metric: "inactive", value: 1 });
      continue;
    }
    const hash = space.hash!(graph);
    const earlier = byHash.get(hash);
    if (earlier !== undefined) {
      context.report({ step: index, metric: "duplicate", value: earlier });
      continue;
    }
    byHash.set(hash, index);
    const json = toJSON(graph);
    drawn.push({ index, formula: formula(graph), graph: json });
    const training = context.runPart(candidateTrial(json, task, seed));
    training.then(() => context.progress(++done / layers, `${done} layers`), () => {});
    open.push(training);
  }
  const outcomes = await Promise.all(open);
  outcomes.forEach((outcome, k) => copyRows(outcome, drawn[k]!.index, context));
  context.note("layers", JSON.stringify(drawn));
  context.note("seconds of all layers", outcomes.reduce((sum, { seconds }) => sum + seconds, 0));
}

/** All rows of a layer's training under one step; a training that met a limit has the limit alone. */
function copyRows({ rows, limit, notes }: TrialOutcome, step: number, context: TrialContext): void {
  for (const { metric, value } of rows) context.report({ step, metric, value });
  if (limit !== null) context.note(`limit of layer ${step}`, limit);
  for (const stage of ["quality", "stability", "training"]) {
    const seconds = notes[`${stage} seconds`];
    if (seconds !== undefined) context.note(`${stage} seconds of layer ${step}`, seconds);
  }
}
