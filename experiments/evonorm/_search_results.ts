/** Tables, figures and claims of evonorm/search. */
import { type ColumnTable, from } from "arquero";
import {
  bootstrapInterval,
  type Claim,
  type FigureSpec,
  judge,
  type ResultsView,
  type StoredTrial,
} from "../../lib/experiment/mod.ts";
import { bars, dotsWithInterval, lineWithBand } from "../../lib/figures/mod.ts";
import { toJSON } from "../../lib/graph/mod.ts";
import type { FoundLayer } from "./_search_run.ts";

/** Points of a curve over cost: seeds are compared at the same costs. */
const POINTS = 50;

/** Accuracy of a network that learnt nothing of ten classes. */
const CHANCE = 0.1;

type Records = Record<string, string | number>[];

const methodOf = ({ provenance: { trial } }: StoredTrial): string => String(trial.params["method"]);
const isSearch = (stored: StoredTrial): boolean => ["evolution", "random"].includes(methodOf(stored));

/** A search as it is called in figures: `evolution`, `random`, `evolution, S` for the series without batch statistics. */
function labelOf(stored: StoredTrial): string {
  const { constraint, criterion } = stored.provenance.trial.params;
  if (!isSearch(stored)) return methodOf(stored);
  const parts = [constraint === "none" ? "" : "S", criterion === "pareto" ? "" : criterion];
  return [methodOf(stored), ...parts].filter((part) => part !== "").join(", ");
}

const percent = (share: number): number => Math.round(10_000 * share) / 100;

function found(stored: StoredTrial): FoundLayer[] {
  return JSON.parse(String(stored.provenance.notes["found layers"] ?? "[]"));
}

/** What became of the candidates of a search, by reason; all together are its candidates. */
function outcomes({ rows }: StoredTrial): Map<string, number> {
  const counts = new Map<string, number>();
  const add = (name: string) => counts.set(name, (counts.get(name) ?? 0) + 1);
  const anchor = rows.find(({ metric }) => metric.startsWith("accuracy "))?.metric;
  for (const { metric } of rows) {
    if (metric === anchor) add("accepted");
    if (metric === "duplicate") add("duplicate");
    if (metric.startsWith("rejected by ")) add(metric.slice("rejected by ".length));
  }
  return counts;
}

function lastValue({ rows }: StoredTrial, metric: string): number {
  return rows.findLast((row) => row.metric === metric)?.value ?? NaN;
}

function summaryTable(searches: readonly StoredTrial[]): ColumnTable {
  return from(searches.map((stored) => {
    const counts = outcomes(stored);
    const count = (name: string) => counts.get(name) ?? 0;
    const all = [...counts.values()].reduce((sum, value) => sum + value, 0);
    return {
      "search": labelOf(stored),
      "seed": stored.provenance.trial.seed,
      "layers": all,
      "inactive": count("inactive x"),
      "duplicates": count("duplicate"),
      "rejected by quality": count("quality"),
      "by stability": count("stability"),
      "by training and limits": all -
        ["inactive x", "duplicate", "quality", "stability", "accepted"].reduce(
          (sum, name) => sum + count(name),
          0,
        ),
      "accepted": count("accepted"),
      "best held-out accuracy (%)": percent(lastValue(stored, "best accuracy")),
      "its test accuracy after longer training (%)": percent(lastValue(stored, "test accuracy")),
      "seconds of evaluation": Math.round(Number(stored.provenance.notes["seconds of all candidates"] ?? 0)),
    };
  }));
}

/** The layers that the searches found, as formulas and as JSON. */
function layerTable(searches: readonly StoredTrial[]): ColumnTable {
  return from(searches.flatMap((stored) =>
    found(stored).map(({ index, formula, scores, graph }, place) => ({
      "search": labelOf(stored),
      "seed": stored.provenance.trial.seed,
      "place": place + 1,
      "candidate": index,
      formula,
      ...Object.fromEntries(
        Object.entries(scores).map(([name, score]) => [`${name} held-out accuracy (%)`, percent(score)]),
      ),
      "graph": toJSON(graph),
    }))
  ));
}

/** Test accuracy of a search's best layer, or of a published one, in percent by seed. */
function testAccuracies(results: ResultsView, label: string, metric = "test accuracy"): Map<number, number> {
  const trials = results.trials.filter((stored) => labelOf(stored) === label);
  const values = trials.map((stored): [number, number] => [
    stored.provenance.trial.seed,
    100 * lastValue(stored, metric),
  ]);
  return new Map(values.filter(([, value]) => Number.isFinite(value)));
}

function testTable(results: ResultsView): ColumnTable {
  const labels = [...new Set(results.trials.map(labelOf))];
  const metrics = [
    ...new Set(results.trials.flatMap(({ rows }) => rows.map(({ metric }) => metric))),
  ].filter((metric) => metric.startsWith("test accuracy ")).sort();
  return from(labels.flatMap((layer) =>
    metrics.flatMap((metric) => {
      const values = testAccuracies(results, layer, metric);
      if (values.size === 0) return [];
      const { estimate, interval: [low, high], seeds } = bootstrapInterval(values);
      const finite = (value: number) => (Number.isFinite(value) ? Math.round(100 * value) / 100 : null);
      return [{
        "layer": layer,
        "anchor": metric.slice("test accuracy ".length),
        "test accuracy (%)": Math.round(100 * estimate) / 100,
        // One seed has no interval.
        "95% from": finite(low),
        "to": finite(high),
        "seeds": seeds,
      }];
    })
  ));
}

