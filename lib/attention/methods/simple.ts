/** Methods without statistics: what the others are measured by. */
import type * as tf from "@tensorflow/tfjs";
import { attend } from "../attend.ts";
import type { Implementation } from "../types.ts";
import { defineMethod, type Inputs } from "./_define.ts";
import { defineScheduled, type ScheduledMethod, type ScheduledOptions } from "./_scheduled.ts";
import { requireRefreshFirst, type Schedule } from "./schedule.ts";
import type { DirectMethod, Held } from "./types.ts";

/** Attention to all keys at every step. */
export function fullAttention(
  { implementation = "auto" }: { implementation?: Implementation } = {},
): DirectMethod {
  return defineMethod({
    name: "full",
    label: "full()",
    calls: () => ({ dense: 1, sparse: 0, share: 1 }),
    compute(_held, _place, inputs) {
      const { q, k, v } = inputs as Inputs;
      return { output: attend(q, k, v, { implementation }).output, held: {} };
    },
  });
}

/** The mask's output W alone on sparse steps, all keys on the others. */
export function windowOnly(options: ScheduledOptions): ScheduledMethod {
  return defineScheduled({
    name: "window",
    settings: [],
    observes: () => false,
    lse: () => false,
    observe: (held) => held,
    epilogue: () => null,
    holds: () => ({}),
  }, options);
}

/**
 * Output sharing: sparse steps give the output of the latest refresh again, `O_t = O_0`, and need no q, k, v (arXiv 2406.08552, AST).
 * @throws {RangeError} on a schedule with a sparse step before the first refresh
 */
export function outputSharing(
  { schedule, implementation = "auto" }: { schedule: Schedule; implementation?: Implementation },
): DirectMethod {
  requireRefreshFirst("output sharing", schedule);
  const { kinds } = schedule;
  const shares = (step: number) => kinds[step] === "sparse";
  return defineMethod({
    name: "output sharing",
    label: `output sharing(${schedule.label})`,
    sizes: { steps: kinds.length },
    reads: ({ step }) => (shares(step) ? "nothing" : "all"),
    calls: ({ step }) => ({ dense: shares(step) ? 0 : 1, sparse: 0, share: 1 }),
    holds: ({ batch, heads, tokens, dim }, _layer, done) =>
      shares(done) ? { output: [batch, heads, tokens, dim] } : {},
    compute(held: Held, { step }, inputs) {
      const output = inputs === null
        ? held.output as tf.Tensor4D
        : attend(inputs.q, inputs.k, inputs.v, { implementation }).output;
      return { output, held: shares(step + 1) ? { output } : {} };
    },
  });
}
