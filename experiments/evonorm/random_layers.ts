/**
 * evonorm/random-layers: how good random layers are, and whether one that works in a network works in another.
 *
 * Cost: smoke a quarter of a minute on 2 cores (wasm), laptop a quarter of an hour on 2 cores (wasm), paper 15,000
 * trainings of full-depth networks. Expect: most random layers do not learn at all.
 */
import type { Experiment } from "../../lib/experiment/mod.ts";
import { madeOfCandidates } from "./_made_of_candidates.ts";
import { randomLayerClaims, randomLayerFigures, randomLayerTables } from "./_random_layers_results.ts";
import { publishedLayerTrials, randomLayerTrials, runRandomLayerTrial } from "./_random_layers_trial.ts";

const PUBLISHED = ["BN-ReLU", "GN-ReLU", "EvoNorm-B0", "EvoNorm-S0"] as const;

/** Random layers in three networks. */
export const randomLayers: Experiment = {
  id: "evonorm/random-layers",
  title: "Random layers in three networks",
  source: "Evolving Normalization-Activation Layers (arXiv 2004.02967), section 3",
  module: import.meta.url,
  summary:
    `Layer graphs of 10 nodes are drawn at random, as the search draws them. Those whose output does not depend on the input, and those that
compute the same as an earlier one, are counted and put aside; every other one is trained to the end in three anchor networks on CIFAR-10 images,
whatever it looks like on the way, and measured on held-out images. The tests of the search are made as well, but reject nothing. BN-ReLU,
GN-ReLU, EvoNorm-B0 and EvoNorm-S0 are trained in the same way.

Deviations from the paper, which drew 5,000 layers and trained anchors of full depth: at laptop scale a few hundred layers, anchors with a block
per stage, 240 steps on 16x16 crops. A training ends where its loss is not finite; such a network is counted as one that learnt
nothing.`.replaceAll(/([^\n])\n([^\n])/g, "$1 $2"),
  cost: {
    smoke: "2 cores: a quarter of a minute (wasm)",
    laptop: "2 cores: a quarter of an hour (wasm)",
    paper: "15,000 trainings of full-depth networks: a cluster (not measured)",
  },
  ...madeOfCandidates,
  trials: (scale, options) => [
    ...randomLayerTrials(scale, options),
    ...publishedLayerTrials(scale, PUBLISHED, options),
  ],
  run: runRandomLayerTrial,
  tables: randomLayerTables,
  figures: randomLayerFigures,
  claims: randomLayerClaims,
};
