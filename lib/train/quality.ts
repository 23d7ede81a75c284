/** The quality test of EvoNorm's search: a training that is given up early where it gets nowhere. */
import {
  type Classifier,
  evaluateClassifier,
  type LabelledBatch,
  trainClassifier,
  type TrainOptions,
  type TrainResult,
} from "./classifier.ts";

/** When and by what a training is judged. */
export interface QualityTest {
  /** Images that are not trained on. */
  validation: Iterable<LabelledBatch>;
  classes: number;
  /** Steps of training before the test. Default 100, the paper's. */
  after?: number;
  /** The least accuracy, in [0, 1]. Default 2 / classes, twice chance: the 20% of the paper for the ten classes of CIFAR-10. */
  threshold?: number;
}

/** A verdict and what it cost. */
export interface QualityVerdict {
  /** Share of the validation images that are classified right; null if the loss was not finite before the test. */
  readonly accuracy: number | null;
  readonly threshold: number;
  readonly rejected: boolean;
  /** Steps of training before the verdict: fewer than asked for if the batches ended or the loss was not finite. */
  readonly steps: number;
  /** What training until the verdict and the evaluation cost, in seconds. */
  readonly seconds: number;
}

/**
 * Trains as {@linkcode trainClassifier} does, and after some steps measures the accuracy on validation images: below the threshold the
 * training ends (Liu, Brock, Simonyan, Le 2020). A training that passes goes on, so that the test costs it one evaluation.
 *
 * @throws {RangeError} if an option is out of range
 * @throws whatever the signal's reason is, when aborted
 */
export async function trainWithQualityTest(
  model: Classifier,
  batches: Iterable<LabelledBatch>,
  options: TrainOptions & { quality: QualityTest },
): Promise<TrainResult & { quality: QualityVerdict }> {
  const { quality: { validation, classes, after = 100, threshold = 2 / classes } } = options;
  check("after", "a positive integer", Number.isInteger(after) && after >= 1, after);
  check("threshold", "a number in [0, 1]", threshold >= 0 && threshold <= 1, threshold);
  const start = performance.now();
  let verdict: QualityVerdict | null = null;
  const judge = async (steps: number, diverged: boolean) => {
    const accuracy = diverged ? null : (await evaluateClassifier(model, validation)).top1;
    const rejected = accuracy === null || !(accuracy >= threshold);
    verdict = { accuracy, threshold, rejected, steps, seconds: (performance.now() - start) / 1000 };
    return verdict;
  };
  const result = await trainClassifier(model, unlessRejected(batches, () => verdict), {
    ...options,
    async onStep(step, loss) {
      await options.onStep?.(step, loss);
      if (step + 1 === after) await judge(after, !Number.isFinite(loss));
    },
  });
  return { ...result, quality: verdict ?? await judge(result.steps, result.divergedAt !== null) };
}

/** The batches until a verdict rejects. */
function* unlessRejected(
  batches: Iterable<LabelledBatch>,
  verdict: () => QualityVerdict | null,
): Generator<LabelledBatch> {
  for (const batch of batches) {
    if (verdict()?.rejected) return;
    yield batch;
  }
}

function check(name: string, wanted: string, holds: boolean, value: number): void {
  if (!holds) {
    throw new RangeError(`Cannot test quality as '${name}' must be ${wanted}: current value is ${value}`);
  }
}
