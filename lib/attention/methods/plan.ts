/** DiTFastAttn (Yuan et al. 2024, arXiv 2406.08552): each layer does at each step what a plan says. */
import * as tf from "@tensorflow/tfjs";
import { attend } from "../attend.ts";
import type { Implementation, Mask } from "../types.ts";
import { defineMethod, type Inputs } from "./_define.ts";
import type { Calls, DirectMethod, Held, Place, Reads } from "./types.ts";

/** What a layer does at a step, in the words of the official code. */
export const planChoices = [
  "full_attn",
  "full_attn+cfg_attn_share",
  "residual_window_attn",
  "residual_window_attn+cfg_attn_share",
  "output_share",
] as const;

/**
 * `full_attn`: attention to all keys. `residual_window_attn`: the window plus the residual of the latest attention to all keys.
 * `output_share`: the layer's latest output again. `+cfg_attn_share`: computed for the conditional half of the batch, and given to both.
 */
export type PlanChoice = typeof planChoices[number];

/** What each layer does at each step, [layers][steps]. */
export type PlanTable = readonly (readonly PlanChoice[])[];

/** Where the conditional half of a guided batch is. */
export type GuidanceOrder = "unconditional first" | "conditional first";

/** Settings that a plan's run and its search share. */
export interface PlanOptions {
  /** The window: a band of half width W for the official `window_size = [W, W]`. */
  readonly mask: Mask;
  /** Default `unconditional first`, as in most pipelines of diffusers. */
  readonly order?: GuidanceOrder;
  /**
   * Whose residual the shared half uses. The published code takes the first half of the batch, which with the unconditional half first
   * is the other one's. Default `published`.
   */
  readonly sharedResidual?: "published" | "own";
  readonly implementation?: Implementation;
}

/**
 * DiTFastAttn by a plan, as {@linkcode searchPlan} finds it: before the output projection, residuals per head.
 *
 * Holds `residual` and `output` [batch, heads, tokens, dim], each only from where it is taken to where the plan last uses it.
 * @throws {RangeError} on a table that is not [layers][steps] of known choices, or shares or goes on from what is not there yet
 */
export function ditfastattn(
  { table, ...options }: PlanOptions & { readonly table: PlanTable },
): DirectMethod {
  requirePlan(table);
  const choiceAt = ({ layer, step }: Place) => table[layer]![step]!;
  return definePlan(options, {
    name: "DiTFastAttn",
    label: table.map((row) => row.map((choice) => planChoices.indexOf(choice)).join("")).join(" "),
    sizes: { layers: table.length, steps: table[0]!.length },
    choiceAt,
    keepsResidual: (layer, done) => usesResidual(table[layer]!, done),
    keepsOutput: (layer, done) => table[layer]![done] === "output_share",
  });
}

/**
 * One step with `choices`, [layers]: for {@linkcode searchPlan}, which tries several from copies of one state. Steps of different choices go
 * on with each other's states, and each holds all that any choice for the next step may need.
 * @throws {RangeError} on an unknown choice
 */
export function ditfastattnTrial(
  { choices, ...options }: PlanOptions & { readonly choices: readonly PlanChoice[] },
): DirectMethod {
  choices.forEach(requireChoice);
  return definePlan(options, {
    name: "DiTFastAttn trial",
    label: "any",
    sizes: { layers: choices.length },
    choiceAt: ({ layer }) => choices[layer]!,
    keepsResidual: () => true,
    keepsOutput: () => true,
  });
}

const isFull = (choice: PlanChoice) => choice.startsWith("full_attn");
const isWindow = (choice: PlanChoice) => choice.startsWith("residual_window_attn");
const isShared = (choice: PlanChoice) => choice.endsWith("cfg_attn_share");

interface PlanParts {
  readonly name: string;
  readonly label: string;
  readonly sizes: { readonly layers: number; readonly steps?: number };
  choiceAt(place: Place): PlanChoice;
  /** Whether the residual is held after `done` steps. */
  keepsResidual(layer: number, done: number): boolean;
  keepsOutput(layer: number, done: number): boolean;
}

