/** A search's best layers in the terminal. */
import { table } from "arquero";
import type { LayerEntry } from "../experiments/evonorm/search.ts";
import { average } from "../lib/evolution/mod.ts";
import { tableText } from "../lib/figures/mod.ts";

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
