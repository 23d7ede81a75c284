import type { Evaluation, StageOutcome } from "./record.ts";
import type { Candidate } from "./search.ts";

/** What one stage of an evaluation says: the candidate fails here, has its scores, or goes on to the next stage. */
export interface StageVerdict {
  /** Whether the candidate goes on to the next stage, or is accepted by the last. */
  readonly passed: boolean;
  /** Of the last stage. */
  readonly scores?: readonly number[];
  /** Deterministic cost, default 0. */
  readonly work?: number;
  /** What was measured. */
  readonly value?: number;
}

/** One stage: a test, or the training that gives the scores. */
export interface Stage<G> {
  /** One of the search's stages; a candidate that fails is rejected by this name. */
  readonly name: string;
  /** Tests, or trains and scores. */
  run(candidate: Candidate<G>, signal: AbortSignal): StageVerdict | Promise<StageVerdict>;
}

/**
 * An evaluation made of stages, cheapest first: a candidate that fails one is rejected by its name, and the ones after
 * it cost nothing. The last stage gives the scores. Each stage is timed.
 *
 * @throws {TypeError} The last stage passed a candidate without scores.
 */
export function inStages<G>(
  stages: readonly Stage<G>[],
): (candidate: Candidate<G>, signal: AbortSignal) => Promise<Evaluation> {
  return async (candidate, signal) => {
    const outcomes: StageOutcome[] = [];
    let scores: readonly number[] | undefined;
    for (const stage of stages) {
      const began = performance.now();
      const verdict = await stage.run(candidate, signal);
      const { work = 0, value = NaN } = verdict;
      outcomes.push({ name: stage.name, work, value, seconds: (performance.now() - began) / 1000 });
      if (!verdict.passed) return { rejectedBy: stage.name, stages: outcomes };
      scores = verdict.scores;
    }
    if (scores !== undefined) return { scores, stages: outcomes };
    throw new TypeError(
      `Cannot evaluate in stages as the last one must give scores: current last stage is ${
        stages.at(-1)?.name ?? "none"
      }`,
    );
  };
}
