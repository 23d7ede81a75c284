/** The group `over_time`: one attention layer over the denoising steps of a run, with the published schedules and all variants of Re-ttention. */
import * as tf from "@tensorflow/tfjs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  band,
  disposeState,
  frameBand,
  type Implementation,
  type Mask,
  officialRettention,
  type PublishedModel,
  publishedSchedule,
  residualSharing,
  rettention,
  type Schedule,
  scheduleCost,
  type ScheduledMethod,
  type StepKind,
  windowOnly,
} from "../../lib/attention/mod.ts";
import { readSafetensors, type SafetensorsTensor } from "../../lib/tensor/mod.ts";
import { compare, type Comparison, type Evaluation } from "./report.ts";

type MaskParameters =
  | { kind: "band"; half: number }
  | { kind: "frame_band"; ctx: number; frames: number; frame_size: number; half: number };

interface Case {
  file: string;
  steps: number;
  schedule_kind: PublishedModel;
  schedule: StepKind[];
  N: number;
  mask: MaskParameters;
}

interface Schedules {
  schedules: Record<string, StepKind[]>;
  counts: Record<string, Record<StepKind, number> & { cost_floor_at_p: Record<string, number> }>;
}

/** What the methods of a case are made of. */
interface Setting {
  mask: Mask;
  schedule: Schedule;
  model: PublishedModel;
  implementation: Implementation;
}

/** The method of each mode of the reference values. */
const modes: Record<string, (setting: Setting) => ScheduledMethod> = {
  window_only: windowOnly,
  residual_only_ditfastattn: residualSharing,
  ratio_only: (setting) => rettention({ ...setting, residual: false, lambda: 0 }),
  ratio_only_lam004: (setting) => rettention({ ...setting, residual: false, exactFullRows: false }),
  ratio_residual_lam0: (setting) => rettention({ ...setting, lambda: 0 }),
  ratio_residual_lam004: ({ schedule, ...setting }) =>
    officialRettention({ ...setting, steps: schedule.kinds.length }),
  ratio_residual_lam004_fullrows: rettention,
  ratio_residual_lam004_clamped: (setting) => rettention({ ...setting, clamp: true }),
};

/** float32 beside float64, on outputs, rho and R, which are of order 1: the tolerance that the reference values state. Absolute. */
const TOLERANCE = 1e-5;

/**
 * Compares outputs, rho and R of every mode at every step, the masks, and the schedules. `compiled`: whatever `attend` takes by itself, and
 * batched tiles; `interpreted`: the plain reference.
 */
export async function checkOverTime(
  folder: string,
  { evaluation }: Evaluation,
): Promise<{ comparisons: Comparison[]; skipped: string[] }> {
  const json = async (name: string) => JSON.parse(await readFile(join(folder, name), "utf8"));
  const { cases }: { cases: Case[] } = await json("index.json");
  const comparisons = checkSchedules(await json("schedules.json"));
  const implementations: Implementation[] = evaluation === "compiled" ? ["auto", "tiles"] : ["reference"];
  for (const one of cases) {
    const tensors = readSafetensors(await readFile(join(folder, "..", one.file)));
    const mask = maskOf(one);
    const name = one.file.replace(/\.safetensors$/, "");
    comparisons.push(checkMask(`${name}/mask`, mask, tensors.get("mask")!));
    const schedule = publishedSchedule(one.schedule_kind, { steps: one.steps, literal: true });
    for (const implementation of implementations) {
      const setting = { mask, schedule, model: one.schedule_kind, implementation };
      for (const [mode, method] of Object.entries(modes)) {
        comparisons.push(...await checkMode(`${name}/${implementation}`, mode, method(setting), tensors));
      }
    }
  }
  return { comparisons, skipped: [] };
}

function checkSchedules({ schedules, counts }: Schedules): Comparison[] {
  return Object.entries(schedules).flatMap(([key, kinds]) => {
    const [model, steps] = key.split("_") as [PublishedModel, string];
    const made = publishedSchedule(model, { steps: Number(steps), literal: true });
    const code = (kind: StepKind) => ["warm", "refresh", "sparse"].indexOf(kind);
    const floors = Object.entries(counts[key]!.cost_floor_at_p);
    return [
      compare(`over_time/${key}/schedule`, made.kinds.map(code), kinds.map(code), [kinds.length], 0),
      compare(
        `over_time/${key}/cost`,
        floors.map(([kept]) => scheduleCost(made, Number(kept))),
        floors.map(([, floor]) => floor),
        [floors.length],
        1e-12,
      ),
    ];
  });
}

