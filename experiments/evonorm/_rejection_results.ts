/** Tables, figures and claims of evonorm/rejection. */
import { type ColumnTable, from } from "arquero";
import {
  bootstrapInterval,
  type Claim,
  type FigureSpec,
  judge,
  type ResultsView,
  type StoredTrial,
} from "../../lib/experiment/mod.ts";
import { bars, lineWithBand } from "../../lib/figures/mod.ts";
import { type Account, accountOf } from "./_rejection_account.ts";
import { isRandom, type MeasuredLayer, measuredLayers, worksEverywhere } from "./_random_layers_views.ts";
import { bestOverCost, bySeed, isSearch, outcomeShares, percent, summaryTable } from "./_search_views.ts";

/** Thresholds of the quality test that are looked at: chance is 0.1. */
const THRESHOLDS = Array.from({ length: 21 }, (_, k) => 0.08 + 0.005 * k);

const thresholdOf = ({ provenance: { trial } }: StoredTrial): number => Number(trial.params["threshold"]);

/** All tables. */
export function rejectionTables(results: ResultsView): Record<string, ColumnTable> {
  const random = results.trials.filter(isRandom);
  const seeds = random.map((stored) => ({
    seed: String(stored.provenance.trial.seed),
    layers: measuredLayers(stored),
    threshold: thresholdOf(stored),
  }));
  const all = { seed: "all", layers: seeds.flatMap(({ layers }) => layers) };
  const rows = seeds.length === 0 ? [] : [...seeds, { ...all, threshold: seeds[0]!.threshold }];
  return {
    "tests": from(rows.map(({ seed, layers, threshold }) => accountRow(seed, accountOf(layers, threshold)))),
    "searches": summaryTable(results.trials.filter(isSearch)),
  };
}

function accountRow(seed: string, account: Account) {
  const { layers, rejected, wrongly, costWithout, costWith, testsOfAccepted, largestSaving } = account;
  return {
    "seed": seed,
    "layers trained": layers,
    ...Object.fromEntries(
      Object.entries(rejected).map(([test, count]) => [`rejected by ${test}`, count]),
    ),
    "accepted": layers - Object.values(rejected).reduce((sum, count) => sum + count, 0),
    "rejected though they end at 20% everywhere": wrongly,
    "cost without tests (billions)": Math.round(costWithout),
    "cost with tests (billions)": Math.round(costWith),
    "of that, tests of accepted layers": Math.round(testsOfAccepted),
    "saving (times)": Math.round(100 * costWithout / costWith) / 100,
    "largest saving on a layer (times)": Math.round(10 * largestSaving) / 10,
  };
}

/** All figures. */
export function rejectionFigures(results: ResultsView): FigureSpec[] {
  const searches = results.trials.filter(isSearch);
  const random = results.trials.filter(isRandom);
  const figures: FigureSpec[] = [];
  if (random.length > 0) figures.push(...thresholdFigures(random));
  if (searches.length > 0) {
    const shares = outcomeShares(searches);
    figures.push(
      bestOverCost(searches, " No tests: every layer is trained to the end or until its loss is not finite."),
      bars({
        name: "outcomes",
        title: "What becomes of candidates",
        caption: "Share of all candidates of the seeds together.",
        alt: shares.map(({ search, outcome, share }) => `${search}: ${outcome} ${Math.round(Number(share))}%`)
          .join(", ") + ".",
      }, {
        table: from(shares),
        y: { field: "outcome", title: "" },
        x: { field: "share", title: "share of candidates (%)" },
        series: { field: "search", title: "search" },
      }),
    );
  }
  return figures;
}

