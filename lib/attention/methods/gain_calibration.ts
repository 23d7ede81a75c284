/** Gains for `fittedGain` from calibration runs: to be stored beside a checkpoint. */
import * as tf from "@tensorflow/tfjs";
import { attend } from "../attend.ts";
import { defineMethod, type Inputs } from "./_define.ts";
import { exactAt, fullRows, type ScheduledOptions } from "./_scheduled.ts";
import { requireRefreshFirst } from "./schedule.ts";
import type { DirectMethod, MethodState } from "./types.ts";

/**
 * Full attention that watches what a mask would have done: at each sparse step of the schedule it adds up `<dO, dW>` and `|dW|^2` of the changes
 * since the latest refresh, over batch rows and tokens that do not see every key. Each step is computed over all keys, so the gains are of
 * undisturbed runs. {@linkcode fitGains} makes gains of the states of one or several runs.
 *
 * Holds `cross` and `power` [heads], and `full` and `window` of the latest refresh.
 * @throws {RangeError} on a schedule with a sparse step before the first refresh
 */
export function gainCalibration({ mask, schedule, implementation = "auto" }: ScheduledOptions): DirectMethod {
  requireRefreshFirst("a calibration of gains", schedule);
  const { kinds } = schedule;
  const exact = fullRows(mask);
  const observes = (step: number) => kinds[step] !== "warm";
  return defineMethod({
    name: "gain calibration",
    label: `gain calibration(${mask.label}; ${schedule.label})`,
    masks: [mask],
    sizes: { steps: kinds.length },
    calls: ({ step }) => ({ dense: 1, sparse: observes(step) ? 1 : 0, share: 1 }),
    holds({ batch, heads, tokens, dim }, _layer, done): Record<string, readonly number[]> {
      if (!kinds.slice(0, done).some((kind) => kind !== "warm")) return {};
      const shape = [batch, heads, tokens, dim];
      return { full: shape, window: shape, cross: [heads], power: [heads] };
    },
    compute(held, { step }, inputs, { heads }) {
      const { q, k, v } = inputs as Inputs;
      const { output } = attend(q, k, v, { implementation });
      if (!observes(step)) return { output, held };
      const window = attend(q, k, v, { implementation, mask }).output;
      if (kinds[step] === "refresh") {
        const { cross = tf.zeros([heads]), power = tf.zeros([heads]) } = held;
        return { output, held: { full: output, window, cross, power } };
      }
      const change = tf.sub(output, held.full!);
      const windowChange = exactAt(exact, tf.sub<tf.Tensor4D>(window, held.window!), 0);
      const sum = (product: tf.Tensor) => tf.sum(product, [0, 2, 3]);
      return {
        output,
        held: {
          ...held,
          cross: tf.add(held.cross!, sum(tf.mul(change, windowChange))),
          power: tf.add(held.power!, sum(tf.square(windowChange))),
        },
      };
    },
  });
}

/**
 * `sum <dO, dW> / sum |dW|^2` of each layer and head over calibration runs, [layers][heads]; 0 where the mask's output never changed. The
 * states stay the caller's.
 * @throws {TypeError} on states of other methods or sizes, or none
 * @throws {RangeError} on states that are spent, or without a sparse step
 */
export async function fitGains(states: readonly MethodState[]): Promise<number[][]> {
  const [{ method, context } = { method: "", context: null }] = states;
  if (
    context === null || !method.startsWith("gain calibration(") ||
    states.some((state) => state.method !== method)
  ) {
    throw new TypeError(
      `Cannot fit gains as the states must be of one gain calibration: current states are of ${
        [...new Set(states.map((state) => state.method))].join(", ") || "no method"
      }`,
    );
  }
  const gains: number[][] = [];
  for (let layer = 0; layer < context.layers; layer++) {
    const [cross, power] = [new Float64Array(context.heads), new Float64Array(context.heads)];
    for (const state of states) {
      const held = state.layers[layer];
      if (state.spent || !held?.cross || held.cross.shape[0] !== context.heads) {
        throw new RangeError(
          `Cannot fit gains as each state must be whole, with ${context.layers} layers and ${context.heads} heads: current state is ` +
            (state.spent
              ? "spent"
              : `at step ${state.step} of ${state.context.layers} layers, ${state.context.heads} heads`),
        );
      }
      for (const [sums, tensor] of [[cross, held.cross], [power, held.power!]] as const) {
        (await tensor.data()).forEach((value, head) => sums[head]! += value);
      }
    }
    gains.push(Array.from(cross, (value, head) => (power[head]! > 0 ? value / power[head]! : 0)));
  }
  return gains;
}
