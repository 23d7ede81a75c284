/**
 * evonorm/rejection: what the tests of the search save, and what they cost.
 *
 * Cost: smoke a quarter of a minute on 2 cores (wasm), laptop an hour on 2 cores (wasm), less where evonorm/search and
 * evonorm/random-layers have been run: it shares their evaluations. Expect: with the tests a search sees several times
 * as many layers for the same cost.
 */
import type { Experiment } from "../../lib/experiment/mod.ts";
import { madeOfCandidates } from "./_made_of_candidates.ts";
import { randomLayerTrials, runRandomLayerTrial } from "./_random_layers_trial.ts";
import { rejectionClaims, rejectionFigures, rejectionTables } from "./_rejection_results.ts";
import { SETTINGS } from "./_search_settings.ts";
import { runSearchTrial, searchTrials } from "./_search_trial.ts";

/** Searches with and without rejection, and layers that were trained whatever the tests said. */
export const rejection: Experiment = {
  id: "evonorm/rejection",
  title: "What rejecting layers early saves",
  source: "Evolving Normalization-Activation Layers (arXiv 2004.02967), section 4.3",
  module: import.meta.url,
  summary:
    `Two questions. How much of the cost of random layers do the tests save, and what do they reject wrongly? Random layers are trained to the
end in every anchor, and the tests are made on the way without rejecting anything; so it is known of each what it would have
cost with the tests, and what would have been missed. And do searches find better layers with the tests than without, at equal cost? Evolution and
random search, each with both tests and with none, have the same budget in multiplications of the networks' convolutions.

How the saving is computed. The cost of a layer without tests is its training in all anchors, up to the step at which a loss is not finite (to
stop there needs no test), and the measurement at the end. With the tests it is what is spent until the first one fails: training until the
quality test and its measurement, anchor after anchor, and the steps of gradient ascent in the first anchor; a layer that passes pays
for the tests on top of its training. A multiplication of a training step counts three times (forward, and twice that backward), of
a step of the stability test nine times. The saving is the ratio of the two sums over all layers that were trained.`
      .replaceAll(/([^\n])\n([^\n])/g, "$1 $2"),
  cost: {
    smoke: "2 cores: a quarter of a minute (wasm)",
    laptop: "2 cores: an hour (wasm), a third of that after evonorm/search and evonorm/random-layers",
    paper: "12 searches of thousands of trainings of full-depth networks: a cluster (not measured)",
  },
  ...madeOfCandidates,
  trials: (scale, options) => [
    ...randomLayerTrials(scale, options),
    ...searchTrials(scale, SETTINGS[scale].rejectionSearches, SETTINGS[scale].rejectionWork, options),
  ],
  run: (trial, context) =>
    trial.params["layer"] === "random" ? runRandomLayerTrial(trial, context) : runSearchTrial(trial, context),
  tables: rejectionTables,
  figures: rejectionFigures,
  claims: rejectionClaims,
};