/** What other thresholds of the quality test would have saved, and missed. */
function thresholdFigures(random: readonly StoredTrial[]): FigureSpec[] {
  const rows = random.flatMap((stored) => {
    const layers = measuredLayers(stored);
    const good = layers.filter(worksEverywhere).length;
    return THRESHOLDS.map((threshold) => {
      const { wrongly, costWith, costWithout } = accountOf(layers, threshold);
      const missed = good === 0 ? 0 : 100 * wrongly / good;
      return {
        seed: stored.provenance.trial.seed,
        threshold: 100 * threshold,
        saving: costWithout / costWith,
        missed,
      };
    });
  });
  const used = percent(thresholdOf(random[0]!));
  const at = rows.filter(({ threshold }) => Math.abs(threshold - used) < 0.1);
  const x = { field: "threshold", title: "accuracy that the quality test asks for (%)" };
  const alt = (name: "saving" | "missed") =>
    `At ${used}%, by seed: ${at.map((row) => row[name].toFixed(1)).join(", ")}.`;
  return [
    lineWithBand({
      name: "saving",
      title: "What the tests save",
      caption:
        "Cost of training random layers to the end, over their cost with both tests, by the accuracy that the quality test asks for: " +
        `mean over seeds, the band spans them. The searches use ${used}%.`,
      alt: alt("saving"),
    }, { table: from(rows), x, y: { field: "saving", title: "saving (times)" } }),
    lineWithBand({
      name: "missed",
      title: "What the tests miss",
      caption:
        "Share of the layers that end at 20% or more in every anchor, but are rejected by one of the tests: mean over seeds, " +
        "the band spans them.",
      alt: alt("missed"),
    }, { table: from(rows), x, y: { field: "missed", title: "good layers rejected (%)" } }),
  ];
}

/** All claims. */
export function rejectionClaims(results: ResultsView): Claim[] {
  const random = results.trials.filter(isRandom);
  const ofLayers = (value: (layers: MeasuredLayer[], threshold: number) => number) =>
    random.length === 0 ? undefined : bootstrapInterval(
      new Map(random.map((stored) => [
        stored.provenance.trial.seed,
        value(measuredLayers(stored), thresholdOf(stored)),
      ])),
    );
  const saving = ofLayers((layers, threshold) => {
    const { costWithout, costWith } = accountOf(layers, threshold);
    return costWithout / costWith;
  });
  const gain = (method: string, metric: string) => {
    const [a, b] = [method, `${method}, no tests`].map((label) => bySeed(results, label, metric)) as [
      Map<number, number>,
      Map<number, number>,
    ];
    return a.size > 0 && b.size > 0 ? bootstrapInterval(a, b) : undefined;
  };
  const measure = "cost of training random layers to the end, over their cost with the tests (times)";
  const difference = "with the tests minus without, at equal cost (percentage points, paired by seed)";
  return [
    judge({
      id: "tests-save-most-of-the-cost",
      statement: "Rejecting layers early saves most of the cost of random layers.",
      measure,
      direction: "above",
      threshold: 2,
    }, saving),
    judge({
      id: "two-orders-of-magnitude",
      statement: "The quality test speeds up the search by up to two orders of magnitude.",
      printed: { value: "up to two orders of magnitude", source: "section 4.3" },
      measure,
      direction: "above",
      threshold: 100,
      note:
        "The bound depends on how early the test comes: after 100 of 2,000 steps in the paper. The table says the largest saving on a " +
        "single layer here.",
    }, saving),
    ...["evolution", "random"].flatMap((method) => {
      const name = method === "random" ? "random search" : method;
      return [
        judge({
          id: `tests-help-${name.replace(" ", "-")}`,
          statement: `At equal cost, ${name} finds better layers with the tests than without.`,
          measure: `best mean accuracy on held-out images, ${difference}`,
          direction: "above",
          threshold: 0,
          note:
            "With the tests more layers are trained, and the maximum of more noisy measurements is higher.",
        }, gain(method, "best accuracy")),
        judge({
          id: `tests-help-${name.replace(" ", "-")}-on-test-images`,
          statement:
            `The layers that ${name} finds with the tests are better on images that did not select them, too.`,
          measure: `mean test accuracy over anchors of the best layer, trained anew: ${difference}`,
          direction: "above",
          threshold: 0,
        }, gain(method, "test accuracy")),
      ];
    }),
  ];
}