function definePlan(
  { mask, order = "unconditional first", sharedResidual = "published", implementation = "auto" }: PlanOptions,
  { name, label, sizes, choiceAt, keepsResidual, keepsOutput }: PlanParts,
): DirectMethod {
  const conditional = order === "unconditional first" ? 1 : 0;
  const halves = Array.from({ length: sizes.layers }, (_, layer) => layer).some((layer) =>
    Array.from({ length: sizes.steps ?? 1 }, (_, step) => step).some((step) =>
      isShared(choiceAt({ layer, step }))
    )
  );
  return defineMethod({
    name,
    label: `${name}(${[mask.label, order, `residual ${sharedResidual}`, label].join("; ")})`,
    masks: [mask],
    sizes,
    halves,
    reads(place): Reads {
      const choice = choiceAt(place);
      if (choice === "output_share") return "nothing";
      return isShared(choice) ? "conditional" : "all";
    },
    calls(place): Calls {
      const choice = choiceAt(place);
      const window = isWindow(choice) || (isFull(choice) && keepsResidual(place.layer, place.step + 1));
      return { dense: isFull(choice) ? 1 : 0, sparse: window ? 1 : 0, share: isShared(choice) ? 0.5 : 1 };
    },
    holds({ batch, heads, tokens, dim }, layer, done): Record<string, readonly number[]> {
      if (done === 0) return {};
      const shape = [batch, heads, tokens, dim];
      return {
        ...(keepsResidual(layer, done) ? { residual: shape } : {}),
        ...(keepsOutput(layer, done) ? { output: shape } : {}),
      };
    },
    compute(held, place, inputs, { batch }) {
      const choice = choiceAt(place);
      const { layer, step } = place;
      const [keepResidual, keepOutput] = [keepsResidual(layer, step + 1), keepsOutput(layer, step + 1)];
      const hold = (residual: tf.Tensor | undefined, output: tf.Tensor4D): Held => ({
        ...(keepResidual && residual ? { residual } : {}),
        ...(keepOutput ? { output } : {}),
      });
      if (choice === "output_share") {
        const output = heldTensor(held, "output", choice, place);
        return { output, held: hold(held.residual, output) };
      }
      const shared = isShared(choice);
      const half = (x: tf.Tensor4D, index: number) => tf.slice(x, [index * batch / 2], [batch / 2]);
      const both = (x: tf.Tensor4D) => (shared ? tf.concat([x, x], 0) : x);
      const read = (x: tf.Tensor4D) => (shared && x.shape[0] === batch ? half(x, conditional) : x);
      const { q, k, v } = inputs as Inputs;
      const [ownQ, ownK, ownV] = [read(q), read(k), read(v)];
      if (isFull(choice)) {
        const { output } = attend(ownQ, ownK, ownV, { implementation });
        const residual = keepResidual
          ? both(tf.sub(output, attend(ownQ, ownK, ownV, { implementation, mask }).output))
          : undefined;
        const given = both(output);
        return { output: given, held: hold(residual, given) };
      }
      const whole = heldTensor(held, "residual", choice, place);
      const residual = shared ? half(whole, sharedResidual === "published" ? 0 : conditional) : whole;
      const rho = tf.ones<tf.Rank.R3>([residual.shape[0], residual.shape[1], residual.shape[2]]);
      const { output } = attend(ownQ, ownK, ownV, { implementation, mask, epilogue: { rho, residual } });
      const given = both(output);
      return { output: given, held: hold(whole, given) };
    },
  });
}

/** Whether the residual that was taken before step `from` is used at `from` or later, before it is taken again. */
function usesResidual(row: readonly PlanChoice[], from: number): boolean {
  const next = row.slice(from).find((choice) => isWindow(choice) || isFull(choice));
  return next !== undefined && isWindow(next);
}

function heldTensor(held: Held, name: string, choice: PlanChoice, { layer, step }: Place): tf.Tensor4D {
  const tensor = held[name];
  if (!tensor) {
    throw new RangeError(
      `Cannot step as ${choice} must come after a step that leaves its ${name}: current call is step ${step} of layer ${layer}`,
    );
  }
  return tensor as tf.Tensor4D;
}

function requireChoice(choice: PlanChoice): void {
  if (!planChoices.includes(choice)) {
    throw new RangeError(
      `Cannot make a plan as its choices must be of ${planChoices.join(", ")}: current choice is ${choice}`,
    );
  }
}

/** @throws {RangeError} on a table that is ragged, empty, of unknown choices, or does not begin with attention to all keys */
function requirePlan(table: PlanTable): void {
  const steps = table[0]?.length;
  if (!steps || table.some((row) => row.length !== steps)) {
    throw new RangeError(
      `Cannot make a plan as its table must be [layers][steps]: current layers have ${
        table.map((row) => row.length).join(", ") || "no"
      } steps`,
    );
  }
  for (const [layer, row] of table.entries()) {
    row.forEach(requireChoice);
    if (!isFull(row[0]!)) {
      throw new RangeError(
        `Cannot make a plan as each layer must begin with full_attn: layer ${layer} begins with ${row[0]}`,
      );
    }
  }
}
