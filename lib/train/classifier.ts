/** Training and testing an image classifier. */
import * as tf from "@tensorflow/tfjs";
import { variableGradients } from "../tensor/mod.ts";
import { crossEntropy } from "./cross_entropy.ts";
import type { Schedule } from "./schedule.ts";
import { Sgd, type SgdOptions, type Trainable } from "./sgd.ts";

/** Images [size, height, width, channels], already normalised, with their class indices [size]. */
export interface LabelledBatch {
  readonly images: Float32Array;
  readonly labels: Int32Array;
  readonly size: number;
  readonly height: number;
  readonly width: number;
  readonly channels: number;
}

/** A batch on the backend: images [size, height, width, channels], labels [size]. */
export function upload(
  { images, labels, size, height, width, channels }: LabelledBatch,
): [tf.Tensor4D, tf.Tensor1D] {
  return [tf.tensor4d(images, [size, height, width, channels]), tf.tensor1d(labels, "int32")];
}

/** What can be trained: any object with parameters and logits. */
export interface Classifier {
  readonly parameters: readonly Trainable[];
  forward(x: tf.Tensor4D, training: boolean): tf.Tensor2D;
}

/** Settings of {@linkcode trainClassifier}. */
export interface TrainOptions extends SgdOptions {
  schedule: Schedule;
  /** Share of the target spread over all classes. Default 0. */
  labelSmoothing?: number;
  /** Called after each step with the loss of that step's batch. Return a promise to let other work in between. */
  onStep?: (step: number, loss: number) => void | Promise<void>;
  signal?: AbortSignal;
}

/** How a training ended. */
export interface TrainResult {
  steps: number;
  /** Loss of the last batch. */
  loss: number;
  /** The step whose loss was not finite: training stops there, as a result and not as an error. Null when all went well. */
  divergedAt: number | null;
}

/**
 * Trains on each batch in turn with SGD until the batches end, the loss is not finite, or the signal aborts.
 *
 * @throws whatever the signal's reason is, when aborted
 */
export async function trainClassifier(
  model: Classifier,
  batches: Iterable<LabelledBatch>,
  options: TrainOptions,
): Promise<TrainResult> {
  const optimizer = new Sgd(model.parameters, options);
  let steps = 0;
  let loss = NaN;
  try {
    for (const batch of batches) {
      options.signal?.throwIfAborted();
      loss = await trainStep(model, optimizer, batch, options.schedule(steps), options.labelSmoothing ?? 0);
      await options.onStep?.(steps, loss);
      steps++;
      if (!Number.isFinite(loss)) return { steps, loss, divergedAt: steps - 1 };
    }
    return { steps, loss, divergedAt: null };
  } finally {
    optimizer.dispose();
  }
}

/** One step of SGD; returns the loss before it. A loss that is not finite leaves the parameters as they were. */
export async function trainStep(
  model: Classifier,
  optimizer: Sgd,
  batch: LabelledBatch,
  rate: number,
  labelSmoothing = 0,
): Promise<number> {
  const { value, grads } = tf.tidy(() => {
    const [images, labels] = upload(batch);
    return variableGradients(
      () => crossEntropy(model.forward(images, true), labels, labelSmoothing),
      optimizer.variables,
    );
  });
  const [loss] = await value.data();
  if (Number.isFinite(loss)) optimizer.step(grads, rate);
  tf.dispose([value, grads]);
  return loss!;
}

/** Accuracy and loss over a test set. */
export interface Evaluation {
  /** Share of images whose largest logit is the right class, in [0, 1]. */
  top1: number;
  /** Mean cross-entropy. */
  loss: number;
}

/** Top-1 accuracy and mean cross-entropy in inference mode. A model that gives NaN scores no hit. */
export async function evaluateClassifier(
  model: Classifier,
  batches: Iterable<LabelledBatch>,
): Promise<Evaluation> {
  let hits = 0;
  let total = 0;
  let lossSum = 0;
  for (const batch of batches) {
    const output = tf.tidy(() => {
      const [images, labels] = upload(batch);
      const logits = model.forward(images, false);
      return { logits, loss: crossEntropy(logits, labels) };
    });
    hits += countHits(await output.logits.data() as Float32Array, batch.labels);
    lossSum += (await output.loss.data())[0]! * batch.size;
    total += batch.size;
    tf.dispose(output);
  }
  return { top1: hits / total, loss: lossSum / total };
}

function countHits(logits: Float32Array, labels: Int32Array): number {
  const classes = logits.length / labels.length;
  let hits = 0;
  labels.forEach((label, image) => {
    const scores = logits.subarray(image * classes, (image + 1) * classes);
    const target = scores[label]!;
    // A strict comparison fails for NaN; a tie counts only for the first class, as an argmax does.
    if (
      scores.every((score, index) => index === label || (index < label ? score < target : score <= target))
    ) hits++;
  });
  return hits;
}
