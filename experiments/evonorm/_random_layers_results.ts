/** Tables, figures and claims of evonorm/random-layers. */
import { type ColumnTable, from } from "arquero";
import { average } from "../../lib/evolution/mod.ts";
import {
  bootstrapInterval,
  type Claim,
  type FigureSpec,
  judge,
  type ResultsView,
  type StoredTrial,
} from "../../lib/experiment/mod.ts";
import { histogram, scatter } from "../../lib/figures/mod.ts";
import {
  isRandom,
  meanAccuracy,
  type MeasuredLayer,
  measuredLayers,
  worksEverywhere,
  worksSomewhere,
} from "./_random_layers_views.ts";
import { percent } from "./_search_views.ts";

/** Random layers that the table of the best ones names. */
const NAMED = 15;

const layerOf = ({ provenance: { trial } }: StoredTrial): string => String(trial.params["layer"]);

/** All tables. */
export function randomLayerTables(results: ResultsView): Record<string, ColumnTable> {
  return {
    "seeds": seedTable(results),
    "best": layerTable(
      results.trials.filter(isRandom).flatMap(measuredLayers)
        .sort((a, b) => meanAccuracy(b) - meanAccuracy(a)).slice(0, NAMED),
    ),
    "published": layerTable(
      results.trials.filter((stored) => !isRandom(stored)).flatMap(measuredLayers),
    ),
    "between-anchors": correlationTable(results),
  };
}

function seedTable({ trials }: ResultsView): ColumnTable {
  return from(
    trials.filter(isRandom).map((stored) => {
      const layers = measuredLayers(stored);
      const rows = (metric: string) => stored.rows.filter((row) => row.metric === metric).length;
      const count = (test: (layer: MeasuredLayer) => boolean) => layers.filter(test).length;
      return {
        "seed": stored.provenance.trial.seed,
        "drawn": new Set(stored.rows.map(({ step }) => step)).size,
        "output without x": rows("inactive"),
        "duplicates": rows("duplicate"),
        "trained": layers.length,
        "loss not finite in an anchor": count(({ anchors }) => anchors.some(({ diverged }) => diverged)),
        "20% in some anchor": count(worksSomewhere),
        "20% in every anchor": count(worksEverywhere),
        "best mean accuracy (%)": percent(Math.max(...layers.map(meanAccuracy))),
        "seconds of training": Math.round(Number(stored.provenance.notes["seconds of all layers"] ?? 0)),
      };
    }),
  );
}

function layerTable(layers: readonly MeasuredLayer[]): ColumnTable {
  return from(layers.map((layer) => ({
    "layer": layer.formula,
    "seed": layer.seed,
    "number": layer.index,
    "mean held-out accuracy (%)": percent(meanAccuracy(layer)),
    ...Object.fromEntries(layer.anchors.map(({ anchor, accuracy }) => [`${anchor} (%)`, percent(accuracy)])),
  })));
}

/** Pairs of anchors with each layer's accuracy in both. */
function pairs(layers: readonly MeasuredLayer[]) {
  return layers.flatMap(({ formula, anchors }) => {
    const [first, ...others] = anchors;
    return others.map((other) => ({
      formula,
      pair: other.anchor,
      x: 100 * first!.accuracy,
      y: 100 * other.accuracy,
    }));
  });
}

function correlationTable({ trials }: ResultsView): ColumnTable {
  const layers = trials.filter(isRandom).flatMap(measuredLayers);
  const working = layers.filter(worksSomewhere);
  const rows = (of: readonly MeasuredLayer[], name: string) =>
    [...Map.groupBy(pairs(of), ({ pair }) => pair)].map(([pair, values]) => ({
      "layers": name,
      "anchors": `resnet, ${pair}`,
      "number": values.length,
      "rank correlation of accuracies": rounded(rankCorrelation(values.map(({ x, y }) => [x, y]))),
    }));
  return from([...rows(layers, "all"), ...rows(working, "20% in some anchor")]);
}

const rounded = (value: number) => (Number.isFinite(value) ? Math.round(100 * value) / 100 : null);

/** Spearman's: the correlation of the ranks, ties at their mean rank. */
function rankCorrelation(values: readonly (readonly [number, number])[]): number {
  const [x, y] = [0, 1].map((k) => ranks(values.map((pair) => pair[k]!))) as [number[], number[]];
  const [meanX, meanY] = [average(x), average(y)];
  const sum = (f: (i: number) => number) => x.reduce((total, _, i) => total + f(i), 0);
  const covariance = sum((i) => (x[i]! - meanX) * (y[i]! - meanY));
  return covariance / Math.sqrt(sum((i) => (x[i]! - meanX) ** 2) * sum((i) => (y[i]! - meanY) ** 2));
}

