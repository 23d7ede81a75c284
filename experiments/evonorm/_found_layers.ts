/** What a search found: its best layers, in which order, what each of them is, and the file that says so. */
import { bestCandidates, type Member, type Reranked } from "../../lib/evolution/mod.ts";
import {
  describeEquivalence,
  formula,
  latex,
  type LayerGraph,
  published,
  simplification,
} from "../../lib/graph/mod.ts";
import type { Task } from "./_search_candidate.ts";
import { criterionOf, type SearchSetting, spaceOf } from "./_search_run.ts";

/** A layer that a search has found. */
export interface FoundLayer {
  /** Its number in the history. */
  readonly index: number;
  /** Its place by the scores of the search, from 1. */
  readonly place: number;
  readonly formula: string;
  /** Accuracy on the held-out images by anchor, in [0, 1]. */
  readonly scores: Readonly<Record<string, number>>;
  /** The same after it was trained anew, for longer and by other seeds; only of the first few. */
  readonly again?: Readonly<Record<string, number>>;
  /** Dead nodes included. */
  readonly graph: LayerGraph;
}

/** The best layers of a search, best first, each function once. */
export function bestLayers(
  records: Parameters<typeof bestCandidates>[0],
  setting: Pick<SearchSetting, "criterion" | "constraint">,
  task: Task,
  count: number,
): Member<LayerGraph>[] {
  return bestCandidates(records, spaceOf(setting.constraint), criterionOf(setting.criterion, task), count);
}

/** Layers in the order of `again`, the first few of `best` ranked once more, then the others of `best`. */
export function foundLayers(
  best: readonly Member<LayerGraph>[],
  again: readonly Reranked<LayerGraph>[],
  task: Task,
): FoundLayer[] {
  const scoresAgain = new Map(again.map(({ index, scores }) => [index, scores]));
  const described = best.map(({ index, scores, genotype }, k): FoundLayer => ({
    index,
    place: k + 1,
    formula: formula(genotype),
    scores: byAnchor(scores, task),
    ...(scoresAgain.has(index) ? { again: byAnchor(scoresAgain.get(index)!, task) } : {}),
    graph: genotype,
  }));
  const ranked = again.map(({ before }) => described[before]!);
  return [...ranked, ...described.filter((layer) => !ranked.includes(layer))];
}

/** Scores by the names of a task's anchors. */
export function byAnchor(
  scores: readonly number[],
  { anchors }: Pick<Task, "anchors">,
): Record<string, number> {
  return Object.fromEntries(anchors.split("+").map((name, k) => [name, scores[k]!]));
}

/** A found layer with all that can be said of it without training. */
export interface LayerEntry extends FoundLayer {
  /** By the rules of simplification. */
  readonly simplified: string;
  readonly latex: string;
  /** Published layers that it equals, and when. */
  readonly equals: readonly string[];
  /** Intermediate nodes of the genotype, those that reach the output, and what simplification leaves of them. */
  readonly nodes: { readonly genotype: number; readonly active: number; readonly simplified: number };
}

/** What a found layer is. */
export function layerEntry({ graph, ...found }: FoundLayer): LayerEntry {
  const { simplified, nodes, equivalences } = simplification(graph, Object.values(published));
  return {
    ...found,
    simplified: formula(simplified),
    latex: latex(simplified),
    equals: equivalences.map(describeEquivalence),
    nodes,
    graph,
  };
}

/** A search and its layers as JSON, with a line per entry of each. */
export function layersText(about: Readonly<Record<string, unknown>>, layers: readonly LayerEntry[]): string {
  const lines = (entries: object, indent: string) =>
    Object.entries(entries).map(([key, value]) => `${indent}${JSON.stringify(key)}: ${JSON.stringify(value)}`)
      .join(",\n");
  const list = layers.map((layer) => `    {\n${lines(layer, "      ")}\n    }`);
  return `{\n${lines(about, "  ")},\n  "layers": [${
    list.length === 0 ? "" : `\n${list.join(",\n")}\n  `
  }]\n}\n`;
}
