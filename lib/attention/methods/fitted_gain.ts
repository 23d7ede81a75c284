/**
 * Fitted gain, a method of this kit's own. With O_0 and W_0 the outputs over all keys and of the mask at the latest refresh, output
 * sharing, DiTFastAttn and Re-ttention without lambda are all `O_t = O_0 + a (W_t - W_0)`, with a = 0, 1 and rho. Here a is fitted.
 */
import * as tf from "@tensorflow/tfjs";
import { createHash } from "node:crypto";
import type { Attended } from "../types.ts";
import {
  defineScheduled,
  exactAt,
  type FullRows,
  fullRows,
  type ScheduledMethod,
  type ScheduledOptions,
} from "./_scheduled.ts";
import { refreshedRatio, refreshedResidual } from "./rettention.ts";
import { lastRefresh, requireRefreshFirst } from "./schedule.ts";
import type { Held, MethodContext, Place } from "./types.ts";

/** Settings of {@linkcode fittedGain}. */
export interface FittedGainOptions extends ScheduledOptions {
  /** One gain for each head, or for each token of each head. Default head. Batch rows have their own. */
  readonly per?: "head" | "row";
  /** Gains from {@linkcode fitGains} for [layers][heads]. Default: fitted in the run itself, from the last two refreshes. */
  readonly gains?: readonly (readonly number[])[];
  /**
   * The gain until there are two refreshes. `warm`: fitted from the last warm step, which then computes the mask's output too, and the
   * first refresh. `ratio`: Re-ttention's rho. Default warm, and 1 where the schedule has no warm step.
   */
  readonly first?: "warm" | "ratio" | number;
  /** Fitted gains are kept within these. Default [0, 1]. */
  readonly range?: readonly [number, number];
  /** Rows that see every key keep a = 1, which is exact. Default true. */
  readonly exactFullRows?: boolean;
}

/**
 * Fitted gain (ours): `O_t = O_0 + a (W_t - W_0)` on sparse steps, with a of each batch row and head by least squares from the last two
 * refreshes, `a = <dO, dW> / |dW|^2`, `dO = O_r - O_r'`, `dW = W_r - W_r'`; or given as numbers from calibration runs. Costs no more than
 * Re-ttention. A head whose mask output did not move has a = 0.
 *
 * Holds `rho = a [batch, heads, tokens]`, `residual = O_0 - a W_0 [batch, heads, tokens, dim]` and, while there are refreshes to come,
 * `window = W_0`; with given gains the residual alone.
 * @throws {RangeError} on numbers that are not finite, or a schedule with a sparse step before the first refresh
 */
