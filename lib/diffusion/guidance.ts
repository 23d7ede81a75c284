/** Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): what a model says with the condition, and beyond. */
import * as tf from "@tensorflow/tfjs";

/** Where in a run a model is called. */
export interface SamplingPlace {
  /** From 0. */
  readonly step: number;
  readonly steps: number;
  /** What the model is told: {@linkcode SchedulerState.timesteps}. */
  readonly timestep: number;
}

/**
 * A model as the sampling loop sees it: latents [batch, ...] to an output of the same shape, the scheduler's kind of prediction. The latents
 * stay the loop's, the output becomes the loop's, which disposes of it.
 */
export type ModelFunction = (latents: tf.Tensor, place: SamplingPlace) => tf.Tensor | Promise<tf.Tensor>;

/** How two halves of a batch become one. */
export interface Guidance {
  /** 1: the conditional output; above, away from the unconditional one. */
  readonly scale: number;
  /** Which half of the batch has the condition: the second in most pipelines, the first with DiT. Default "second". */
  readonly conditionalHalf?: "first" | "second";
  /** Of the output only the first so many channels (axis 1) are guided and kept: models that predict variances too. Default: all. */
  readonly channels?: number;
  /** Lets the scale rise over the run: {@linkcode dynamicGuidanceScale}. Default false. */
  readonly dynamic?: boolean;
}

/**
 * A model with guidance from one without: it is called with the latents twice over, [2 batch, ...], and its conditions must be those of both
 * halves; what comes out is u + scale (c - u), [batch, ...].
 * @throws {RangeError} `scale` is not finite, or `channels` is no positive whole number
 * @throws {TypeError} when called: an output that has not twice the batch, or not the channels
 */
export function guided(model: ModelFunction, guidance: Guidance): ModelFunction {
  const { scale, conditionalHalf = "second", channels, dynamic = false } = guidance;
  if (!Number.isFinite(scale)) {
    throw new RangeError(`Cannot guide as 'scale' must be finite: current scale is ${scale}`);
  }
  if (channels !== undefined && !(Number.isSafeInteger(channels) && channels > 0)) {
    throw new RangeError(
      `Cannot guide as 'channels' must be a positive whole number: current channels are ${channels}`,
    );
  }
  return async (latents, place) => {
    const twice = tf.concat([latents, latents]);
    let output: tf.Tensor;
    try {
      output = await model(twice, place);
    } finally {
      twice.dispose();
    }
    try {
      const batch = latents.shape[0]!;
      if (output.shape[0] !== 2 * batch) {
        throw new TypeError(
          `Cannot guide as the model's output must have a batch of ${2 * batch}: current shape is [${
            output.shape.join(", ")
          }]`,
        );
      }
      if (channels !== undefined && !(output.shape[1]! >= channels)) {
        throw new TypeError(
          `Cannot guide as the model's output must have ${channels} channels or more: current shape is [${
            output.shape.join(", ")
          }]`,
        );
      }
      const strength = dynamic ? dynamicGuidanceScale(scale, place.steps, place.timestep) : scale;
      return tf.tidy(() => {
        const kept = channels === undefined ? output : firstChannels(output, channels);
        const halves = tf.split(kept, 2) as [tf.Tensor, tf.Tensor];
        const [without, given] = conditionalHalf === "second" ? halves : halves.toReversed() as typeof halves;
        return tf.add(without, tf.mul(strength, tf.sub(given, without)));
      });
    } finally {
      output.dispose();
    }
  };
}

/**
 * The rising scale of the CogVideoX pipeline, `use_dynamic_cfg`: 1 + scale (1 - cos(pi ((steps - timestep) / steps)^5)) / 2. As published:
 * the timestep counts to 1000 while the steps are those of the run, so that early in a run the cosine turns over many times.
 */
export function dynamicGuidanceScale(scale: number, steps: number, timestep: number): number {
  return 1 + scale * ((1 - Math.cos(Math.PI * ((steps - timestep) / steps) ** 5)) / 2);
}

function firstChannels(output: tf.Tensor, channels: number): tf.Tensor {
  const rest = output.shape.slice(2);
  return tf.slice(output, output.shape.map(() => 0), [output.shape[0]!, channels, ...rest]);
}
