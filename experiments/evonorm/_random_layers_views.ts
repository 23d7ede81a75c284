/** Layers that were trained whatever the tests said, as their stored trials have them. */
import type { StoredTrial, Trial } from "../../lib/experiment/mod.ts";
import type { DrawnLayer } from "./_random_layers_trial.ts";
import type { Task } from "./_search_candidate.ts";
import { CHANCE } from "./_search_trial.ts";

/** A network works that ends at twice chance on ten classes: the accuracy that the paper's quality test asks for. */
export const WORKS = 0.2;

/** What is known of a layer in one anchor. */
export interface InAnchor {
  readonly anchor: string;
  /** Held-out accuracy at the end; chance where the loss was not finite on the way. */
  readonly accuracy: number;
  readonly diverged: boolean;
  /** Accuracy at the quality test, NaN where training broke before. */
  readonly quality: number;
  /** Billions of multiplications: training up to the quality test, and its measurement. */
  readonly qualityWork: number;
  /** The measurement alone; 0 where training broke before. */
  readonly measurementWork: number;
  /** The same for all of the training after it and the measurement at the end. */
  readonly trainingWork: number;
}

/** A layer that was trained to the end. */
export interface MeasuredLayer {
  readonly seed: number;
  /** Its number among the layers of the seed. */
  readonly index: number;
  readonly formula: string;
  readonly anchors: readonly InAnchor[];
  /** The largest norm of the loss gradient in the stability test's ascent, or the one beyond its limit. */
  readonly stability: number;
  readonly stabilityWork: number;
}

/** Whether a stored trial is one of random layers. */
export const isRandom = ({ provenance: { trial } }: StoredTrial): boolean =>
  trial.params["layer"] === "random";

/** The layers of a trial that were trained to the end; those that met a limit are left out. */
export function measuredLayers({ rows, provenance: { trial, notes } }: StoredTrial): MeasuredLayer[] {
  const names = String(trial.params["anchors"]).split("+");
  const drawn: DrawnLayer[] = JSON.parse(String(notes["layers"] ?? "[]"));
  const share = measurementShare(trial.params);
  const formulas = new Map(drawn.map(({ index, formula }) => [index, formula]));
  return [...Map.groupBy(rows, ({ step }) => step)].flatMap(([index, own]): MeasuredLayer[] => {
    const values = new Map(own.map(({ metric, value }) => [metric, value]));
    const value = (metric: string) => values.get(metric)!;
    if (!values.has(`accuracy ${names[0]}`)) return [];
    return [{
      seed: trial.seed,
      index,
      formula: formulas.get(index) ?? String(trial.params["layer"]),
      anchors: names.map((anchor) => {
        const accuracy = value(`accuracy ${anchor}`);
        const diverged = Number.isNaN(accuracy);
        const quality = value(`quality accuracy ${anchor}`);
        const qualityWork = value(`quality work ${anchor}`);
        return {
          anchor,
          accuracy: diverged ? CHANCE : accuracy,
          diverged,
          quality,
          qualityWork,
          measurementWork: Number.isNaN(quality) ? 0 : share * qualityWork,
          trainingWork: value(`training work ${anchor}`),
        };
      }),
      stability: value("stability value"),
      stabilityWork: value("stability work"),
    }];
  });
}

/** What part of a quality test's cost is its measurement: images forward, beside training steps of three passes. */
function measurementShare(params: Trial["params"]): number {
  const { validation, testCrop, quality, batch, crop } = params as unknown as Task;
  const measurement = validation * testCrop ** 2;
  return measurement / (measurement + 3 * quality * batch * crop ** 2);
}

/** Mean accuracy over the anchors. */
export const meanAccuracy = ({ anchors }: MeasuredLayer): number =>
  anchors.reduce((sum, { accuracy }) => sum + accuracy, 0) / anchors.length;

/** Whether the layer works in every anchor. */
export const worksEverywhere = ({ anchors }: MeasuredLayer): boolean =>
  anchors.every(({ accuracy }) => accuracy >= WORKS);

/** Whether it works in one of them at least. */
export const worksSomewhere = ({ anchors }: MeasuredLayer): boolean =>
  anchors.some(({ accuracy }) => accuracy >= WORKS);
