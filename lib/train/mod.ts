/**
 * Training image classifiers: losses, SGD with momentum, learning-rate schedules, the loop, top-1 accuracy.
 *
 * A model is anything with parameters and logits ({@linkcode Classifier}); batches are anything iterable, so data sets and models
 * are given, not imported. A loss that is not finite ends a training with a result that says so.
 *
 * {@linkcode trainWithQualityTest} and {@linkcode classifierStability} are the two tests that a search rejects layers by.
 *
 * @module
 */
export {
  type Classifier,
  evaluateClassifier,
  type Evaluation,
  type LabelledBatch,
  trainClassifier,
  type TrainOptions,
  type TrainResult,
  trainStep,
} from "./classifier.ts";
export { crossEntropy } from "./cross_entropy.ts";
export { constant, cosine, type Schedule } from "./schedule.ts";
export { type QualityTest, type QualityVerdict, trainWithQualityTest } from "./quality.ts";
export {
  classifierStability,
  type GradientNorm,
  gradientNorm,
  type StabilityOptions,
  type StabilityResult,
  stabilityTest,
} from "./stability.ts";
export { Sgd, type SgdOptions, type Trainable } from "./sgd.ts";
