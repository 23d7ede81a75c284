/** The schedulers of CogVideoX: CogVideoXDDIMScheduler and CogVideoXDPMScheduler. Levels and coefficients in double, as there. */
import type { Scheduler } from "../types.ts";
import { type Arrays, defineScheduler, type Plan } from "./_define.ts";
import { cumulativeAlphas, f32, readBetas, zeroTerminal } from "./_noise_levels.ts";
import {
  addScaled,
  combine,
  type Levels,
  type PredictionType,
  predictOriginal,
  readPrediction,
} from "./_predictions.ts";
import type { Settings } from "./_settings.ts";
import { readSpacing, spacedTimesteps, type SpacingSettings } from "./_timesteps.ts";

/** What the two classes have in common. */
interface Common {
  readonly spacing: SpacingSettings;
  readonly alphas: Float64Array;
  readonly prediction: PredictionType;
  /** The alpha of the timestep that is a step later; past the end 1, or that of timestep 0. */
  next(timestep: number, steps: number): number;
}

const exact = (value: number) => value;

/** Levels moved by a <- a / (s + (1 - s) a), s = snr_shift_scale, then stretched to zero terminal SNR. */
function readCommon(settings: Settings): Common {
  const spacing = readSpacing(settings, "leading");
  const betas = readBetas(settings, { start: 0.00085, end: 0.012, schedule: "scaled_linear" }, exact);
  const shift = settings.number("snr_shift_scale", 3, 0);
  if (shift === 0) settings.refuse("snr_shift_scale", "above 0");
  const shifted = cumulativeAlphas(betas, exact).map((alpha) => alpha / (shift + (1 - shift) * alpha));
  const zeroSnr = settings.flag("rescale_betas_zero_snr", false);
  const alphas = zeroSnr ? zeroTerminal(shifted, exact) : shifted;
  const alphaEnd = settings.flag("set_alpha_to_one", true) ? 1 : alphas[0]!;
  const prediction = readPrediction(settings);
  // These classes have clipping among their settings and never clip.
  settings.unused("clip_sample", "clip_sample_range", "sample_max_value");
  if (zeroSnr && prediction === "epsilon") {
    settings.refuse("prediction_type", "v_prediction or sample with rescale_betas_zero_snr");
  }
  return {
    spacing,
    alphas,
    prediction,
    next(timestep, steps) {
      const next = timestep - Math.floor(spacing.trainTimesteps / steps);
      return next >= 0 ? alphas[next]! : alphaEnd;
    },
  };
}

function levelsOf(alpha: number): Levels {
  return { signal: f32(Math.sqrt(alpha)), noise: f32(Math.sqrt(1 - alpha)) };
}

interface DdimPlan extends Plan {
  readonly stages: readonly { readonly levels: Levels; readonly sample: number; readonly original: number }[];
}

/**
 * x_{t'} = s x_t + (sqrt(a') - s sqrt(a)) x_0 with s = sqrt((1-a') / (1-a)), which is DDIM without noise.
 *
 * Source: Yang et al., arXiv 2408.06072; `CogVideoXDDIMScheduler` of diffusers.
 * @throws {RangeError} on settings that are not supported
 */
export function cogVideoXDdim(settings: Settings): Scheduler {
  const { spacing, alphas, prediction, next } = readCommon(settings);
  return defineScheduler<DdimPlan>({
    name: "CogVideoXDDIMScheduler",
    settings,
    alphasCumprod: alphas,
    trainTimesteps: spacing.trainTimesteps,
    plan(steps) {
      const timesteps = spacedTimesteps(spacing, steps);
      const stages = timesteps.map((timestep) => {
        const alpha = alphas[timestep]!;
        const alphaNext = next(timestep, steps);
        const sample = Math.sqrt((1 - alphaNext) / (1 - alpha));
        const original = Math.sqrt(alphaNext) - Math.sqrt(alpha) * sample;
        return { levels: levelsOf(alpha), sample: f32(sample), original: f32(original) };
      });
      return { timesteps, stages };
    },
    noisy: () => false,
    compute({ stages }, step, { output, sample }: Arrays) {
      const { levels, sample: kept, original } = stages[step]!;
      const predictedOriginal = predictOriginal(prediction, levels, output, sample);
      return { previous: combine(kept, sample, original, predictedOriginal), predictedOriginal };
    },
  });
}

interface DpmPlan extends Plan {
  readonly stages: readonly {
    readonly levels: Levels;
    readonly sample: number;
    readonly original: number;
    readonly deviation: number;
    /** Weights of the predicted original and of the earlier one in the second order; null: first order. */
    readonly second: readonly [number, number] | null;
  }[];
}

/**
 * With h = lambda' - lambda, lambda = ln sqrt(a / (1-a)), and r = h_previous / h:
 * x' = sqrt((1-a') / (1-a)) e^-h x - sqrt(a') (e^-2h - 1) D + sqrt(1-a') sqrt(1 - e^-2h) noise, D = (1 + 1/2r) x_0 - 1/2r (its predecessor);
 * D = x_0 on the first and last step.
 *
 * diffusers draws noise twice on the steps between and uses the second draw: that one is `noise` here.
 *
 * Source: `CogVideoXDPMScheduler` of diffusers, SDE-DPM-Solver++ 2M of Lu et al., arXiv 2211.01095.
 * @throws {RangeError} on settings that are not supported
 */
export function cogVideoXDpm(settings: Settings): Scheduler {
  const { spacing, alphas, prediction, next } = readCommon(settings);
  const lambdaOf = (alpha: number) => Math.log(Math.sqrt(alpha / (1 - alpha)));
  return defineScheduler<DpmPlan>({
    name: "CogVideoXDPMScheduler",
    settings,
    alphasCumprod: alphas,
    trainTimesteps: spacing.trainTimesteps,
    remembers: 1,
    plan(steps) {
      const timesteps = spacedTimesteps(spacing, steps);
      const stride = Math.floor(spacing.trainTimesteps / steps);
      const stages = timesteps.map((timestep, i) => {
        const alpha = alphas[timestep]!;
        const alphaNext = next(timestep, steps);
        const h = lambdaOf(alphaNext) - lambdaOf(alpha);
        const deviation = Math.sqrt(1 - alphaNext) * Math.sqrt(1 - Math.exp(-2 * h));
        const first = i === 0 || timestep - stride < 0;
        // 1 / 2r; from a timestep without signal lambda rises infinitely, and the earlier prediction counts for nothing.
        const half = first ? NaN : 1 / (2 * ((lambdaOf(alpha) - lambdaOf(alphas[timesteps[i - 1]!]!)) / h));
        return {
          levels: levelsOf(alpha),
          sample: f32(Math.sqrt((1 - alphaNext) / (1 - alpha)) * Math.exp(-h)),
          original: f32(Math.expm1(-2 * h) * Math.sqrt(alphaNext)),
          deviation: f32(deviation),
          second: first ? null : [f32(1 + half), f32(half)] as const,
        };
      });
      return { timesteps, stages };
    },
    noisy: ({ stages }, step) => stages[step]!.deviation > 0,
    compute({ stages }, step, { output, sample, history, noise }) {
      const { levels, sample: kept, original, deviation, second } = stages[step]!;
      const predictedOriginal = predictOriginal(prediction, levels, output, sample);
      const denoised = second
        ? combine(second[0], predictedOriginal, -second[1], history[0]!)
        : predictedOriginal;
      const previous = combine(kept, sample, -original, denoised);
      if (noise) addScaled(previous, deviation, noise);
      return { previous, predictedOriginal };
    },
  });
}
