/** Stored searches as rows of tables and figures: what evonorm/search and evonorm/rejection have in common. */
import { type ColumnTable, from } from "arquero";
import { bootstrapInterval, type ResultsView, type StoredTrial } from "../../lib/experiment/mod.ts";
import { type FigureSpec, lineWithBand } from "../../lib/figures/mod.ts";
import { type FoundLayer, layerEntry, layersText } from "./_found_layers.ts";
import { CHANCE } from "./_search_trial.ts";

/** Points of a curve over cost: seeds are compared at the same costs. */
const POINTS = 60;

/** Rows of a table before it is one. */
export type Records = Record<string, string | number | null>[];

const param = ({ provenance: { trial } }: StoredTrial, name: string): string => String(trial.params[name]);

/** Whether a stored trial is a search, not a published layer or random layers. */
export const isSearch = (stored: StoredTrial): boolean =>
  ["evolution", "random"].includes(param(stored, "method"));

/** A search as figures call it: `evolution`, `random`, `evolution, S` for the series without batch statistics. */
export function labelOf(stored: StoredTrial): string {
  if (!isSearch(stored)) return param(stored, "method");
  const [constraint, criterion, anchors] = ["constraint", "criterion", "anchors"].map((name) =>
    param(stored, name)
  );
  const parts = [
    param(stored, "method"),
    constraint === "none" ? "" : "S",
    criterion === "pareto" ? "" : criterion!,
    anchors!.includes("+") ? "" : `${anchors} alone`,
    param(stored, "quality") === "0" ? "no tests" : "",
  ];
  return parts.filter((part) => part !== "").join(", ");
}

/** Labels in the order of the trials. */
export const labelsOf = (trials: readonly StoredTrial[]): string[] => [...new Set(trials.map(labelOf))];

/** A share in percent, two decimals. */
export const percent = (share: number): number => Math.round(10_000 * share) / 100;

/** The last value of a metric, NaN where there is none. */
export function lastValue({ rows }: StoredTrial, metric: string): number {
  return rows.findLast((row) => row.metric === metric)?.value ?? NaN;
}

/** What became of the candidates of a search, by reason; all together are its candidates. */
export function outcomes({ rows }: StoredTrial): Map<string, number> {
  const counts = new Map<string, number>();
  const add = (name: string) => counts.set(name, (counts.get(name) ?? 0) + 1);
  const anchor = rows.find(({ metric }) => /^accuracy (?!ranked)/.test(metric))?.metric;
  for (const { metric } of rows) {
    if (metric === anchor) add("accepted");
    if (metric === "duplicate") add("duplicate");
    if (metric.startsWith("rejected by ")) add(metric.slice("rejected by ".length));
  }
  return counts;
}

const totalOf = (counts: ReadonlyMap<string, number>): number =>
  [...counts.values()].reduce((sum, value) => sum + value, 0);

/** One row per search. */
export function summaryTable(searches: readonly StoredTrial[]): ColumnTable {
  return from(searches.map((stored) => {
    const counts = outcomes(stored);
    const count = (name: string) => counts.get(name) ?? 0;
    const named = ["inactive x", "duplicate", "quality", "stability", "accepted"];
    return {
      "search": labelOf(stored),
      "seed": stored.provenance.trial.seed,
      "layers": totalOf(counts),
      "inactive": count("inactive x"),
      "duplicates": count("duplicate"),
      "rejected by quality": count("quality"),
      "by stability": count("stability"),
      "by training and limits": totalOf(counts) - named.reduce((sum, name) => sum + count(name), 0),
      "accepted": count("accepted"),
      "best held-out accuracy (%)": percent(lastValue(stored, "best accuracy")),
      "held-out accuracy of the best, trained again (%)": percent(lastValue(stored, "accuracy ranked again")),
      "its test accuracy (%)": percent(lastValue(stored, "test accuracy")),
      "cost (billions of multiplications)": Math.round(lastValue(stored, "cost")),
      "seconds of evaluation": Math.round(Number(stored.provenance.notes["seconds of all candidates"] ?? 0)),
    };
  }));
}

/** The layers that the searches found, best first. */
export function layerTable(searches: readonly StoredTrial[]): ColumnTable {
  return from(
    searches.flatMap((stored) =>
      foundOf(stored).map(layerEntry).map(({ index, simplified, equals, scores, again = {} }, place) => ({
        "search": labelOf(stored),
        "seed": stored.provenance.trial.seed,
        "place": place + 1,
        "candidate": index,
        "layer": simplified,
        "equals": equals.join("; "),
        ...columns("held-out accuracy (%)", scores),
        ...columns("trained again (%)", again),
      }))
    ),
  );
}

/** The layers that each search found, as a file of its own: formulas, what each equals, accuracies, and the graphs. */
export function layerFiles(searches: readonly StoredTrial[]): Record<string, string> {
  return Object.fromEntries(searches.map((stored) => {
    const { name, seed } = stored.provenance.trial;
    const about = { search: labelOf(stored), seed };
    return [`layers/${name}.json`, layersText(about, foundOf(stored).map(layerEntry))];
  }));
}