function maskOf({ N, mask }: Case): Mask {
  if (mask.kind === "band") return band(N, mask.half);
  return frameBand({ text: mask.ctx, frames: mask.frames, frameTokens: mask.frame_size, half: mask.half });
}

function checkMask(name: string, mask: Mask, { data, shape }: SafetensorsTensor): Comparison {
  const kept = new Uint8Array(mask.queries * mask.keys);
  for (let query = 0; query < mask.queries; query++) {
    const bounds = mask.intervals(query, 0);
    for (let i = 0; i < bounds.length; i += 2) {
      kept.fill(1, query * mask.keys + bounds[i]!, query * mask.keys + bounds[i + 1]!);
    }
  }
  return compare(name, kept, data as Uint8Array, shape, 0);
}

/** One mode over all steps. Tensors are read back together, as each read waits for the device. */
async function checkMode(
  name: string,
  mode: string,
  method: ScheduledMethod,
  tensors: ReadonlyMap<string, SafetensorsTensor>,
): Promise<Comparison[]> {
  const reference = (key: string) => tensors.get(key)!;
  const [steps, batch, heads, tokens, dim] = reference("q").shape as [number, number, number, number, number];
  const at = (key: string, step: number) => {
    const size = batch * heads * tokens * dim;
    const values = reference(key).data as Float32Array;
    return tf.tensor4d(values.slice(step * size, (step + 1) * size), [batch, heads, tokens, dim]);
  };
  const { kinds } = method.schedule;
  const outputs: Record<StepKind, tf.Tensor[]> = { warm: [], refresh: [], sparse: [] };
  const ratios: { used: tf.Tensor[]; held: tf.Tensor[] } = { used: [], held: [] };
  const residuals: tf.Tensor[] = [];
  let state = method.begin({ batch, heads, tokens, dim, steps });
  for (const [step, kind] of kinds.entries()) {
    const inputs = [at("q", step), at("k", step), at("v", step)] as const;
    if (kind === "sparse") ratios.used.push(method.ratio(state, 0) ?? tf.fill([batch, heads, tokens], NaN));
    const stepped = method.step(state, { layer: 0, step }, ...inputs);
    state = stepped.state;
    outputs[kind].push(stepped.output);
    ratios.held.push(method.ratio(state, 0) ?? tf.fill([batch, heads, tokens], NaN));
    const { residual } = state.layers[0]!;
    if (kind === "refresh" && residual) residuals.push(residual.clone());
    tf.dispose([...inputs]);
  }
  disposeState(state);

  const pairs: [string, tf.Tensor[], SafetensorsTensor | undefined, number[]?][] = [
    ["O", outputs.sparse, reference(`${mode}.O_sparse_steps`)],
    ["rho used", ratios.used, tensors.get(`${mode}.rho_used`)],
    ["rho held", ratios.held, tensors.get(`${mode}.rho_held_after`)],
    ["R", residuals, tensors.get(`${mode.replace(/_lam0.*/, "")}.R`)],
    ["dense O", [...outputs.warm, ...outputs.refresh], reference("full.O"), [
      ...indices(kinds, "warm"),
      ...indices(kinds, "refresh"),
    ]],
  ];
  const comparisons: Comparison[] = [];
  for (const [kind, measured, expected, places] of pairs) {
    if (!expected || measured.length === 0) continue;
    const stacked = tf.tidy(() => tf.stack(measured));
    const size = stacked.size / measured.length;
    const data = expected.data as Float32Array;
    const values = places
      ? Float32Array.from(places.flatMap((place) => [...data.subarray(place * size, (place + 1) * size)]))
      : data;
    const found = await stacked.data();
    comparisons.push(compare(`${name}/${mode}/${kind}`, found, values, stacked.shape, TOLERANCE, 1));
    stacked.dispose();
  }
  tf.dispose([outputs, ratios, residuals]);
  return comparisons;
}

function indices(kinds: readonly StepKind[], wanted: StepKind): number[] {
  return kinds.flatMap((kind, index) => (kind === wanted ? [index] : []));
}
