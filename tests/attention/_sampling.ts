/** Sampling runs for methods: q, k and v that drift over the steps, and every method with a mask and a schedule. */
import * as tf from "@tensorflow/tfjs";
import {
  band,
  ditfastattn,
  fittedGain,
  frameBand,
  fullAttention,
  gainCalibration,
  type Mask,
  type Method,
  type MethodContext,
  type MethodState,
  officialRettention,
  outputSharing,
  type PlanTable,
  publishedSchedule,
  residualSharing,
  rettention,
  selective,
  windowOnly,
} from "../../lib/attention/mod.ts";
import { stream } from "../../lib/tensor/mod.ts";
import { randomMask } from "./_random.ts";

/** Two layers, a guided batch, 20 steps of the schedule for PixArt. */
export const context = { layers: 2, batch: 2, heads: 2, tokens: 20, dim: 8, steps: 20 };

export const schedule = publishedSchedule("pixart");

/** Masks with empty, full and other rows, shared by heads and not; and those of images and videos. */
export const masks: Mask[] = [
  randomMask(1, [context.tokens, context.tokens], null, 0.3),
  randomMask(2, [context.tokens, context.tokens], context.heads, 0.2),
  band(context.tokens, 2),
  frameBand({ text: 4, frames: 4, frameTokens: 4, half: 1 }),
];

/** float32, on numbers of order 1. */
export const TOLERANCE = 5e-6;

export type Inputs = [q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D];

/** q, k and v of a layer and step: `cos(phi) A + sin(phi) C`, phi from 0 to 0.6 over the run. `frozen`: those of step 0 at all steps. */
export function inputsAt(
  name: string,
  { layer, step }: { layer: number; step: number },
  { batch, heads, tokens, dim, steps }: MethodContext = context,
  frozen = false,
): Inputs {
  const phase = frozen ? 0 : 0.6 * step / Math.max(steps - 1, 1);
  return (["q", "k", "v"] as const).map((kind) => {
    const [a, c] = parts(`${name} ${layer} ${kind}`, batch * heads * tokens * dim);
    const values = a.map((value, index) => Math.cos(phase) * value + Math.sin(phase) * c[index]!);
    return tf.tensor4d(values, [batch, heads, tokens, dim]);
  }) as Inputs;
}

const drawn = new Map<string, [a: Float32Array, c: Float32Array]>();

function parts(name: string, size: number): [a: Float32Array, c: Float32Array] {
  const key = `${name} ${size}`;
  const draws = stream(3).child(name);
  const found = drawn.get(key) ?? [draws.child("A").normal(size), draws.child("C").normal(size)];
  drawn.set(key, found);
  return found;
}

/** The outputs that follow from `state` for all steps left, in order, and the last state. */
export async function sample(
  method: Method,
  state: MethodState,
  name: string,
  { frozen = false, until = Infinity }: { frozen?: boolean; until?: number } = {},
): Promise<{ outputs: Float32Array[]; state: MethodState }> {
  const outputs: Float32Array[] = [];
  const { context } = state;
  for (let step = state.step; step < Math.min(context.steps, until); step++) {
    for (let layer = 0; layer < context.layers; layer++) {
      if (state.step > step || state.done[layer]) continue;
      const inputs = inputsAt(name, { layer, step }, context, frozen);
      const stepped = await method.step(state, { layer, step }, ...inputs);
      state = stepped.state;
      outputs.push(await values(stepped.output));
      tf.dispose([...inputs, stepped.output]);
    }
  }
  return { outputs, state };
}

/** The numbers of a tensor. */
export async function values(tensor: tf.Tensor): Promise<Float32Array> {
  return Float32Array.from(await tensor.data());
}

/** The largest difference. */
export function apart(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let most = a.length === b.length ? 0 : Infinity;
  for (let i = 0; i < a.length; i++) {
    const distance = Math.abs(a[i]! - b[i]!);
    most = Number.isNaN(distance) ? Infinity : Math.max(most, distance);
  }
  return most;
}

/** A method's calls in {@linkcode context}, as a share of full attention's, if the mask keeps `kept`. */
export function callShare(method: Method, kept: number): number {
  const { layers, steps } = context;
  const calls = Array.from(
    { length: layers * steps },
    (_, index) => method.calls({ layer: index % layers, step: Math.floor(index / layers) }),
  );
  return calls.reduce((sum, { dense, sparse, share }) => sum + (dense + sparse * kept) * share, 0) /
    calls.length;
}

/** A plan that uses each choice, for two layers and 20 steps. */
export const plan: PlanTable = [
  ["full_attn", "residual_window_attn", "output_share", "residual_window_attn+cfg_attn_share"],
  ["full_attn", "full_attn+cfg_attn_share", "residual_window_attn", "output_share"],
].map((row) => Array.from({ length: 20 }, (_, step) => row[step % 4]!)) as PlanTable;

/** Every method, with settings that have it hold all that it can hold. */
export function everyMethod(mask: Mask): Method[] {
  const options = { mask, schedule };
  // A selection has masks for all rows of the batch.
  const { heads } = mask;
  const chosen: Mask = heads === null ? mask : {
    ...mask,
    label: `${mask.label} for each row`,
    heads: context.batch * heads,
    intervals: (query, head) => mask.intervals(query, head % heads),
  };
  return [
    fullAttention(),
    windowOnly(options),
    outputSharing(options),
    residualSharing(options),
    rettention(options),
    rettention({ ...options, lambda: "fitted", clamp: true }),
    rettention({ ...options, residual: false }),
    officialRettention({ mask, model: "pixart" }),
    fittedGain(options),
    fittedGain({ ...options, per: "row", first: "ratio" }),
    fittedGain({ ...options, first: 0.5 }),
    fittedGain({ ...options, gains: [[0.25, 0.5], [0.75, 1]] }),
    gainCalibration(options),
    ditfastattn({ mask, table: plan }),
    selective({
      ...options,
      name: "chosen",
      settings: mask.label,
      select: () => ({ mask: chosen, layout: null }),
    }),
  ];
}
