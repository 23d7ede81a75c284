/** From the output of a model to the clean latents and the noise, element by element in float32. */
import { f32 } from "./_noise_levels.ts";
import type { Settings } from "./_settings.ts";

/** What the model's output stands for. v = signal * noise - noise level * original (Salimans and Ho, arXiv 2202.00512). */
export type PredictionType = "epsilon" | "sample" | "v_prediction";

/** The latents are signal * original + noise * standard normal: both float32. */
export interface Levels {
  readonly signal: number;
  readonly noise: number;
}

export function readPrediction(settings: Settings): PredictionType {
  return settings.choice("prediction_type", "epsilon", ["epsilon", "sample", "v_prediction"]);
}

/** The clean latents. */
export function predictOriginal(
  type: PredictionType,
  { signal, noise }: Levels,
  output: Float32Array,
  sample: Float32Array,
): Float32Array {
  switch (type) {
    case "epsilon":
      return sample.map((x, i) => f32(x - f32(noise * output[i]!)) / signal);
    case "sample":
      return output.slice();
    case "v_prediction":
      return combine(signal, sample, -noise, output);
  }
}

/** The noise in `sample`. */
export function predictNoise(
  type: PredictionType,
  { signal, noise }: Levels,
  output: Float32Array,
  sample: Float32Array,
  original: Float32Array,
): Float32Array {
  switch (type) {
    case "epsilon":
      return output;
    case "sample":
      return sample.map((x, i) => f32(x - f32(signal * original[i]!)) / noise);
    case "v_prediction":
      return combine(signal, output, noise, sample);
  }
}

/** a x + b y, each product rounded to float32. */
export function combine(a: number, x: Float32Array, b: number, y: Float32Array): Float32Array {
  return x.map((value, i) => f32(a * value) + f32(b * y[i]!));
}

/** a x added to `target`, in place. */
export function addScaled(target: Float32Array, a: number, x: Float32Array): void {
  for (let i = 0; i < target.length; i++) target[i]! += f32(a * x[i]!);
}

/** Keeps the elements within `range` of 0, in place. */
export function clip(values: Float32Array, range: number): void {
  for (let i = 0; i < values.length; i++) values[i] = Math.min(Math.max(values[i]!, -range), range);
}
