/** A search over layer graphs whose evaluations are trials: what the experiment and the command have in common. */
import {
  type Criterion,
  type Evaluation,
  graphSpace,
  type RecordNames,
  type SearchOptions,
  type SearchProgress,
  type Space,
} from "../../lib/evolution/mod.ts";
import { type Trial, type TrialOutcome, WorkerDeath } from "../../lib/experiment/mod.ts";
import { type LayerGraph, toJSON } from "../../lib/graph/mod.ts";
import { stream } from "../../lib/tensor/mod.ts";
import { candidateTrial, CRASH, evaluationOf, STAGES, type Task } from "./_search_candidate.ts";

/** How one search moves. A type: it becomes params. */
export type SearchSetting = {
  /** `random`: fresh layers only, rejected by the same tests. */
  readonly method: "evolution" | "random";
  /** `no-batch`: no moment over the batch, the paper's S series. */
  readonly constraint: "none" | "no-batch";
  /** `pareto`, `average`, or the anchor that alone decides. */
  readonly criterion: string;
  readonly window: number;
  readonly initialMembers: number;
  readonly tournamentShare: number;
  readonly lookAhead: number;
};

/** Constraints as they are named. */
export const CONSTRAINTS = ["none", "no-batch"] as const;

/** The layer graphs that a search runs over. */
export function spaceOf(constraint: SearchSetting["constraint"]): Space<LayerGraph> {
  return graphSpace(constraint === "no-batch" ? { constraints: { noBatchStatistics: true } } : {});
}

/** Columns of a search's records. */
export const namesOf = (task: Task): RecordNames => ({ anchors: task.anchors.split("+"), stages: STAGES });

/** @throws {RangeError} It is neither a name nor an anchor. */
export function criterionOf(name: string, task: Task): Criterion {
  if (name === "pareto" || name === "average") return name;
  const names = task.anchors.split("+");
  if (names.includes(name)) return { anchor: names.indexOf(name) };
  throw new RangeError(
    `Cannot search as the criterion must be one of pareto, average, ${
      names.join(", ")
    }: current criterion is "${name}"`,
  );
}

/** The options of a search that all of its callers share; `run` evaluates. */
export function searchOptions(
  { seed, setting, task, backend, run }: {
    seed: number;
    setting: SearchSetting;
    task: Task;
    /** Its arithmetic decides the scores. */
    backend: string;
    run(trial: Trial): Promise<TrialOutcome>;
  },
): Omit<SearchOptions<LayerGraph>, "budget"> {
  const { method, constraint, criterion, ...moves } = setting;
  return {
    draws: stream(seed).child("search"),
    space: spaceOf(constraint),
    identity: { seed, constraint, backend, task },
    ...namesOf(task),
    settings: {
      ...moves,
      criterion: criterionOf(criterion, task),
      freshShare: method === "random" ? 1 : 0.5,
    },
    evaluate: ({ genotype }) => evaluate(toJSON(genotype), task, seed, run),
  };
}

/** What a layer, as JSON or by name, is found to be; one that killed its process twice is rejected for that. */
export async function evaluate(
  layer: string,
  task: Task,
  seed: number,
  run: (trial: Trial) => Promise<TrialOutcome>,
): Promise<Evaluation> {
  const began = performance.now();
  try {
    return evaluationOf(await run(candidateTrial(layer, task, seed)), task);
  } catch (error) {
    if (!(error instanceof WorkerDeath)) throw error;
    return { rejectedBy: CRASH, stages: [{ name: "limit", seconds: (performance.now() - began) / 1000 }] };
  }
}

/** Where a search stands, in a line. */
export function progressWords<G>(progress: SearchProgress<G>): string {
  const { candidates, evaluated, accepted, rejected, duplicates, best, front } = progress;
  const tests = Object.entries(rejected).sort(([a], [b]) => (a < b ? -1 : 1));
  const parts = [
    `${candidates} layers`,
    `${evaluated} evaluated`,
    `${accepted} accepted`,
    ...tests.map(([name, count]) => `${count} ${name}`),
    `${duplicates} duplicate${duplicates === 1 ? "" : "s"}`,
  ];
  if (best !== null) {
    const scores = best.scores.map((score) => `${(100 * score).toFixed(1)}%`).join(" ");
    parts.push(`best ${scores} (#${best.index}), front of ${front.length}`);
  }
  return parts.join(", ");
}
