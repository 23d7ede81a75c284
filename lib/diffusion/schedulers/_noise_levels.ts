/** How much of the signal is left at each training timestep. Arithmetic in float32 or double, as the class in diffusers has it. */
import type { Settings } from "./_settings.ts";

export const f32: (value: number) => number = Math.fround;

/** The rounding that a class of diffusers computes its levels in. */
export type Rounding = (value: number) => number;

/** The variances beta_t, [timesteps], from the settings of `defaults`. */
export function readBetas(
  settings: Settings,
  defaults: { start: number; end: number; schedule: "linear" | "scaled_linear" },
  round: Rounding,
): Float64Array {
  const count = settings.whole("num_train_timesteps", 1000, 1);
  const start = settings.number("beta_start", defaults.start, 0);
  const end = settings.number("beta_end", defaults.end, 0);
  const schedule = settings.choice("beta_schedule", defaults.schedule, ["linear", "scaled_linear"]);
  settings.only({ trained_betas: null });
  if (start >= 1) settings.refuse("beta_start", "below 1");
  if (end >= 1) settings.refuse("beta_end", "below 1");
  if (schedule === "linear") return linspace(start, end, count, round);
  return linspace(Math.sqrt(start), Math.sqrt(end), count, round).map((root) => round(root * root));
}

/** Products of 1 - beta up to each timestep; the running product is in double in either precision, as torch has it. */
export function cumulativeAlphas(betas: Float64Array, round: Rounding): Float64Array {
  let product = 1;
  return betas.map((beta) => round(product *= round(1 - beta)));
}

/**
 * The same levels stretched so that the last one is 0 (zero terminal SNR): s_t <- (s_t - s_T) s_0 / (s_0 - s_T), s = sqrt(alphas).
 *
 * Source: Lin et al., arXiv 2305.08891, algorithm 1.
 */
export function zeroTerminal(alphas: Float64Array, round: Rounding): Float64Array {
  const roots = alphas.map((alpha) => round(Math.sqrt(alpha)));
  const [first, last] = [roots[0]!, roots.at(-1)!];
  const stretch = round(first / round(first - last));
  return roots.map((root) => {
    const moved = round(round(root - last) * stretch);
    return round(moved * moved);
  });
}

/** {@linkcode zeroTerminal} as DDPM and DDIM do it: by way of the betas, whose products differ in the last digits. */
export function zeroTerminalByBetas(betas: Float64Array, round: Rounding): Float64Array {
  const bars = zeroTerminal(cumulativeAlphas(betas, round), round);
  const rescaled = bars.map((bar, t) => round(1 - (t === 0 ? bar : round(bar / bars[t - 1]!))));
  return cumulativeAlphas(rescaled, round);
}

/** `count` numbers evenly from `start` to `end`, from both ends to the middle, as torch.linspace: each sum is rounded once. */
function linspace(start: number, end: number, count: number, round: Rounding): Float64Array {
  const [first, last] = [round(start), round(end)];
  const step = count === 1 ? 0 : round((last - first) / (count - 1));
  return Float64Array.from(
    { length: count },
    (_, i) => round(i < count / 2 ? first + step * i : last - step * (count - 1 - i)),
  );
}
