/** DPM-Solver++ of first and second order: DPMSolverMultistepScheduler. */
import type { Scheduler } from "../types.ts";
import { defineScheduler, type Plan } from "./_define.ts";
import { cumulativeAlphas, f32, readBetas, zeroTerminalByBetas } from "./_noise_levels.ts";
import { addScaled, combine, type Levels, predictOriginal, readPrediction } from "./_predictions.ts";
import type { Settings } from "./_settings.ts";
import { readSpacing, roundHalfEven, spacedTimesteps } from "./_timesteps.ts";

interface SolverPlan extends Plan {
  readonly stages: readonly {
    readonly levels: Levels;
    /** Weights of the sample, of the predicted original, and of its divided difference to the earlier one. */
    readonly sample: number;
    readonly original: number;
    readonly difference: number;
    /** 1 / r, the ratio of the two steps in lambda; null: a step of first order. */
    readonly ratio: number | null;
  }[];
}

/** Sigmas by Karras are evenly spaced in their root of this degree. */
const RHO = 7;
/** Below this number of steps the last ones are of lower order, unless the last sigma is 0, where they always are. */
const FEW_STEPS = 15;

/**
 * With h = lambda' - lambda, lambda = ln(alpha / sigma):
 * x' = sigma'/sigma x - alpha' (e^-h - 1) D_0 - 1/2 alpha' (e^-h - 1) D_1 ("midpoint"), D_0 the predicted original and
 * D_1 = (D_0 - its predecessor) h / h_previous; "heun" weighs D_1 by + alpha' ((e^-h - 1)/h + 1). The first step, and the last one where sigma
 * becomes 0, are of first order (D_1 = 0).
 *
 * Source: Lu et al., arXiv 2211.01095, algorithm 2; `DPMSolverMultistepScheduler` of diffusers.
 * @throws {RangeError} on settings that are not supported
 */
export function dpmSolver(settings: Settings): Scheduler {
  const spacing = readSpacing(settings, "linspace");
  const betas = readBetas(settings, { start: 1e-4, end: 0.02, schedule: "linear" }, f32);
  const zeroSnr = settings.flag("rescale_betas_zero_snr", false);
  const alphas = zeroSnr ? zeroTerminalByBetas(betas, f32) : cumulativeAlphas(betas, f32);
  // As there: a sigma that is large instead of infinite.
  if (zeroSnr) alphas[alphas.length - 1] = 2 ** -24;
  const prediction = readPrediction(settings);
  const order = settings.whole("solver_order", 2, 1);
  if (order > 2) settings.refuse("solver_order", "1 or 2");
  const solver = settings.choice("solver_type", "midpoint", ["midpoint", "heun"]);
  const eulerAtFinal = settings.flag("euler_at_final", false);
  const lowerOrderFinal = settings.flag("lower_order_final", true);
  const finalSigma = settings.choice("final_sigmas_type", "zero", ["zero", "sigma_min"]);
  const karras = settings.flag("use_karras_sigmas", false);
  settings.only({
    algorithm_type: "dpmsolver++",
    thresholding: false,
    use_exponential_sigmas: false,
    use_beta_sigmas: false,
    use_lu_lambdas: false,
    use_flow_sigmas: false,
    use_dynamic_shifting: false,
    lambda_min_clipped: -Infinity,
    variance_type: null,
  });
  settings.unused("dynamic_thresholding_ratio", "sample_max_value", "flow_shift", "time_shift_type");

  const trainSigmas = Float32Array.from(alphas, (alpha) => Math.sqrt(f32(f32(1 - alpha) / alpha)));

  const plan = (steps: number): SolverPlan => {
    const inner = karras ? karrasSigmas(trainSigmas, steps) : null;
    const timesteps = inner
      ? timestepsOf(inner, trainSigmas)
      : spacedTimesteps(spacing, steps, spacing.spacing !== "trailing");
    const sigmas = Float32Array.from([
      ...(inner ?? timesteps.map((timestep) => trainSigmas[timestep]!)),
      finalSigma === "zero" ? 0 : trainSigmas[0]!,
    ]);
    const levels = Array.from(sigmas, (sigma) => {
      const signal = f32(1 / f32(Math.sqrt(f32(f32(sigma * sigma) + 1))));
      return { signal, noise: f32(sigma * signal) };
    });
    const lambdas = levels.map(({ signal, noise }) => f32(f32(Math.log(signal)) - f32(Math.log(noise))));
    const stages = timesteps.map((_, i) => {
      const final = i === steps - 1 &&
        (eulerAtFinal || (lowerOrderFinal && steps < FEW_STEPS) || finalSigma === "zero");
      const h = f32(lambdas[i + 1]! - lambdas[i]!);
      const signal = levels[i + 1]!.signal;
      const decay = f32(f32(Math.exp(-h)) - 1);
      const original = f32(signal * decay);
      const first = order === 1 || i === 0 || final;
      const h0 = first ? NaN : f32(lambdas[i]! - lambdas[i - 1]!);
      return {
        levels: levels[i]!,
        sample: f32(levels[i + 1]!.noise / levels[i]!.noise),
        original,
        difference: solver === "midpoint" ? f32(0.5 * original) : -f32(signal * f32(f32(decay / h) + 1)),
        ratio: first ? null : f32(1 / f32(h0 / h)),
      };
    });
    return { timesteps, stages };
  };
  return defineScheduler<SolverPlan>({
    name: "DPMSolverMultistepScheduler",
    settings,
    alphasCumprod: Float32Array.from(alphas),
    trainTimesteps: spacing.trainTimesteps,
    remembers: order - 1,
    plan,
    noisy: () => false,
    compute({ stages }, step, { output, sample, history }) {
      const { levels, sample: kept, original, difference, ratio } = stages[step]!;
      const predictedOriginal = predictOriginal(prediction, levels, output, sample);
      const previous = combine(kept, sample, -original, predictedOriginal);
      if (ratio !== null) {
        const [earlier] = history as [Float32Array];
        const slope = predictedOriginal.map((value, i) => ratio * f32(value - earlier[i]!));
        addScaled(previous, -difference, slope);
      }
      return { previous, predictedOriginal };
    },
  });
}

/** Falling sigmas, evenly spaced in sigma^(1/7), [steps]. Source: Karras et al., arXiv 2206.00364, equation 5. */
function karrasSigmas(trainSigmas: Float32Array, steps: number): Float64Array {
  const [low, high] = [trainSigmas[0]! ** (1 / RHO), trainSigmas.at(-1)! ** (1 / RHO)];
  return Float64Array.from(
    { length: steps },
    (_, i) => (high + (steps === 1 ? 0 : i / (steps - 1)) * (low - high)) ** RHO,
  );
}

/** The training timesteps whose sigmas, interpolated in their logarithm, come nearest. */
function timestepsOf(sigmas: Float64Array, trainSigmas: Float32Array): number[] {
  const logarithms = trainSigmas.map(Math.log);
  return Array.from(sigmas, (sigma) => {
    const logarithm = Math.log(sigma);
    const above = logarithms.findIndex((value) => value > logarithm);
    const low = Math.min(Math.max((above < 0 ? logarithms.length : above) - 1, 0), logarithms.length - 2);
    const [start, end] = [logarithms[low]!, logarithms[low + 1]!];
    const weight = Math.min(Math.max((start - logarithm) / (start - end), 0), 1);
    return roundHalfEven((1 - weight) * low + weight * (low + 1));
  });
}
