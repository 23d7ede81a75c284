/** Learning-rate schedules: functions from the step to a rate. */

/** The learning rate at a step, counted from 0. */
export type Schedule = (step: number) => number;

/** The same rate at every step. */
export function constant(rate: number): Schedule {
  checkRate(rate);
  return () => rate;
}

/**
 * Half a cosine from `rate` to 0 over `steps`, after a linear warm-up:
 * rate * (1 + cos(pi * (step - warmup) / (steps - warmup))) / 2.
 *
 * @example
 * ```ts
 * import { cosine } from "@normlab/normlab/train";
 * const schedule = cosine(0.1, 100);
 * console.log(schedule(0), schedule(50)); // 0.1, 0.05
 * ```
 * @throws {RangeError} if the rate is negative or the warm-up is not shorter than the schedule
 */
export function cosine(rate: number, steps: number, warmup = 0): Schedule {
  checkRate(rate);
  if (!(warmup >= 0 && warmup < steps)) {
    throw new RangeError(
      `Cannot make a cosine schedule as 'warmup' must be in [0, steps) = [0, ${steps}): current value is ${warmup}`,
    );
  }
  return (step) => {
    if (step < warmup) return rate * (step + 1) / warmup;
    return rate * (1 + Math.cos(Math.PI * Math.min(1, (step - warmup) / (steps - warmup)))) / 2;
  };
}

function checkRate(rate: number): void {
  if (!(rate >= 0 && Number.isFinite(rate))) {
    throw new RangeError(
      `Cannot make a schedule as 'rate' must be a finite number of at least 0: current value is ${rate}`,
    );
  }
}
