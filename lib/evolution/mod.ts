/**
 * Evolution of layer graphs, and of anything else that can be drawn, mutated and scored.
 *
 * - **Draw**: {@link graphSpace} has the sequential random graphs and the three-step mutation of "Evolving
 *   Normalization-Activation Layers" (arXiv 2004.02967), under {@link GraphConstraints}.
 * - **Select**: {@link winner} of a {@link tournament} by Pareto front over several anchors, by average or by one; the
 *   {@link Population} is the window of the newest candidates that passed every test.
 * - **Search**: {@link search} proposes candidates, skips those that do not use their input or compute what is known,
 *   has the others evaluated (in {@link inStages | stages}, cheapest first), and enters results in order of
 *   submission. Random search is `freshShare: 1`; without rejection, `screen: false, reuse: false` and an evaluation
 *   without tests.
 * - **Keep**: every candidate is one record of a {@link Journal}; a journal is enough to go on. {@link toColumns} lays
 *   records out as a table.
 * - **After the search**: {@link bestCandidates}, {@link rerank}, {@link bestSoFar}.
 *
 * Random numbers come from {@link Draws} given as an argument, so that a seed decides everything.
 *
 * ```ts
 * import { graphSpace, search } from "@normlab/normlab/evolution";
 * import { active } from "@normlab/normlab/graph";
 * import { stream } from "@normlab/normlab/tensor";
 *
 * const { progress } = await search({
 *   draws: stream(1),
 *   identity: { seed: 1 },
 *   space: graphSpace({ constraints: { noBatchStatistics: true } }),
 *   anchors: ["size"],
 *   stages: ["count"],
 *   evaluate: ({ genotype }) => ({ scores: [active(genotype).length], stages: [{ name: "count", seconds: 0 }] }),
 *   budget: { evaluations: 200 },
 * });
 * console.log(progress.best?.scores); // the largest active graph
 * ```
 *
 * @module
 */
export { type Draws, integerBelow, oneOf, subset } from "./draws.ts";
export { type GraphConstraints, type Operation, operationName, operations } from "./constraints.ts";
export { graphSpace, type GraphSpaceOptions, INACTIVE, mutateGraph, randomGraph } from "./graph_space.ts";
export {
  average,
  type Criterion,
  criterionValue,
  dominates,
  paretoFront,
  tournamentSize,
  winner,
} from "./selection.ts";
export { type Member, Population, tournament } from "./population.ts";
export {
  type CandidateRecord,
  costOf,
  type Evaluation,
  fromColumns,
  type Origin,
  ownStages,
  type RecordColumn,
  type RecordColumns,
  recordColumns,
  type RecordNames,
  repeatableColumns,
  type StageOutcome,
  toColumns,
  wasEvaluated,
} from "./record.ts";
export { foreignJournal, type Journal, MemoryJournal } from "./journal.ts";
export type { Budget, ResolvedSettings, SearchSettings, Space } from "./settings.ts";
export type { SearchProgress } from "./_progress.ts";
export { type Candidate, search, searchIdentity, type SearchOptions, type SearchResult } from "./search.ts";
export { inStages, type Stage, type StageVerdict } from "./staged.ts";
export { bestCandidates, bestSoFar, rank, rerank, type Reranked } from "./ranking.ts";
