/** Methods that follow a schedule and give `rho * W + R` on its sparse steps, W being the output of a mask. */
import * as tf from "@tensorflow/tfjs";
import { attend } from "../attend.ts";
import type { Attended, Implementation, Mask } from "../types.ts";
import { defineMethod, type Inputs, stepsDone } from "./_define.ts";
import { lastRefresh, type Schedule } from "./schedule.ts";
import type { Calls, DirectMethod, Held, MethodContext, MethodState, Place } from "./types.ts";

/** What every scheduled method is told. */
export interface ScheduledOptions {
  readonly mask: Mask;
  readonly schedule: Schedule;
  /** What computes: see `attend`. */
  readonly implementation?: Implementation;
}

/** What multiplies the mask's output on a sparse step, and what is added to that; null: nothing. */
export interface Epilogue {
  readonly rho: tf.Tensor3D;
  readonly residual: tf.Tensor4D | null;
}

/** What tells scheduled methods apart. */
export interface Rule {
  readonly name: string;
  /** Settings for the label, beside mask and schedule. */
  readonly settings: readonly string[];
  /** Sizes that a run must have, beside the number of steps. */
  readonly sizes?: { readonly layers?: number; readonly heads?: number };
  /** Whether a step over all keys computes the mask's output too. */
  observes(step: number): boolean;
  /** Whether `observe` needs the log-sum-exp of that step. */
  lse(step: number): boolean;
  /** What to hold after an observing step. */
  observe(held: Held, full: Attended, window: Attended, place: Place): Held;
  /** Of the sparse step that comes as number `after` (0, 1, ...) after its refresh. */
  epilogue(held: Held, after: number, context: Required<MethodContext>, layer: number): Epilogue | null;
  holds(context: Required<MethodContext>, done: number): Record<string, readonly number[]>;
}

/** A method on a schedule. */
export interface ScheduledMethod extends DirectMethod {
  readonly mask: Mask;
  readonly schedule: Schedule;
  /**
   * What multiplies the mask's output if the next step of `layer` is sparse, [batch, heads, tokens]; null if nothing does, or before the
   * first refresh. The caller's own.
   */
  ratio(state: MethodState, layer: number): tf.Tensor3D | null;
}

/** Makes a method of its rule. */
export function defineScheduled(
  rule: Rule,
  { mask, schedule, implementation = "auto" }: ScheduledOptions,
): ScheduledMethod {
  const { name } = rule;
  const kinds = schedule.kinds;
  const settings = [mask.label, schedule.label, ...rule.settings].join("; ");
  const dense = (step: number) => kinds[step] !== "sparse";
  const afterRefresh = (step: number) =>
    kinds.slice(lastRefresh(schedule, step) + 1, step).filter((kind) => kind === "sparse").length;
  const method = defineMethod({
    name,
    label: `${name}(${settings})`,
    masks: [mask],
    sizes: { ...rule.sizes, steps: kinds.length },
    calls: ({ step }: Place): Calls => ({
      dense: dense(step) ? 1 : 0,
      sparse: !dense(step) || rule.observes(step) ? 1 : 0,
      share: 1,
    }),
    holds: (context, _layer, done) => rule.holds(context, done),
    compute(held, place, inputs, context) {
      const { layer, step } = place;
      const { q, k, v } = inputs as Inputs;
      if (!dense(step)) {
        const epilogue = rule.epilogue(held, afterRefresh(step), context, layer);
        return { output: windowOutput(inputs as Inputs, mask, implementation, epilogue), held };
      }
      if (!rule.observes(step)) return { output: attend(q, k, v, { implementation }).output, held };
      const lse = rule.lse(step);
      const full = attend(q, k, v, { implementation, lse });
      const window = attend(q, k, v, { implementation, lse, mask });
      return { output: full.output, held: rule.observe(held, full, window, place) };
    },
  });
  return {
    ...method,
    mask,
    schedule,
    ratio(state, layer) {
      const done = stepsDone(state, layer);
      if (lastRefresh(schedule, done) < 0) return null;
      return tf.tidy(() => {
        const epilogue = rule.epilogue(state.layers[layer]!, afterRefresh(done), state.context, layer);
        return (epilogue?.rho.clone() ?? null) as tf.Tensor3D;
      });
    },
  };
}

/** `rho * W + residual`, in one pass where both are there. */
function windowOutput(
  { q, k, v }: Inputs,
  mask: Mask,
  implementation: Implementation,
  epilogue: Epilogue | null,
): tf.Tensor4D {
  const { rho, residual } = epilogue ?? {};
  if (rho && residual) return attend(q, k, v, { mask, implementation, epilogue: { rho, residual } }).output;
  const { output } = attend(q, k, v, { mask, implementation });
  return rho ? tf.mul(output, tf.expandDims(rho, -1)) : output;
}

/** Rows that see every key: there a mask changes nothing. */
export interface FullRows {
  /** 1 at these rows, else 0: [1, heads or 1, tokens]. Made at each call. */
  tensor(): tf.Tensor3D;
}

/** Null if the mask has none. */
export function fullRows(mask: Mask): FullRows | null {
  const heads = mask.heads ?? 1;
  const rows = Float32Array.from({ length: heads * mask.queries }, (_, row) => {
    const bounds = mask.intervals(row % mask.queries, Math.floor(row / mask.queries));
    return bounds.length === 2 && bounds[0] === 0 && bounds[1] === mask.keys ? 1 : 0;
  });
  if (!rows.includes(1)) return null;
  return { tensor: () => tf.tensor3d(rows, [1, heads, mask.queries]) };
}

/** `values`, but `exact` at full rows, where there are any; values [batch, heads, tokens] or [batch, heads, tokens, dim]. */
export function exactAt<T extends tf.Tensor>(rows: FullRows | null, values: T, exact: number): T {
  if (!rows) return values;
  const full = rows.tensor();
  const shaped = values.rank === 4 ? tf.expandDims(full, -1) : full;
  // Not `where`, which does not broadcast on every backend.
  return tf.add(tf.mul(values, tf.sub(1, shaped)), tf.mul(shaped, exact)) as T;
}