function ranks(values: readonly number[]): number[] {
  const sorted = [...values].sort((a, b) => a - b);
  return values.map((value) => (sorted.indexOf(value) + sorted.lastIndexOf(value)) / 2);
}

/** All figures. */
export function randomLayerFigures({ trials }: ResultsView): FigureSpec[] {
  const random = trials.filter(isRandom).flatMap(measuredLayers);
  if (random.length === 0) return [];
  const published = trials.filter((stored) => !isRandom(stored)).flatMap((stored) =>
    measuredLayers(stored).map((layer) => ({ ...layer, name: layerOf(stored) }))
  );
  const each = random.flatMap(({ anchors }) =>
    anchors.map(({ anchor, accuracy }) => ({ anchor, accuracy: 100 * accuracy }))
  );
  const dots = [
    ...pairs(random).map((dot) => ({ ...dot, kind: "random" })),
    ...published.flatMap((layer) => pairs([layer]).map((dot) => ({ ...dot, kind: layer.name }))),
  ];
  const everywhere = random.filter(worksEverywhere).length;
  const somewhere = random.filter(worksSomewhere).length;
  const said = `${random.length} random layers: ${everywhere} reach 20% in every anchor, ${
    somewhere - everywhere
  } in some only`;
  return [
    histogram({
      name: "accuracies",
      title: "How good random layers are",
      caption:
        `Held-out accuracy of ${random.length} random layers after training, by anchor. Those whose output ` +
        "does not depend on the input are left out; chance is 10%, where a loss was not finite too.",
      alt: `${said}.`,
    }, {
      table: from(each),
      x: { field: "accuracy", title: "held-out accuracy (%)" },
      facet: { field: "anchor", title: "anchor" },
      bins: 30,
    }),
    scatter({
      name: "between-anchors",
      title: "The same layer in two networks",
      caption:
        "Held-out accuracy of each layer in the ResNet and in another anchor. A dot away from the diagonal works in one " +
        "network and not in the other.",
      alt: `${said}; published layers beside them.`,
    }, {
      table: from(dots),
      x: { field: "x", title: "in the ResNet (%)" },
      y: { field: "y", title: "in the other anchor (%)" },
      series: {
        field: "kind",
        title: "layer",
        order: ["random", ...new Set(published.map(({ name }) => name))],
      },
      facet: { field: "pair", title: "other anchor" },
      label: { field: "formula", title: "formula" },
    }),
  ];
}

/** All claims. */
export function randomLayerClaims({ trials }: ResultsView): Claim[] {
  const random = trials.filter(isRandom);
  const share = (
    count: (layer: MeasuredLayer) => boolean,
    of: (layer: MeasuredLayer) => boolean = () => true,
  ) => {
    const shares = random.map((stored): [number, number] => {
      const layers = measuredLayers(stored).filter(of);
      return [stored.provenance.trial.seed, 100 * layers.filter(count).length / layers.length];
    }).filter(([, value]) => Number.isFinite(value));
    return shares.length > 0 ? bootstrapInterval(new Map(shares)) : undefined;
  };
  const reference = new Map(
    trials.filter((stored) => layerOf(stored) === "BN-ReLU").flatMap(measuredLayers)
      .map((layer) => [layer.seed, meanAccuracy(layer)]),
  );
  return [
    judge({
      id: "hardly-any-random-layer-works",
      statement: "The vast majority of random layers has poor accuracy.",
      measure: "share of random layers that reach 20% (twice chance) in every anchor (%)",
      direction: "below",
      threshold: 10,
    }, share(worksEverywhere)),
    judge({
      id: "good-in-one-bad-in-another",
      statement: "Layers that are good in one network often fail in others.",
      measure: "of the random layers that reach 20% in some anchor, the share that does not in another (%)",
      direction: "above",
      threshold: 25,
      note: "The paper gives no number; a quarter is taken for 'often'.",
    }, share((layer) => !worksEverywhere(layer), worksSomewhere)),
    judge({
      id: "no-random-layer-beats-bn-relu",
      statement: "None of 5,000 random layers beats BN-ReLU.",
      printed: { value: "0 of 5,000", source: "section 3" },
      measure: "share of random layers with a mean accuracy above that of BN-ReLU of the same seed (%)",
      direction: "below",
      threshold: 1,
      note: "One training each: some of a few hundred good layers would be above by chance.",
    }, reference.size === 0 ? undefined : share((layer) => meanAccuracy(layer) > reference.get(layer.seed)!)),
  ];
}
