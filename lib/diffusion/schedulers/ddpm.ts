/** Ancestral sampling: DDPMScheduler. */
import type { Scheduler } from "../types.ts";
import { defineScheduler, type Plan } from "./_define.ts";
import { cumulativeAlphas, f32, readBetas, zeroTerminalByBetas } from "./_noise_levels.ts";
import { addScaled, clip, combine, type Levels, predictOriginal, readPrediction } from "./_predictions.ts";
import type { Settings } from "./_settings.ts";
import { readSpacing, spacedTimesteps } from "./_timesteps.ts";

interface DdpmPlan extends Plan {
  readonly stages: readonly {
    readonly levels: Levels;
    /** Weights of the predicted original and of the sample. */
    readonly original: number;
    readonly sample: number;
    /** Standard deviation of the noise added. */
    readonly deviation: number;
  }[];
}

/**
 * x_{t'} = sqrt(a') b / (1-a) x_0 + sqrt(c) (1-a') / (1-a) x_t + sigma noise, with c = a / a', b = 1 - c, and t' the next entry of the list
 * of timesteps; sigma^2 = b (1-a') / (1-a) ("fixed_small") or b ("fixed_large"); no noise at t = 0.
 *
 * Source: Ho et al., arXiv 2006.11239, equations 6 and 7; `DDPMScheduler` of diffusers.
 * @throws {RangeError} on settings that are not supported
 */
export function ddpm(settings: Settings): Scheduler {
  const spacing = readSpacing(settings, "leading");
  const betas = readBetas(settings, { start: 1e-4, end: 0.02, schedule: "linear" }, f32);
  const zeroSnr = settings.flag("rescale_betas_zero_snr", false);
  const alphas = zeroSnr ? zeroTerminalByBetas(betas, f32) : cumulativeAlphas(betas, f32);
  const prediction = readPrediction(settings);
  const variance = settings.choice("variance_type", "fixed_small", [
    "fixed_small",
    "fixed_small_log",
    "fixed_large",
  ]);
  const clipRange = settings.flag("clip_sample", true) ? settings.number("clip_sample_range", 1, 0) : null;
  settings.only({ thresholding: false });
  settings.unused("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value");
  if (zeroSnr && prediction === "epsilon") {
    settings.refuse("prediction_type", "v_prediction or sample with rescale_betas_zero_snr");
  }

  const stage = (timestep: number, next: number | undefined) => {
    const alpha = alphas[timestep]!;
    const alphaNext = next === undefined ? 1 : alphas[next]!;
    const beta = f32(1 - alpha);
    const betaNext = f32(1 - alphaNext);
    const stepAlpha = f32(alpha / alphaNext);
    const stepBeta = f32(1 - stepAlpha);
    const small = Math.max(f32(f32(betaNext / beta) * stepBeta), f32(1e-20));
    return {
      levels: { signal: f32(Math.sqrt(alpha)), noise: f32(Math.sqrt(beta)) },
      original: f32(f32(f32(Math.sqrt(alphaNext)) * stepBeta) / beta),
      sample: f32(f32(f32(Math.sqrt(stepAlpha)) * betaNext) / beta),
      deviation: timestep === 0 ? 0 : f32(Math.sqrt(variance === "fixed_large" ? stepBeta : small)),
    };
  };
  return defineScheduler<DdpmPlan>({
    name: "DDPMScheduler",
    settings,
    alphasCumprod: Float32Array.from(alphas),
    trainTimesteps: spacing.trainTimesteps,
    plan(steps) {
      const timesteps = spacedTimesteps(spacing, steps);
      return { timesteps, stages: timesteps.map((timestep, i) => stage(timestep, timesteps[i + 1])) };
    },
    noisy: ({ stages }, step) => stages[step]!.deviation > 0,
    compute({ stages }, step, { output, sample, noise }) {
      const { levels, original, sample: kept, deviation } = stages[step]!;
      const predictedOriginal = predictOriginal(prediction, levels, output, sample);
      if (clipRange !== null) clip(predictedOriginal, clipRange);
      const previous = combine(original, predictedOriginal, kept, sample);
      if (noise) addScaled(previous, deviation, noise);
      return { previous, predictedOriginal };
    },
  });
}
