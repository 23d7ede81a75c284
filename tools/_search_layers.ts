/** What a search leaves of its best layers: `layers.json`, and a table of those that were ranked again. */
import { table } from "arquero";
import { byAnchor, describeLayer, type FoundLayer } from "../experiments/evonorm/search.ts";
import { average, type Member, type Reranked } from "../lib/evolution/mod.ts";
import { tableText } from "../lib/figures/mod.ts";
import {
  describeEquivalence,
  formula,
  latex,
  type LayerGraph,
  published,
  simplification,
} from "../lib/graph/mod.ts";
import type { SearchPlan } from "./_search_options.ts";

type Task = SearchPlan["task"];

/** A layer in `layers.json`. */
export interface LayerEntry extends Omit<FoundLayer, "graph"> {
  /** Its place by the scores of the search, from 1. */
  readonly place: number;
  /** By the rules of simplification. */
  readonly simplified: string;
  readonly latex: string;
  /** Published layers that it equals, and when. */
  readonly equals: readonly string[];
  /** Intermediate nodes of the genotype, those that reach the output, and what simplification leaves of them. */
  readonly nodes: { readonly genotype: number; readonly active: number; readonly simplified: number };
  readonly graph: LayerGraph;
}

/** Layers in the order of `again`, then the others of `best`, which are in the order of the search. */
export function layerEntries(
  best: readonly Member<LayerGraph>[],
  again: readonly Reranked<LayerGraph>[],
  task: Task,
): LayerEntry[] {
  const places = new Map(best.map(({ index }, k) => [index, k + 1]));
  const ranked = new Set(again.map(({ index }) => index));
  const entry = (one: Member<LayerGraph>, scoresAgain?: readonly number[]): LayerEntry => {
    const { graph, index, formula: text, scores } = describeLayer(one, task);
    const { simplified, nodes, equivalences } = simplification(graph, Object.values(published));
    return {
      index,
      place: places.get(index)!,
      formula: text,
      simplified: formula(simplified),
      latex: latex(simplified),
      equals: equivalences.map(describeEquivalence),
      scores,
      ...(scoresAgain === undefined ? {} : { again: byAnchor(scoresAgain, task) }),
      nodes,
      graph,
    };
  };
  return [
    ...again.map((one) => entry({ ...one, scores: one.scoresBefore }, one.scores)),
    ...best.filter(({ index }) => !ranked.has(index)).map((one) => entry(one)),
  ];
}

/** JSON with a line per entry of the outer object and of each layer. */
export function layersText(about: Readonly<Record<string, unknown>>, layers: readonly LayerEntry[]): string {
  const lines = (entries: object, indent: string) =>
    Object.entries(entries).map(([key, value]) => `${indent}${JSON.stringify(key)}: ${JSON.stringify(value)}`)
      .join(",\n");
  const list = layers.map((layer) => `    {\n${lines(layer, "      ")}\n    }`);
  return `{\n${lines(about, "  ")},\n  "layers": [${
    list.length === 0 ? "" : `\n${list.join(",\n")}\n  `
  }]\n}\n`;
}

/** The layers that were ranked again, in their new order. */
export function rerankText(layers: readonly LayerEntry[], anchors: readonly string[]): string {
  const ranked = layers.flatMap((
    layer,
  ) => (layer.again === undefined ? [] : [{ ...layer, again: layer.again }]));
  const percent = (share: number) => `${(100 * share).toFixed(1)}%`;
  const mean = (scores: Readonly<Record<string, number>>) => percent(average(Object.values(scores)));
  const several = anchors.length > 1;
  return tableText(table({
    place: ranked.map((_, k) => k + 1),
    before: ranked.map(({ place }) => place),
    layer: ranked.map(({ index }) => `#${index}`),
    ...(several
      ? {
        search: ranked.map(({ scores }) => mean(scores)),
        again: ranked.map(({ again }) => mean(again)),
      }
      : {}),
    ...Object.fromEntries(anchors.flatMap((name) => [
      [`${name} search`, ranked.map(({ scores }) => percent(scores[name]!))],
      [`${name} again`, ranked.map(({ again }) => percent(again[name]!))],
    ])),
    formula: ranked.map(({ simplified }) => simplified),
    equals: ranked.map(({ equals }) => equals.join("; ")),
  }));
}
