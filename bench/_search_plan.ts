/** What the evaluation of a candidate consisted of, read from the work that its record has: what a peer must do for the same. */
import { PASSES, STABILITY_BATCH, type Task } from "../experiments/evonorm/_search_candidate.ts";
import type { StageOutcome } from "../lib/evolution/mod.ts";
import { type AnchorName, anchors } from "../lib/models/mod.ts";

/** Training in one anchor: steps, and whether its accuracy was measured after them. */
export interface AnchorPlan {
  readonly steps: number;
  readonly evaluated: boolean;
}

/** One stage: training in the anchors that were reached, or so many norms of the gradient. */
export type StagePlan =
  & { readonly name: string }
  & ({ readonly anchors: AnchorPlan[] } | { readonly norms: number });

/**
 * The stages that were run, with the steps in each anchor.
 *
 * @throws {RangeError} The work of a stage is not that of whole steps of this task.
 */
export function stagePlans(stages: readonly Pick<StageOutcome, "name" | "work">[], task: Task): StagePlan[] {
  const names = task.anchors.split("+") as AnchorName[];
  const work = (name: AnchorName, images: number, side: number) =>
    anchors[name][task.form].multiplications * (side / 32) ** 2 * images / 1e9;
  const step = (name: AnchorName) => PASSES.training * work(name, task.batch, task.crop);
  const training = (spent: number, most: number): AnchorPlan[] => {
    const plans: AnchorPlan[] = [];
    let left = spent;
    for (const name of names) {
      if (left < step(name) / 2) break;
      const whole = most * step(name) + PASSES.test * work(name, task.validation, task.testCrop);
      // The sums were rounded: what is a step short of the whole is well below it.
      const evaluated = left > whole - step(name) / 1e3;
      plans.push(evaluated ? { steps: most, evaluated } : { steps: wholeSteps(left, step(name)), evaluated });
      left = evaluated ? left - whole : 0;
    }
    return plans;
  };
  return stages.map(({ name, work: spent = 0 }): StagePlan => {
    switch (name) {
      case "quality":
        return { name, anchors: training(spent, task.quality) };
      case "stability":
        return {
          name,
          norms: wholeSteps(spent, PASSES.stability * work(names[0]!, STABILITY_BATCH, task.crop)),
        };
      case "training":
        return { name, anchors: training(spent, task.steps - task.quality) };
      default:
        throw new RangeError(
          `Cannot plan a candidate as each stage must be quality, stability or training: current stage is ${name}`,
        );
    }
  });
}

function wholeSteps(spent: number, step: number): number {
  const steps = Math.round(spent / step);
  if (steps >= 1 && Math.abs(spent / step - steps) < 1e-3) return steps;
  throw new RangeError(
    `Cannot plan a candidate as its work must be that of whole steps: current work is ${spent / step} steps`,
  );
}
