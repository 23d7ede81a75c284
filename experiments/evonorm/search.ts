/**
 * evonorm/search: evolution of layers against random search, at equal cost.
 *
 * Cost: smoke half a minute on 2 cores (wasm), laptop about an hour on 2 cores (wasm), paper thousands of
 * trainings of three full-depth networks per search. Expect at laptop scale: one random layer in forty passes the tests,
 * and all searches end at a tanh or a ReLU.
 */
import type { Experiment } from "../../lib/experiment/mod.ts";
import { madeOfCandidates } from "./_made_of_candidates.ts";
import { searchClaims, searchFigures, searchTables } from "./_search_results.ts";
import { SETTINGS } from "./_search_settings.ts";
import { isSearch, layerFiles } from "./_search_views.ts";
import { publishedTrials, runSearchTrial, searchTrials } from "./_search_trial.ts";

/** What searches are compared with. */
const BASELINES = ["BN-ReLU", "GN-ReLU", "EvoNorm-B0", "EvoNorm-S0"] as const;

/** Evolution and random search over layer graphs, and what became of the best layers. */
export const searches: Experiment = {
  id: "evonorm/search",
  title: "Evolution of layers against random search",
  source: "Evolving Normalization-Activation Layers (arXiv 2004.02967), section 4",
  module: import.meta.url,
  summary:
    `Layers are graphs of 10 nodes over the paper's primitives. Each candidate is trained in several anchor networks on CIFAR-10 images;
its scores are the accuracies on held-out images. A candidate is rejected if its output does not depend on its input, if its accuracy
after a few steps is too low in one of the anchors, or if gradient ascent drives the norm of the loss gradient in the first anchor
beyond 1e8; one that computes the same as an earlier one takes its result. Evolution: a tournament over the newest accepted layers, a random
member of its Pareto front mutated twice, half of the offspring replaced by fresh random layers. Random search draws fresh layers only and
rejects by the same tests. Searches have the same budget in multiplications of the networks' convolutions, rejected candidates included, so
that a cheap rejection is an advantage. All candidates of a seed share held-out images, initial weights and order of images, and
searches of the same seed meet the same random layers.

After a search its best layers, by Pareto front and then by mean accuracy, are ranked again: trained for longer, by other seeds, and measured on
other held-out images. The first of them is then trained anew on all training images and measured on the test images, in all
anchors and one that no search has seen, beside BN-ReLU, GN-ReLU, EvoNorm-B0 and EvoNorm-S0 in the same way: the accuracy that selected a
layer is not counted for it. One search sees the ResNet alone; one has tournaments won by the highest average.

Deviations from the paper. Its search had 5,000 workers for two days, anchors of full depth and thousands of steps each. At laptop scale
two anchors have a block per stage and are trained for 240 steps on 16x16 crops of 4,500 images; windows and tournaments are smaller to match.
In which anchors the tests are run, how populations start, and what becomes of duplicates is not published; the choices here are options of the
search.

What a small proxy can say: whether evolution uses its budget better than random search on this task. Which layers it finds is a matter
of the task: layers that train fast in small networks, not necessarily those that end best in large ones.`
      .replaceAll(/([^\n])\n([^\n])/g, "$1 $2"),
  cost: {
    smoke: "2 cores: half a minute (wasm)",
    laptop: "2 cores: an hour (wasm)",
    paper: "15 searches of thousands of trainings of full-depth networks: a cluster (not measured)",
  },
  ...madeOfCandidates,
  trials(scale, options) {
    const { searches, work } = SETTINGS[scale];
    const seeds = Math.max(...searches.map(({ seeds }) => seeds));
    return [
      ...searchTrials(scale, searches, work, options),
      ...publishedTrials(scale, BASELINES, seeds, options),
    ];
  },
  run: runSearchTrial,
  tables: searchTables,
  figures: searchFigures,
  claims: searchClaims,
  files: ({ trials }) => layerFiles(trials.filter(isSearch)),
};

// What the command `search` is made of.
export {
  bestLayers,
  type FoundLayer,
  foundLayers,
  type LayerEntry,
  layerEntry,
  layersText,
} from "./_found_layers.ts";
export { candidates, fetchImages } from "./_search_candidate.ts";
export { ArrowJournal, readRecords, writeHistory } from "./_search_journal.ts";
export {
  CONSTRAINTS,
  criterionOf,
  namesOf,
  progressWords,
  searchOptions,
  type SearchSetting,
} from "./_search_run.ts";
export { SETTINGS, taskOf } from "./_search_settings.ts";
export { rankAgain } from "./_search_trial.ts";
