/** What layers that were trained to the end would have cost with the tests, and what the tests would have missed. */
import { type MeasuredLayer, worksEverywhere } from "./_random_layers_views.ts";

/** Beyond this norm of the loss gradient a layer is unstable: the default of the stability test. */
const STABILITY_LIMIT = 1e8;

/** Layers, their costs in billions of multiplications, and what the tests said. */
export interface Account {
  readonly layers: number;
  /** By test: quality in each anchor, stability. */
  readonly rejected: Readonly<Record<string, number>>;
  /** Rejected ones that work in every anchor in the end. */
  readonly wrongly: number;
  readonly costWithout: number;
  readonly costWith: number;
  /** Part of `costWith` that accepted layers pay on top of their training. */
  readonly testsOfAccepted: number;
  /** Of one layer. */
  readonly largestSaving: number;
}

/** The account of some layers, with a quality test that asks for `threshold` in every anchor, in order. */
export function accountOf(layers: readonly MeasuredLayer[], threshold: number): Account {
  const rejected: Record<string, number> = {};
  for (const { anchor } of layers[0]?.anchors ?? []) rejected[`quality in ${anchor}`] = 0;
  rejected["stability"] = 0;
  let [wrongly, costWithout, costWith, testsOfAccepted, largestSaving] = [0, 0, 0, 0, 0];
  for (const layer of layers) {
    const full = withoutTests(layer);
    const { test, cost, tests } = withTests(layer, threshold);
    costWithout += full;
    costWith += cost;
    largestSaving = Math.max(largestSaving, full / cost);
    if (test === null) testsOfAccepted += tests;
    else {
      rejected[test] = rejected[test]! + 1;
      if (worksEverywhere(layer)) wrongly++;
    }
  }
  return { layers: layers.length, rejected, wrongly, costWithout, costWith, testsOfAccepted, largestSaving };
}

/** Training in every anchor, without the measurement in the middle. */
function withoutTests({ anchors }: MeasuredLayer): number {
  return anchors.reduce(
    (sum, { qualityWork, measurementWork, trainingWork }) =>
      sum + qualityWork - measurementWork + trainingWork,
    0,
  );
}

/** What is spent until the first test fails, or on all of it; `tests`: on the tests alone. */
function withTests(
  layer: MeasuredLayer,
  threshold: number,
): { test: string | null; cost: number; tests: number } {
  let [cost, tests] = [0, 0];
  for (const { anchor, quality, qualityWork, measurementWork } of layer.anchors) {
    cost += qualityWork;
    tests += measurementWork;
    // NaN, where training broke, fails too.
    if (!(quality >= threshold)) return { test: `quality in ${anchor}`, cost, tests };
  }
  cost += layer.stabilityWork;
  tests += layer.stabilityWork;
  if (!(layer.stability <= STABILITY_LIMIT)) return { test: "stability", cost, tests };
  for (const { trainingWork } of layer.anchors) cost += trainingWork;
  return { test: null, cost, tests };
}
