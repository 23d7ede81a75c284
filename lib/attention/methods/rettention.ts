/** Re-ttention (Chen et al. 2025, arXiv 2505.22918) and the methods that it is made of. */
import * as tf from "@tensorflow/tfjs";
import type { Attended, Mask } from "../types.ts";
import {
  defineScheduled,
  exactAt,
  fullRows,
  type ScheduledMethod,
  type ScheduledOptions,
} from "./_scheduled.ts";
import {
  lastRefresh,
  type PublishedModel,
  publishedSchedule,
  requireRefreshFirst,
  type Schedule,
} from "./schedule.ts";
import type { Held, MethodContext } from "./types.ts";

/** Settings of {@linkcode rettention}. */
export interface RettentionOptions extends ScheduledOptions {
  /**
   * Added to rho after each sparse step. `fitted`: for each batch row and head the mean drift of rho per step between the last two
   * refreshes, 0 until there are two (ours). Default 0.04, the paper's.
   */
  readonly lambda?: number | "fitted";
  /** Keeps rho in [0, 1]. Default false, as published. */
  readonly clamp?: boolean;
  /** Rows that see every key keep rho = 1 and R = 0, which is exact. Default true; the official code scales them. */
  readonly exactFullRows?: boolean;
  /** False: rho is 1 throughout. Default true. */
  readonly ratio?: boolean;
  /** False: R is 0 throughout. Default true. */
  readonly residual?: boolean;
}

/** The increment of rho in the paper. */
const LAMBDA = 0.04;

/**
 * Re-ttention: `O_t = rho_t W_t + R` on sparse steps, W_t being the output of the mask. A refresh gives O and sets
 * `rho = exp(LSE_mask - LSE_full)`, the share of the full softmax that the mask keeps, and `R = O - rho W`, what the dropped keys gave; each
 * sparse step then adds lambda to rho. Each batch row, head and token has its own rho; R is per head, before the output projection.
 *
 * Holds `rho [batch, heads, tokens]`, `residual [batch, heads, tokens, dim]` and with a fitted lambda `drift [batch, heads]`.
 * @throws {RangeError} on a lambda that is not finite, or a schedule with a sparse step before the first refresh
 */
export function rettention(options: RettentionOptions): ScheduledMethod {
  const { ratio = true, residual = true, clamp = false, exactFullRows = true } = options;
  const lambda = ratio ? options.lambda ?? LAMBDA : 0;
  const { schedule, mask } = options;
  const name = options.ratio === false && residual ? "residual sharing" : "rettention";
  requireRefreshFirst(name, schedule);
  if (lambda !== "fitted" && !Number.isFinite(lambda)) {
    throw new RangeError(
      `Cannot make rettention as 'lambda' must be a finite number or "fitted": current lambda is ${lambda}`,
    );
  }
  const exact = exactFullRows ? fullRows(mask) : null;
  const fits = lambda === "fitted";
  const settings = [
    ...(ratio ? [`lambda ${lambda}`, ...(clamp ? ["clamped"] : [])] : []),
    ...(exactFullRows ? [] : ["full rows scaled"]),
    ...(ratio || residual ? [] : ["window only"]),
    ...(ratio && !residual ? ["ratio only"] : []),
  ];
  const known = (done: number) => lastRefresh(schedule, done);
  return defineScheduled({
    name,
    settings,
    observes: (step) => (ratio || residual) && schedule.kinds[step] === "refresh",
    lse: () => ratio,
    observe(held: Held, full: Attended, window: Attended, { step }): Held {
      const rho = ratio ? refreshedRatio(full, window, exact) : null;
      return {
        ...(rho ? { rho } : {}),
        ...(residual ? { residual: exactAt(exact, refreshedResidual(full, window, rho), 0) } : {}),
        ...(fits ? { drift: drift(rho!, held.rho as tf.Tensor3D, mask, step - known(step)) } : {}),
      };
    },
    epilogue(held, after, { batch, heads, tokens }) {
      if (!ratio && !residual) return null;
      const start = ratio ? held.rho as tf.Tensor3D : tf.ones<tf.Rank.R3>([batch, heads, tokens]);
      const increase = fits ? tf.mul(tf.expandDims(held.drift!, -1), after) : lambda * after;
      const moved = increase === 0 ? start : exactAt(exact, tf.add<tf.Tensor3D>(start, increase), 1);
      const rho = clamp && ratio ? tf.clipByValue(moved, 0, 1) : moved;
      return { rho, residual: (held.residual as tf.Tensor4D | undefined) ?? null };
    },
    holds({ batch, heads, tokens, dim }: Required<MethodContext>, done): Record<string, readonly number[]> {
      if (known(done) < 0) return {};
      return {
        ...(ratio ? { rho: [batch, heads, tokens] } : {}),
        ...(residual ? { residual: [batch, heads, tokens, dim] } : {}),
        ...(fits ? { drift: [batch, heads] } : {}),
      };
    },
  }, options);
}

/**
 * DiTFastAttn's window attention with residual sharing on a fixed schedule: `O_t = W_t + (O_0 - W_0)`, with O_0 and W_0 from the latest refresh
 * (arXiv 2406.08552; so the Re-ttention paper ran it). Re-ttention with rho = 1.
 * @throws {RangeError} on a schedule with a sparse step before the first refresh
 */
export function residualSharing(options: ScheduledOptions): ScheduledMethod {
  return rettention({ ...options, ratio: false });
}

/**
 * Re-ttention as its official code runs it: lambda 0.04, no clamp, the literal list of refreshes (PixArt: none after step 15 in however
 * many steps), and rows that see every key scaled like all others.
 * @throws {RangeError} on an unknown model
 */
export function officialRettention(
  { model, steps, ...options }:
    & Omit<ScheduledOptions, "schedule">
    & { readonly model: PublishedModel; readonly steps?: number },
): ScheduledMethod {
  const schedule: Schedule = publishedSchedule(model, {
    ...(steps === undefined ? {} : { steps }),
    literal: true,
  });
  return rettention({ ...options, schedule, exactFullRows: false });
}

/** `exp(LSE_mask - LSE_full)`, [batch, heads, tokens]: in [0, 1], which rounding must not leave. */
export function refreshedRatio(
  full: Attended,
  window: Attended,
  exact: ReturnType<typeof fullRows>,
): tf.Tensor3D {
  const rho = tf.minimum<tf.Tensor3D>(tf.exp(tf.sub(window.lse!, full.lse!)), 1);
  return exactAt(exact, rho, 1);
}

/** `O - rho W`, [batch, heads, tokens, dim]; rho null: 1. */
export function refreshedResidual(full: Attended, window: Attended, rho: tf.Tensor3D | null): tf.Tensor4D {
  const kept = rho ? tf.mul<tf.Tensor4D>(window.output, tf.expandDims(rho, -1)) : window.output;
  return tf.sub(full.output, kept);
}

/** Mean change of rho per step over the rows that do not see every key, [batch, heads]; 0 without an earlier rho. */
function drift(rho: tf.Tensor3D, earlier: tf.Tensor3D | undefined, mask: Mask, steps: number): tf.Tensor {
  const [batch, heads, tokens] = rho.shape;
  if (!earlier) return tf.zeros([batch, heads]);
  const rows = fullRows(mask)?.tensor();
  const change = tf.sub(rho, earlier);
  const total = tf.sum(rows ? tf.mul(change, tf.sub(1, rows)) : change, -1);
  const count = rows ? tf.maximum(tf.sub(tokens, tf.sum(rows, -1)), 1) : tf.scalar(tokens);
  return tf.div(total, tf.mul(count, steps));
}