/** All tables. */
export function searchTables(results: ResultsView): Record<string, ColumnTable> {
  const searches = results.trials.filter(isSearch);
  return {
    "searches": summaryTable(searches),
    "layers": layerTable(searches),
    "test-accuracy": testTable(results),
  };
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

function outcomeShares(searches: readonly StoredTrial[]): Records {
  return [...new Set(searches.map(labelOf))].flatMap((search) => {
    const all = searches.filter((stored) => labelOf(stored) === search).map(outcomes);
    const total = all.reduce((sum, counts) => sum + [...counts.values()].reduce((a, b) => a + b, 0), 0);
    const names = [...new Set(all.flatMap((counts) => [...counts.keys()]))];
    return names.map((outcome) => ({
      search,
      outcome,
      share: 100 * all.reduce((sum, counts) => sum + (counts.get(outcome) ?? 0), 0) / total,
    }));
  });
}

/** All figures. */
export function searchFigures(results: ResultsView): FigureSpec[] {
  const searches = results.trials.filter(isSearch);
  if (searches.length === 0) return [];
  const labels = [...new Set(searches.map(labelOf))];
  const ends = labels.map((label) => {
    const last = searches.filter((stored) => labelOf(stored) === label)
      .map((stored) => percent(lastValue(stored, "best accuracy")));
    return `${label} ${last.join(", ")}%`;
  }).join("; ");
  const shares = outcomeShares(searches);
  const tests = testTable(results);
  const figures = [
    lineWithBand({
      name: "best-over-cost",
      title: "Best layer found, over cost",
      caption:
        "Highest mean accuracy on held-out images among the layers accepted so far: mean over seeds; the band " +
        "spans the seeds. Chance where nothing was accepted yet. The cost counts every candidate, rejected ones included. " +
        "S: without batch statistics.",
      alt: `Best held-out accuracy over cost, one line per kind of search; at the end, by seed: ${ends}.`,
    }, {
      table: from(curves(searches)),
      x: { field: "cost", title: "cost (billions of multiplications)" },
      y: { field: "best", title: "best held-out accuracy (%)" },
      series: { field: "search", title: "search", order: labels },
    }),
    bars({
      name: "outcomes",
      title: "What becomes of candidates",
      caption:
        "Share of all candidates of the seeds together that each test rejects, before a training is paid for.",
      alt: shares.map(({ search, outcome, share }) => `${search}: ${outcome} ${Math.round(Number(share))}%`)
        .join(", ") + ".",
    }, {
      table: from(shares),
      y: { field: "outcome", title: "" },
      x: { field: "share", title: "share of candidates (%)" },
      series: { field: "search", title: "search", order: labels },
    }),
  ];
  if (tests.numRows() === 0) return figures;
  const rows = tests.objects() as Records;
  return [
    ...figures,
    dotsWithInterval({
      name: "test-accuracy",
      title: "The best layer of each search, trained anew",
      caption:
        "Accuracy on the test images after a longer training from other weights, by anchor: mean over seeds with " +
        "its 95% interval, without one for a single seed. Published layers in the same way.",
      alt: rows.map((row) => `${row["layer"]} in ${row["anchor"]} ${row["test accuracy (%)"]}%`).join(", ") +
        ".",
    }, {
      table: tests,
      y: { field: "layer", title: "layer" },
      x: { field: "test accuracy (%)", title: "test accuracy (%)" },
      lo: "95% from",
      hi: "to",
      facet: { field: "anchor", title: "anchor" },
    }),
  ];
}

/** All claims. */
export function searchClaims(results: ResultsView): Claim[] {
  const best = (method: string) => {
    const shares = results.bySeed("best accuracy", { method, constraint: "none", criterion: "pareto" });
    return new Map([...shares].map(([seed, share]) => [seed, 100 * share]));
  };
  const difference = (a: Map<number, number>, b: Map<number, number>) =>
    a.size > 0 && b.size > 0 ? bootstrapInterval(a, b) : undefined;
  const above = { direction: "above", threshold: 0 } as const;
  return [
    judge({
      ...above,
      id: "evolution-beats-random-search",
      statement:
        "At equal cost, evolution finds better layers than random search with the same rejection tests.",
      measure:
        "best mean accuracy on held-out images, evolution minus random search (percentage points, paired by seed)",
    }, difference(best("evolution"), best("random"))),
    judge({
      ...above,
      id: "found-layer-beats-bn-relu",
      statement:
        "The best layer that evolution finds reaches a higher accuracy than BN-ReLU across the anchors.",
      measure:
        "mean test accuracy over anchors after longer training, the found layer minus BN-ReLU (percentage points, " +
        "paired by seed)",
    }, difference(testAccuracies(results, "evolution"), testAccuracies(results, "BN-ReLU"))),
    judge({
      ...above,
      id: "found-layer-without-batch-beats-gn-relu",
      statement:
        "The best layer without batch statistics that evolution finds reaches a higher accuracy than GN-ReLU across the anchors.",
      measure:
        "mean test accuracy over anchors after longer training, the found layer minus GN-ReLU (percentage points, " +
        "paired by seed)",
    }, difference(testAccuracies(results, "evolution, S"), testAccuracies(results, "GN-ReLU"))),
  ];
}