export function fittedGain(options: FittedGainOptions): ScheduledMethod {
  const { mask, schedule, gains, per = "head", range = [0, 1], exactFullRows = true } = options;
  const first = options.first ?? "warm";
  const { kinds } = schedule;
  requireRefreshFirst("fitted gain", schedule);
  requireNumbers(gains, [...range, ...(typeof first === "number" ? [first] : [])]);
  const exact = exactFullRows ? fullRows(mask) : null;
  const firstRefresh = kinds.indexOf("refresh");
  const warms = first === "warm" && !gains && firstRefresh > 0;
  const observes = (step: number) => kinds[step] === "refresh" || (warms && step === firstRefresh - 1);
  const goesOn = (done: number) => kinds.includes("refresh", done);
  const constant = (gain: number, shape: readonly number[]) =>
    exactAt(exact, tf.fill<tf.Rank.R3>(shape.slice(0, 3) as [number, number, number], gain), 1);

  /** The gain from now on, [batch, heads, tokens]. */
  function gainAt(held: Held, full: Attended, window: Attended, { layer }: Place): tf.Tensor3D {
    const { shape } = full.output;
    if (gains) return givenGain(gains[layer]!, shape, exact);
    if (held.window) {
      const fitted = tf.clipByValue(leastSquares(held, full, window, per, exact), ...range);
      return exactAt(exact, tf.add<tf.Tensor3D>(tf.zeros(shape.slice(0, 3)), fitted), 1);
    }
    return first === "ratio"
      ? refreshedRatio(full, window, exact)
      : constant(first === "warm" ? 1 : first, shape);
  }

  return defineScheduled({
    name: "fitted gain",
    settings: [
      ...(gains ? [`given ${digest(gains)}`] : [`per ${per}`, `first ${first}`, `in ${range.join(" to ")}`]),
      ...(exactFullRows ? [] : ["full rows scaled"]),
    ],
    ...(gains ? { sizes: { layers: gains.length, heads: gains[0]!.length } } : {}),
    observes,
    lse: (step) => first === "ratio" && step === firstRefresh && !gains,
    observe(held, full, window, place) {
      const rho = gainAt(held, full, window, place);
      return {
        residual: exactAt(exact, refreshedResidual(full, window, rho), 0),
        ...(gains ? {} : { rho }),
        ...(!gains && goesOn(place.step + 1) ? { window: window.output } : {}),
      };
    },
    epilogue: (held, _after, { batch, heads, tokens, dim }, layer) => ({
      rho: gains ? givenGain(gains[layer]!, [batch, heads, tokens, dim], exact) : held.rho as tf.Tensor3D,
      residual: held.residual as tf.Tensor4D,
    }),
    holds({ batch, heads, tokens, dim }: Required<MethodContext>, done): Record<string, readonly number[]> {
      const residual = [batch, heads, tokens, dim];
      if (gains) return lastRefresh(schedule, done) < 0 ? {} : { residual };
      if (firstRefresh < 0 || done <= firstRefresh - (warms ? 1 : 0)) return {};
      return { residual, rho: [batch, heads, tokens], ...(goesOn(done) ? { window: residual } : {}) };
    },
  }, options);
}

/**
 * `<dO, dW> / |dW|^2` since the last observation, over a head's tokens that do not see every key ([batch, heads, 1]) or for each token
 * ([batch, heads, tokens]); 0 where W did not change.
 */
function leastSquares(
  { residual, rho, window: earlier }: Held,
  full: Attended,
  window: Attended,
  per: "head" | "row",
  exact: FullRows | null,
): tf.Tensor3D {
  const earlierFull = tf.add(residual!, tf.mul(earlier!, tf.expandDims(rho!, -1)));
  const change = tf.sub(full.output, earlierFull);
  const windowChange = exactAt(exact, tf.sub<tf.Tensor4D>(window.output, earlier!), 0);
  const axes = per === "head" ? [2, 3] : [3];
  const sum = (product: tf.Tensor) => tf.sum(product, axes);
  const gain = tf.divNoNan(sum(tf.mul(change, windowChange)), sum(tf.square(windowChange)));
  return per === "head" ? tf.expandDims(gain, -1) : gain as tf.Tensor3D;
}

/** [batch, heads, tokens] of one number a head. */
function givenGain(gains: readonly number[], shape: readonly number[], exact: FullRows | null): tf.Tensor3D {
  const heads = tf.tensor3d([...gains], [1, gains.length, 1]);
  return exactAt(exact, tf.add<tf.Tensor3D>(tf.zeros(shape.slice(0, 3)), heads), 1);
}

function requireNumbers(gains: readonly (readonly number[])[] | undefined, others: readonly number[]): void {
  const wrong = [...(gains?.flat() ?? []), ...others].find((number) => !Number.isFinite(number));
  if (wrong !== undefined) {
    throw new RangeError(`Cannot make fitted gain as its numbers must be finite: current number is ${wrong}`);
  }
  const heads = gains?.[0]?.length;
  if (gains && (!heads || gains.some((row) => row.length !== heads))) {
    throw new RangeError(
      `Cannot make fitted gain as 'gains' must be [layers][heads], each layer with as many heads: ` +
        `current layers have ${gains.map((row) => row.length).join(", ")}`,
    );
  }
}

/** Tells given gains apart in a label. */
function digest(gains: readonly (readonly number[])[]): string {
  return createHash("sha256").update(JSON.stringify(gains)).digest("hex").slice(0, 12);
}
