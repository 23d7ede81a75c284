/** Which training timesteps a run visits. */
import type { Settings } from "./_settings.ts";

export type Spacing = "linspace" | "leading" | "trailing";

/** How a class spaces its timesteps. */
export interface SpacingSettings {
  readonly trainTimesteps: number;
  readonly spacing: Spacing;
  readonly offset: number;
}

/** Reads `timestep_spacing` and `steps_offset`. */
export function readSpacing(settings: Settings, missing: Spacing): SpacingSettings {
  return {
    trainTimesteps: settings.whole("num_train_timesteps", 1000, 1),
    spacing: settings.choice("timestep_spacing", missing, ["linspace", "leading", "trailing"]),
    offset: settings.whole("steps_offset", 0, 0),
  };
}

/**
 * Falling whole timesteps, [steps]. `exclusive`: of one step more, of which the last is left out (DPM-Solver++), but for trailing.
 * @throws {RangeError} the offset leads out of the training timesteps
 *
 * Source: Lin et al., arXiv 2305.08891, table 2.
 */
export function spacedTimesteps(
  { trainTimesteps, spacing, offset }: SpacingSettings,
  steps: number,
  exclusive = false,
): number[] {
  const points = exclusive ? steps + 1 : steps;
  const first = exclusive ? 1 : 0;
  // The stride as numpy.arange rounds it, which decides between two timesteps at halves.
  const stride = trainTimesteps - trainTimesteps / steps - trainTimesteps;
  const rising = Array.from({ length: steps }, (_, i) => {
    switch (spacing) {
      case "linspace": // A single point is the start.
        return roundHalfEven(points === 1 ? 0 : (i + first) * ((trainTimesteps - 1) / (points - 1)));
      case "leading":
        return (i + first) * Math.floor(trainTimesteps / points) + offset;
      case "trailing":
        return roundHalfEven(trainTimesteps + (steps - 1 - i) * stride) - 1;
    }
  });
  const last = rising.at(-1)!;
  if (last >= trainTimesteps) {
    throw new RangeError(
      `Cannot begin as 'steps_offset' must keep timesteps below ${trainTimesteps}: current steps_offset is ${offset}, which leads to ${last}`,
    );
  }
  return rising.reverse();
}

/** As numpy rounds: halves to the even neighbour. */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
