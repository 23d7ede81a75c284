/** Tables, figures and claims of evonorm/search. */
import { type ColumnTable, from } from "arquero";
import {
  bootstrapInterval,
  type Claim,
  type FigureSpec,
  judge,
  type ResultsView,
} from "../../lib/experiment/mod.ts";
import { bars, dotsWithInterval } from "../../lib/figures/mod.ts";
import {
  bestOverCost,
  bySeed,
  isSearch,
  labelOf,
  labelsOf,
  layerTable,
  outcomeShares,
  summaryTable,
  testAnchors,
  testTable,
} from "./_search_views.ts";

/** The search that is made in one anchor alone, as the paper's comparison has it. */
const ALONE = "evolution, resnet alone";

/** All tables. */
export function searchTables(results: ResultsView): Record<string, ColumnTable> {
  const searches = results.trials.filter(isSearch);
  return {
    "searches": summaryTable(searches),
    "layers": layerTable(searches),
    "test-accuracy": testTable(results),
  };
}

/** All figures. */
export function searchFigures(results: ResultsView): FigureSpec[] {
  const searches = results.trials.filter(isSearch);
  if (searches.length === 0) return [];
  const shares = outcomeShares(searches);
  const outcomes = bars({
    name: "outcomes",
    title: "What becomes of candidates",
    caption:
      "Share of all candidates of the seeds together, by the test that rejects them before a training is paid for.",
    alt: shares.map(({ search, outcome, share }) => `${search}: ${outcome} ${Math.round(Number(share))}%`)
      .join(", ") + ".",
  }, {
    table: from(shares),
    y: { field: "outcome", title: "" },
    x: { field: "share", title: "share of candidates (%)" },
    series: { field: "search", title: "search", order: labelsOf(searches) },
  });
  // Means over other anchors are other quantities.
  const comparable = searches.filter((stored) => labelOf(stored) !== ALONE);
  const figures = [bestOverCost(comparable, " S: without batch statistics."), outcomes];
  const tests = testTable(results);
  if (tests.numRows() === 0) return figures;
  const rows = tests.objects() as Record<string, unknown>[];
  return [
    ...figures,
    dotsWithInterval({
      name: "test-accuracy",
      title: "The best layer of each search, trained anew",
      caption:
        "Accuracy on the test images after a longer training from other weights, by anchor: mean over seeds with " +
        "its 95% interval, without one for a single seed. Published layers in the same way. " +
        "EfficientNet is no anchor of any search; one search has seen the ResNet alone.",
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
  const test = (label: string, anchors?: readonly string[]) => meanTestAccuracy(results, label, anchors);
  const best = (label: string) => bySeed(results, label, "best accuracy");
  const difference = (a: Map<number, number>, b: Map<number, number>) =>
    a.size > 0 && b.size > 0 ? bootstrapInterval(a, b) : undefined;
  const above = { direction: "above", threshold: 0 } as const;
  const points = "(percentage points, paired by seed)";
  const afterwards = "mean test accuracy over anchors of the best layer, trained anew";
  const notSeen = testAnchors(results).filter((name) => name !== "resnet");
  const unseen = testAnchors(results).filter((name) => name === "efficientnet");
  return [
    judge({
      ...above,
      id: "evolution-beats-random-search",
      statement:
        "At equal cost, evolution finds better layers than random search with the same rejection tests.",
      measure: `best mean accuracy on held-out images, evolution minus random search ${points}`,
      note: "The images that selected the layers: the maximum of many noisy measurements, on both sides.",
    }, difference(best("evolution"), best("random"))),
    judge({
      ...above,
      id: "evolution-beats-random-search-on-test-images",
      statement: "The layers that evolution finds are better on images that did not select them, too.",
      measure: `${afterwards}: evolution minus random search ${points}`,
    }, difference(test("evolution"), test("random"))),
    judge({
      ...above,
      id: "found-layer-beats-bn-relu",
      statement:
        "The best layer that evolution finds reaches a higher accuracy than BN-ReLU across the anchors.",
      measure: `${afterwards}: evolution minus BN-ReLU ${points}`,
    }, difference(test("evolution"), test("BN-ReLU"))),
    judge({
      ...above,
      id: "found-layer-without-batch-beats-gn-relu",
      statement:
        "The best layer without batch statistics that evolution finds reaches a higher accuracy than GN-ReLU across the anchors.",
      measure: `${afterwards}: evolution without batch statistics minus GN-ReLU ${points}`,
    }, difference(test("evolution, S"), test("GN-ReLU"))),
    judge({
      ...above,
      id: "several-anchors-beat-one",
      statement:
        "A layer that was searched in several networks is better in other networks than one that was searched in one.",
      measure: `mean test accuracy over ${
        notSeen.join(", ")
      }: evolution in all anchors minus in the ResNet alone ${points}`,
    }, difference(test("evolution", notSeen), test(ALONE, notSeen))),
    judge({
      ...above,
      id: "pareto-beats-average",
      statement:
        "Tournaments won by a member of the Pareto front find better layers than by the highest average.",
      measure: `${afterwards}: Pareto minus average ${points}`,
    }, difference(test("evolution"), test("evolution, average"))),
    judge({
      ...above,
      id: "found-layer-transfers",
      statement:
        "The best layer that evolution finds is better than BN-ReLU in a network that it was not searched in.",
      measure: `test accuracy in EfficientNet: evolution minus BN-ReLU ${points}`,
    }, difference(test("evolution", unseen), test("BN-ReLU", unseen))),
  ];
}

/** Mean over anchors of a label's test accuracy in percent, by seed. */
function meanTestAccuracy(
  results: ResultsView,
  label: string,
  anchors: readonly string[] = testAnchors(results),
): Map<number, number> {
  const each = anchors.map((anchor) => bySeed(results, label, `test accuracy ${anchor}`));
  const [first] = each;
  if (first === undefined) return new Map();
  return new Map([...first.keys()].map((seed) => [
    seed,
    each.reduce((sum, values) => sum + values.get(seed)!, 0) / each.length,
  ]));
}
