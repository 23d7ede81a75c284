/** Implicit sampling: DDIMScheduler. */
import type { Scheduler } from "../types.ts";
import { defineScheduler, type Plan } from "./_define.ts";
import { cumulativeAlphas, f32, readBetas, zeroTerminalByBetas } from "./_noise_levels.ts";
import {
  addScaled,
  clip,
  combine,
  type Levels,
  predictNoise,
  predictOriginal,
  readPrediction,
} from "./_predictions.ts";
import type { Settings } from "./_settings.ts";
import { readSpacing, spacedTimesteps } from "./_timesteps.ts";

interface DdimPlan extends Plan {
  readonly stages: readonly {
    readonly levels: Levels;
    /** Weights of the predicted original and of the predicted noise. */
    readonly original: number;
    readonly direction: number;
    /** Standard deviation of the noise added. */
    readonly deviation: number;
  }[];
}

/**
 * x_{t'} = sqrt(a') x_0 + sqrt(1 - a' - sigma^2) e + sigma noise, t' = t - timesteps // steps (past the end: alpha 1, or that of timestep 0),
 * sigma = eta sqrt((1-a') / (1-a) (1 - a/a')). `eta` 0, the default: without noise.
 *
 * Source: Song et al., arXiv 2010.02502, equations 12 and 16; `DDIMScheduler` of diffusers.
 * @throws {RangeError} on settings that are not supported, or an `eta` outside of [0, 1]
 */
export function ddim(settings: Settings, eta: number): Scheduler {
  const spacing = readSpacing(settings, "leading");
  const betas = readBetas(settings, { start: 1e-4, end: 0.02, schedule: "linear" }, f32);
  const zeroSnr = settings.flag("rescale_betas_zero_snr", false);
  const alphas = zeroSnr ? zeroTerminalByBetas(betas, f32) : cumulativeAlphas(betas, f32);
  const alphaEnd = settings.flag("set_alpha_to_one", true) ? 1 : alphas[0]!;
  const prediction = readPrediction(settings);
  const clipRange = settings.flag("clip_sample", true) ? settings.number("clip_sample_range", 1, 0) : null;
  settings.only({ thresholding: false });
  settings.unused("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value");
  if (zeroSnr && prediction === "epsilon") {
    settings.refuse("prediction_type", "v_prediction or sample with rescale_betas_zero_snr");
  }

  const stage = (timestep: number, next: number) => {
    const alpha = alphas[timestep]!;
    const alphaNext = next >= 0 ? alphas[next]! : alphaEnd;
    const beta = f32(1 - alpha);
    const betaNext = f32(1 - alphaNext);
    const variance = f32(f32(betaNext / beta) * f32(1 - f32(alpha / alphaNext)));
    const deviation = f32(f32(eta) * f32(Math.sqrt(variance)));
    return {
      levels: { signal: f32(Math.sqrt(alpha)), noise: f32(Math.sqrt(beta)) },
      original: f32(Math.sqrt(alphaNext)),
      direction: f32(Math.sqrt(f32(betaNext - f32(deviation * deviation)))),
      deviation,
    };
  };
  return defineScheduler<DdimPlan>({
    name: "DDIMScheduler",
    settings,
    alphasCumprod: Float32Array.from(alphas),
    trainTimesteps: spacing.trainTimesteps,
    plan(steps) {
      const timesteps = spacedTimesteps(spacing, steps);
      const stride = Math.floor(spacing.trainTimesteps / steps);
      return { timesteps, stages: timesteps.map((timestep) => stage(timestep, timestep - stride)) };
    },
    noisy: ({ stages }, step) => stages[step]!.deviation > 0,
    compute({ stages }, step, { output, sample, noise }) {
      const { levels, original, direction, deviation } = stages[step]!;
      const predictedOriginal = predictOriginal(prediction, levels, output, sample);
      const predictedNoise = predictNoise(prediction, levels, output, sample, predictedOriginal);
      // As there: the noise is not predicted anew from what clipping leaves.
      if (clipRange !== null) clip(predictedOriginal, clipRange);
      const previous = combine(original, predictedOriginal, direction, predictedNoise);
      if (noise) addScaled(previous, deviation, noise);
      return { previous, predictedOriginal };
    },
  });
}