const foundOf = ({ provenance: { notes } }: StoredTrial): FoundLayer[] =>
  JSON.parse(String(notes["found layers"] ?? "[]"));

/** One column for each anchor of any search: a table's rows have the same columns. */
const columns = (title: string, scores: Readonly<Record<string, number>>) =>
  Object.fromEntries(
    ["resnet", "mobilenet", "efficientnet"].map((name) => [
      `${name} ${title}`,
      scores[name] === undefined ? null : percent(scores[name]),
    ]),
  );

/** The last value of a metric in percent, by seed, of the trials with a label. */
export function bySeed(results: ResultsView, label: string, metric: string): Map<number, number> {
  const trials = results.trials.filter((stored) => labelOf(stored) === label);
  const values = trials.map((stored): [number, number] => [
    stored.provenance.trial.seed,
    100 * lastValue(stored, metric),
  ]);
  return new Map(values.filter(([, value]) => Number.isFinite(value)));
}

/** Anchors in which best layers were measured on the test images. */
export function testAnchors({ trials }: ResultsView): string[] {
  const prefix = "test accuracy ";
  const metrics = new Set(trials.flatMap(({ rows }) => rows.map(({ metric }) => metric)));
  return [...metrics].filter((metric) => metric.startsWith(prefix)).map((metric) =>
    metric.slice(prefix.length)
  );
}

/** Test accuracy of best layers and published ones, by anchor. */
export function testTable(results: ResultsView): ColumnTable {
  const rounded = (value: number) => (Number.isFinite(value) ? Math.round(100 * value) / 100 : null);
  return from(
    labelsOf(results.trials).flatMap((layer) =>
      testAnchors(results).flatMap((anchor): Records => {
        const values = bySeed(results, layer, `test accuracy ${anchor}`);
        if (values.size === 0) return [];
        const { estimate, interval: [low, high], seeds } = bootstrapInterval(values);
        return [{
          "layer": layer,
          "anchor": anchor,
          "test accuracy (%)": rounded(estimate),
          // One seed has no interval.
          "95% from": rounded(low),
          "to": rounded(high),
          "seeds": seeds,
        }];
      })
    ),
  );
}

/** The best accuracy by cost, one row per search and cost on a common grid; chance until a layer was accepted. */
function curves(searches: readonly StoredTrial[]): Records {
  const most = Math.max(...searches.map((stored) => lastValue(stored, "cost")));
  return searches.flatMap((stored) => {
    const points: { cost: number; best: number }[] = [];
    let cost = 0;
    for (const { metric, value } of stored.rows) {
      if (metric === "cost") cost = value;
      if (metric === "best accuracy") points.push({ cost, best: value });
    }
    return Array.from({ length: POINTS }, (_, k) => most * (k + 1) / POINTS).map((cost) => {
      const best = points.findLast((point) => point.cost <= cost)?.best ?? CHANCE;
      return { search: labelOf(stored), seed: stored.provenance.trial.seed, cost, best: 100 * best };
    });
  });
}

/** Best layer found so far, over what was spent. The searches must have the same anchors. */
export function bestOverCost(searches: readonly StoredTrial[], more = ""): FigureSpec {
  const labels = labelsOf(searches);
  const ends = labels.map((label) => {
    const last = searches.filter((stored) => labelOf(stored) === label)
      .map((stored) => percent(lastValue(stored, "best accuracy")));
    return `${label} ${last.join(", ")}%`;
  }).join("; ");
  return lineWithBand({
    name: "best-over-cost",
    title: "Best layer found, over cost",
    caption:
      "Highest mean accuracy on held-out images among the layers accepted so far: mean over seeds; the band spans the " +
      `seeds. Chance where nothing was accepted yet. The cost counts every candidate, rejected ones included.${more}`,
    alt: `Best held-out accuracy over cost, one line per kind of search; at the end, by seed: ${ends}.`,
  }, {
    table: from(curves(searches)),
    x: { field: "cost", title: "cost (billions of multiplications)" },
    y: { field: "best", title: "best held-out accuracy (%)" },
    series: { field: "search", title: "search", order: labels },
  });
}

/** Shares of all candidates of a kind of search, in percent, by what became of them. */
export function outcomeShares(searches: readonly StoredTrial[]): Records {
  return labelsOf(searches).flatMap((search) => {
    const all = searches.filter((stored) => labelOf(stored) === search).map(outcomes);
    const total = all.reduce((sum, counts) => sum + totalOf(counts), 0);
    const names = [...new Set(all.flatMap((counts) => [...counts.keys()]))];
    return names.map((outcome) => ({
      search,
      outcome,
      share: 100 * all.reduce((sum, counts) => sum + (counts.get(outcome) ?? 0), 0) / total,
    }));
  });
}
