/** Euler steps along the flow: FlowMatchEulerDiscreteScheduler. */
import type { Scheduler } from "../types.ts";
import { defineScheduler, type Plan } from "./_define.ts";
import { f32 } from "./_noise_levels.ts";
import { combine } from "./_predictions.ts";
import type { Settings } from "./_settings.ts";

interface FlowPlan extends Plan {
  /** [steps + 1], the last one 0. */
  readonly sigmas: Float32Array;
}

/** What a run with flow matching may choose beside the config. */
export interface FlowOptions {
  /** How far sigmas are moved towards 1 with `use_dynamic_shifting`, which needs it: {@linkcode dynamicShift}. */
  readonly mu?: number;
  /** The sigmas before they are shifted, [steps]. Default: evenly from the largest to the smallest of training. */
  readonly sigmas?: readonly number[];
}

/**
 * x' = x + (sigma' - sigma) v along x = (1 - sigma) x_0 + sigma noise, so x_0 = x - sigma v; sigmas are shifted by
 * s sigma / (1 + (s - 1) sigma), or with dynamic shifting by e^mu / (e^mu + 1/sigma - 1).
 *
 * Source: Esser et al., arXiv 2403.03206; `FlowMatchEulerDiscreteScheduler` of diffusers.
 * @throws {RangeError} on settings that are not supported, `mu` that is missing or without use, or sigmas outside of (0, 1]
 */
export function flowEuler(settings: Settings, { mu, sigmas: given }: FlowOptions): Scheduler {
  const count = settings.whole("num_train_timesteps", 1000, 1);
  const shift = settings.number("shift", 1, 0);
  if (shift === 0) settings.refuse("shift", "above 0");
  const dynamic = settings.flag("use_dynamic_shifting", false);
  const kind = settings.choice("time_shift_type", "exponential", ["exponential", "linear"]);
  settings.only({
    invert_sigmas: false,
    shift_terminal: null,
    use_karras_sigmas: false,
    use_exponential_sigmas: false,
    use_beta_sigmas: false,
    stochastic_sampling: false,
  });
  settings.unused("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len");
  if (dynamic !== (mu !== undefined)) {
    settings.refuse(
      "use_dynamic_shifting",
      dynamic ? "false without the option 'mu'" : "true with the option 'mu'",
    );
  }
  const wrong = given?.find((sigma) => !(sigma > 0 && sigma <= 1));
  if (wrong !== undefined) throw refused("sigmas", "above 0 and at most 1", wrong);
  if (mu !== undefined && !Number.isFinite(mu)) throw refused("mu", "finite", mu);
  if (mu !== undefined) settings.add("mu", mu);
  if (given) settings.add("sigmas", given);

  /** In float32 if `round` says so: given sigmas are, the default ones become so in the end. */
  const shifted = (sigma: number, round: (value: number) => number): number => {
    if (mu === undefined) return round(round(shift * sigma) / round(1 + round((shift - 1) * sigma)));
    const strength = kind === "exponential" ? Math.exp(mu) : mu;
    return round(round(strength) / round(round(strength) + round(round(1 / sigma) - 1)));
  };
  // The smallest sigma of training is shifted already, and once more below, as there.
  const [largest, smallest] = [1, f32(1 / count)].map((sigma) => (dynamic ? sigma : shifted(sigma, f32))) as [
    number,
    number,
  ];
  return defineScheduler<FlowPlan>({
    name: "FlowMatchEulerDiscreteScheduler",
    settings,
    alphasCumprod: null,
    trainTimesteps: count,
    plan(steps) {
      if (given && given.length !== steps) {
        throw new RangeError(
          `Cannot begin FlowMatchEulerDiscreteScheduler as 'steps' must be the number of sigmas, ${given.length}: current steps are ${steps}`,
        );
      }
      const [from, to] = [largest * count, smallest * count];
      const stride = steps === 1 ? 0 : (to - from) / (steps - 1);
      const inner = Array.from(
        { length: steps },
        (_, i) =>
          given
            ? shifted(f32(given[i]!), f32)
            : shifted((i > 0 && i === steps - 1 ? to : i * stride + from) / count, (value) => value),
      );
      const sigmas = Float32Array.from([...inner, 0]);
      return { timesteps: Array.from(sigmas.subarray(0, -1), (sigma) => f32(sigma * count)), sigmas };
    },
    noisy: () => false,
    compute({ sigmas }, step, { output, sample }) {
      const sigma = sigmas[step]!;
      return {
        previous: combine(1, sample, f32(sigmas[step + 1]! - sigma), output),
        predictedOriginal: combine(1, sample, -sigma, output),
      };
    },
  });
}

function refused(name: string, requirement: string, value: number): RangeError {
  return new RangeError(
    `Cannot make FlowMatchEulerDiscreteScheduler as '${name}' must be ${requirement}: current ${name} is ${value}`,
  );
}
