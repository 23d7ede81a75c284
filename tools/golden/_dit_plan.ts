/** The greedy plan of DiTFastAttn, searched with the tiny PixArt. */
import * as tf from "@tensorflow/tfjs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  band,
  ditfastattn,
  ditfastattnTrial,
  fullAttention,
  type PlanChoice,
  planChoices,
  searchPlan,
} from "../../lib/attention/mod.ts";
import { readScheduler } from "../../lib/diffusion/mod.ts";
import { methodAttention } from "../../lib/models/mod.ts";
import { bindModel, readTensors } from "./_dit_model.ts";
import { attentionOf, guidedModel, runOf } from "./_dit_run.ts";
import { compare, type Comparison } from "./report.ts";

interface Plan {
  steps: number;
  guidance: number;
  window: [number, number];
  tokens: number;
  runs: Record<string, {
    delta: number;
    candidate_methods: PlanChoice[];
    candidates: { step: number; block: number; method: PlanChoice; loss: number; accepted: boolean }[];
    method_table_block_by_step: PlanChoice[][];
    smallest_margin_to_threshold: number;
  }>;
}

/**
 * Losses are means of quotients whose denominators may be near zero, so that rounding weighs more than in the output itself. Absolute; the
 * closest decision has a margin of 1e-3.
 */
const LOSS_TOLERANCE = 2e-4;

/** Latents as a share of the largest, 10 times what float32 is off in the runs of the same model. */
const LATENTS_TOLERANCE = 1e-5;

/** Compares losses and decisions of each search, the tables, and the latents of a run by each plan. */
export async function checkPlan(models: string, rivals: string): Promise<Comparison[]> {
  const facts: Plan = JSON.parse(await readFile(join(rivals, "ditfastattn_plan.json"), "utf8"));
  const tensors = await readTensors(join(rivals, "ditfastattn_plan.safetensors"));
  const folder = join(models, "pixart");
  const bound = await bindModel(folder, tensors);
  const scheduler = await readScheduler(join(folder, "scheduler", "scheduler_config.json"));
  const { model } = bound;
  const { steps, guidance, tokens } = facts;
  const mask = band(tokens, facts.window[0]);
  const { data, shape } = tensors.get("in.latents")!;
  const comparisons: Comparison[] = [];
  const finalOf = (name: string, latents: Float32Array) => {
    const reference = tensors.get(`final_latents_${name}`)!;
    const values = reference.data as Float32Array;
    comparisons.push(
      compare(`ditfastattn_plan/${name}/latents`, latents, values, reference.shape, LATENTS_TOLERANCE),
    );
  };
  finalOf("dense", await runOf(bound, scheduler, fullAttention(), tensors, facts));
  for (const [name, run] of Object.entries(facts.runs)) {
    let latents = data as Float32Array;
    let noise = scheduler.begin(steps);
    const trial = (choices: readonly PlanChoice[]) => ditfastattnTrial({ mask, choices });
    let place = attentionOf(
      bound,
      trial(Array.from({ length: model.layers }, () => "full_attn")),
      shape,
      steps,
    );
    const at = (step: number) => ({ step, steps, timestep: noise.timesteps[step]! });
    const { table, trials } = await searchPlan({
      layers: model.layers,
      steps,
      threshold: run.delta,
      candidates: run.candidate_methods,
      async output(step, choices) {
        const copy = place.copy(trial(choices));
        const both = tf.tidy(() => tf.concat([tf.tensor(latents, shape), tf.tensor(latents, shape)], 0));
        const output = model.forward(bound.inputs(both, at(step).timestep), { attention: copy.attention });
        const values = await output.data();
        tf.dispose([both, output]);
        copy.dispose();
        return values;
      },
      async advance(step, choices) {
        place = methodAttention(trial(choices), place.state);
        const input = tf.tensor(latents, shape);
        const output = await guidedModel(bound, () => place.attention, shape, guidance)(input, at(step));
        ({ previous: latents, state: noise } = scheduler.step(
          noise,
          Float32Array.from(await output.data()),
          latents,
        ));
        tf.dispose([input, output]);
      },
    });
    place.dispose();
    const key = (one: { step: number; layer: number; choice: PlanChoice; accepted: boolean }) => [
      one.step,
      one.layer,
      planChoices.indexOf(one.choice),
      Number(one.accepted),
    ];
    const wanted = run.candidates.map(({ block, method, ...rest }) => ({
      ...rest,
      layer: block,
      choice: method,
    }));
    const coded = (choices: PlanChoice[][]) => choices.flat().map((choice) => planChoices.indexOf(choice));
    const reference = run.method_table_block_by_step;
    comparisons.push(
      compareTrials(`ditfastattn_plan/${name}/decisions`, trials.flatMap(key), wanted.flatMap(key), 0),
      compareTrials(
        `ditfastattn_plan/${name}/losses`,
        trials.map(({ loss }) => loss),
        wanted.map(({ loss }) => loss),
        LOSS_TOLERANCE,
      ),
      compare(`ditfastattn_plan/${name}/table`, coded(table), coded(reference), [model.layers, steps], 0),
    );
    finalOf(
      `delta${name}`,
      await runOf(bound, scheduler, ditfastattn({ mask, table: reference }), tensors, facts),
    );
  }
  bound.dispose();
  return comparisons;
}

/** A search that went another way has another number of trials: a miss, not an error. */
function compareTrials(name: string, found: number[], wanted: number[], tolerance: number): Comparison {
  if (found.length === wanted.length) return compare(name, found, wanted, [wanted.length], tolerance, 1);
  return { name, error: Infinity, tolerance, worst: [Math.min(found.length, wanted.length)], passed: false };
}
