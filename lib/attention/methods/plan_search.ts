/** The greedy search of DiTFastAttn: for each step and layer the cheapest choice that changes the model's output little enough. */
import type { PlanChoice } from "./plan.ts";

/** The candidates in the order in which they are tried: the cheapest first. */
export const planCandidates: readonly PlanChoice[] = [
  "output_share",
  "residual_window_attn+cfg_attn_share",
  "residual_window_attn",
  "full_attn+cfg_attn_share",
];

/** One candidate of a search. */
export interface PlanTrial {
  readonly step: number;
  readonly layer: number;
  readonly choice: PlanChoice;
  readonly loss: number;
  /** `(layer + 1) / layers * threshold`. */
  readonly limit: number;
  /** Whether the loss is below the limit. */
  readonly accepted: boolean;
}

/** Settings of {@linkcode searchPlan}. */
export interface PlanSearchOptions {
  readonly layers: number;
  readonly steps: number;
  /** The paper's delta: 0.025 (D1), 0.05, ..., 0.15 (D6). */
  readonly threshold: number;
  /** Default {@linkcode planCandidates}. */
  readonly candidates?: readonly PlanChoice[];
  /**
   * The output of the whole model at `step` if its layers do `choices`, from where the last `advance` left the run, all calibration prompts and
   * both halves of the guided batch; leaves the run as it is. See `ditfastattnTrial` and `copyState`.
   */
  output(step: number, choices: readonly PlanChoice[]): Promise<ArrayLike<number>> | ArrayLike<number>;
  /** Makes `step` with `choices`, for good: layers keep their residuals and outputs, the sampler goes on. */
  advance(step: number, choices: readonly PlanChoice[]): Promise<void> | void;
  /** Default {@linkcode planLoss}. */
  readonly loss?: (full: ArrayLike<number>, compressed: ArrayLike<number>) => number;
  /** Called after each candidate. */
  readonly onTrial?: (trial: PlanTrial) => void;
}

/** What a search found. */
export interface PlanSearchResult {
  /** [layers][steps] */
  readonly table: PlanChoice[][];
  readonly trials: PlanTrial[];
}

/**
 * DiTFastAttn's plan. Step 0 is full. At each later step the output with all layers full is the reference; then layer after layer takes
 * the first candidate whose output, with the choices made for the layers before it, has a loss below `(layer + 1) / layers * threshold`, else
 * stays full.
 *
 * @throws {RangeError} on sizes that are no whole numbers, or a threshold that is not above 0
 */
export async function searchPlan(options: PlanSearchOptions): Promise<PlanSearchResult> {
  const { layers, steps, threshold, candidates = planCandidates, output, advance, loss = planLoss } = options;
  for (const [name, value] of Object.entries({ layers, steps })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new RangeError(
        `Cannot search a plan as '${name}' must be a whole number above 0: current ${name} is ${value}`,
      );
    }
  }
  if (!(threshold > 0)) {
    throw new RangeError(
      `Cannot search a plan as 'threshold' must be above 0: current threshold is ${threshold}`,
    );
  }
  const table: PlanChoice[][] = Array.from({ length: layers }, () => []);
  const trials: PlanTrial[] = [];
  for (let step = 0; step < steps; step++) {
    const choices = Array.from({ length: layers }, (): PlanChoice => "full_attn");
    if (step > 0) {
      const full = await output(step, choices);
      for (let layer = 0; layer < layers; layer++) {
        const limit = (layer + 1) / layers * threshold;
        for (const choice of candidates) {
          const tried = choices.with(layer, choice);
          const found = loss(full, await output(step, tried));
          const trial = { step, layer, choice, loss: found, limit, accepted: found < limit };
          trials.push(trial);
          options.onTrial?.(trial);
          if (trial.accepted) {
            choices[layer] = choice;
            break;
          }
        }
      }
    }
    await advance(step, choices);
    choices.forEach((choice, layer) => table[layer]!.push(choice));
  }
  return { table, trials };
}

/**
 * The loss of the official code: the mean of `|(full - compressed) / (max(full, compressed) + 1e-6)|`, each at most 10. The maximum is signed and
 * the absolute value is of the quotient, so that elements with two negative values count too.
 *
 * @throws {TypeError} on outputs of different sizes, or none
 */
export function planLoss(full: ArrayLike<number>, compressed: ArrayLike<number>): number {
  if (full.length !== compressed.length || full.length === 0) {
    throw new TypeError(
      `Cannot compare outputs as both must have the same elements: current sizes are ${full.length} and ${compressed.length}`,
    );
  }
  let sum = 0;
  for (let i = 0; i < full.length; i++) {
    const [a, b] = [full[i]!, compressed[i]!];
    sum += Math.min(Math.abs((a - b) / (Math.max(a, b) + 1e-6)), 10);
  }
  return sum / full.length;
}
