/** DiTFastAttn: plans, their search, and the loss that it goes by. */
import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import {
  attend,
  band,
  copyState,
  disposeState,
  ditfastattn,
  ditfastattnTrial,
  type Method,
  type MethodState,
  type PlanChoice,
  planLoss,
  type PlanTable,
  residualSharing,
  searchPlan,
} from "../../lib/attention/mod.ts";
import { useBackend } from "../../lib/tensor/mod.ts";
import {
  apart,
  callShare,
  context,
  type Inputs,
  inputsAt,
  plan,
  sample,
  schedule,
  TOLERANCE,
  values,
} from "./_sampling.ts";

await useBackend("wasm");

const mask = band(context.tokens, 2);
const single = { ...context, layers: 1 };

/** One layer that does `choices`, over as many steps. */
async function outputsOf(
  choices: PlanChoice[],
  options: { sharedResidual?: "published" | "own"; order?: "unconditional first" | "conditional first" } = {},
) {
  const method = ditfastattn({ mask, table: [choices], ...options });
  const { outputs, state } = await sample(method, method.begin({ ...single, steps: choices.length }), "plan");
  assert.deepEqual(state.layers, [{}]);
  return outputs;
}

/** O and W of a step of {@linkcode outputsOf}. */
async function expected(step: number, steps: number) {
  const [q, k, v] = inputsAt("plan", { layer: 0, step }, { ...single, steps });
  return {
    full: await values(attend(q, k, v).output),
    window: await values(attend(q, k, v, { mask }).output),
  };
}

Deno.test("a plan of full attention and residual windows is residual sharing on that schedule", async () => {
  const table: PlanTable = [0, 1].map(() =>
    schedule.kinds.map((kind) => (kind === "sparse" ? "residual_window_attn" : "full_attn"))
  );
  const [planned, shared] = [ditfastattn({ mask, table }), residualSharing({ mask, schedule })];
  const a = await sample(planned, planned.begin(context), "plan");
  const b = await sample(shared, shared.begin(context), "plan");
  a.outputs.forEach((output, i) => assert.ok(apart(output, b.outputs[i]!) < TOLERANCE));
  assert.equal(callShare(planned, 1 / 32), callShare(shared, 1 / 32));
});

Deno.test("shared halves are the conditional half twice, and shared outputs the latest ones", async () => {
  for (const [order, own] of [["unconditional first", 1], ["conditional first", 0]] as const) {
    const outputs = await outputsOf(
      ["full_attn", "full_attn+cfg_attn_share", "output_share", "output_share"],
      { order },
    );
    const { full } = await expected(1, 4);
    const half = full.length / 2;
    const conditional = full.subarray(own * half, (own + 1) * half);
    for (const step of [1, 2, 3]) {
      assert.ok(apart(outputs[step]!.subarray(0, half), conditional) < TOLERANCE);
      assert.ok(apart(outputs[step]!.subarray(half), conditional) < TOLERANCE);
    }
  }
});

Deno.test("a shared window adds the residual of the first half, as published, or its own", async () => {
  for (const [sharedResidual, row] of [["published", 0], ["own", 1]] as const) {
    const outputs = await outputsOf(["full_attn", "residual_window_attn+cfg_attn_share"], { sharedResidual });
    const [start, now] = [await expected(0, 2), await expected(1, 2)];
    const half = now.full.length / 2;
    const shared = now.window.slice(half).map((window, i) => {
      const at = row * half + i;
      return window + start.full[at]! - start.window[at]!;
    });
    assert.ok(apart(outputs[1]!.subarray(0, half), shared) < TOLERANCE);
    assert.ok(apart(outputs[1]!.subarray(half), shared) < TOLERANCE);
  }
});

Deno.test("the residual comes from the latest full attention, shared or not, across shared outputs", async () => {
  const choices: PlanChoice[] = [
    "full_attn",
    "full_attn+cfg_attn_share",
    "output_share",
    "residual_window_attn",
  ];
  const outputs = await outputsOf(choices);
  const [start, now] = [await expected(1, 4), await expected(3, 4)];
  const half = now.full.length / 2;
  // Of the shared step both halves have the conditional half's residual.
  const sum = now.window.map((window, i) =>
    window + start.full[half + i % half]! - start.window[half + i % half]!
  );
  assert.ok(apart(outputs[3]!, sum) < TOLERANCE);
});

Deno.test("a model may give only what a plan reads", async () => {
  const method = ditfastattn({ mask, table: plan });
  const whole = await sample(method, method.begin(context), "plan");
  let state = method.begin(context);
  for (let step = 0, call = 0; step < context.steps; step++) {
    for (let layer = 0; layer < context.layers; layer++, call++) {
      const inputs = inputsAt("plan", { layer, step });
      const reads = method.reads({ layer, step });
      const given: Inputs | [null, null, null] = reads === "nothing"
        ? [null, null, null]
        : reads === "all"
        ? inputs
        : inputs.map((x) => tf.slice(x, [1], [1])) as Inputs;
      const stepped = method.step(state, { layer, step }, given[0], given[1], given[2]);
      state = stepped.state;
      assert.deepEqual(await values(stepped.output), whole.outputs[call]);
    }
  }
});

Deno.test("plans that cannot run are refused", () => {
  const table = (...choices: string[]) => ({ mask, table: [choices as PlanChoice[]] });
  assert.throws(() => ditfastattn({ mask, table: [] }), RangeError);
  assert.throws(
    () => ditfastattn({ mask, table: [["full_attn"], ["full_attn", "full_attn"]] }),
    /1, 2 steps/,
  );
  assert.throws(() => ditfastattn(table("full_attn", "half_attn")), /current choice is half_attn/);
  assert.throws(() => ditfastattn(table("output_share", "full_attn")), /layer 0 begins with output_share/);
  assert.throws(
    () =>
      ditfastattn(table("full_attn", "full_attn+cfg_attn_share")).begin({ ...single, batch: 3, steps: 2 }),
    /'batch' must be even/,
  );
  const trial = ditfastattnTrial({ mask, choices: ["output_share"] });
  assert.throws(
    () =>
      trial.step(
        trial.begin(single),
        { layer: 0, step: 0 },
        ...inputsAt("plan", { layer: 0, step: 0 }, single),
      ),
    /output_share must come after a step that leaves its output/,
  );
});

Deno.test("the loss takes the absolute value of the quotient, a signed maximum, and at most 10 of an element", () => {
  assert.equal(planLoss([1, 2], [1, 2]), 0);
  assert.ok(Math.abs(planLoss([1], [3]) - 2 / 3) < 1e-6);
  // Both negative: |(-4 + 1) / (-1 + 1e-6)|.
  assert.ok(Math.abs(planLoss([-4], [-1]) - 3) < 1e-5);
  assert.ok(Math.abs(planLoss([-1, 1], [1e-9, 1]) - 5) < 1e-12);
  assert.throws(() => planLoss([1], [1, 2]), TypeError);
  assert.throws(() => planLoss([], []), TypeError);
});

Deno.test("the search tries candidates in order, layer after layer, and keeps the first below its limit", async () => {
  // Each choice of a layer moves the output 1 by its own amount: losses are sums of these, over the layers chosen so far.
  const amounts: Record<PlanChoice, number> = {
    "full_attn": 0,
    "output_share": 0.08,
    "residual_window_attn+cfg_attn_share": 0.041,
    "residual_window_attn": 0.021,
    "full_attn+cfg_attn_share": 0.005,
  };
  const calls: string[] = [];
  const output = (step: number, choices: readonly PlanChoice[]) => {
    calls.push(`${step}: ${choices.join()}`);
    // Later steps are easier.
    const moved = choices.reduce((sum, choice) => sum + amounts[choice] / step, 0);
    return [1, 1 - moved];
  };
  const advanced: [number, PlanChoice[]][] = [];
  const seen: unknown[] = [];
  const { table, trials } = await searchPlan({
    layers: 3,
    steps: 4,
    threshold: 0.03,
    output,
    advance: (step, choices) => void advanced.push([step, [...choices]]),
    onTrial: (trial) => seen.push(trial),
  });
  assert.deepEqual(seen, trials);
  // Losses are half the amounts, as one of two elements moves; limits 0.01, 0.02, 0.03.
  assert.deepEqual(table, [
    ["full_attn", "full_attn+cfg_attn_share", "residual_window_attn", "residual_window_attn+cfg_attn_share"],
    [
      "full_attn",
      "residual_window_attn",
      "residual_window_attn+cfg_attn_share",
      "residual_window_attn+cfg_attn_share",
    ],
    ["full_attn", "residual_window_attn", "residual_window_attn+cfg_attn_share", "output_share"],
  ]);
  assert.deepEqual(advanced, [0, 1, 2, 3].map((step) => [step, table.map((row) => row[step]!)]));
  assert.equal(calls[0], "1: full_attn,full_attn,full_attn");
  assert.equal(calls.length, trials.length + 3);
  const first = trials.filter(({ step }) => step === 1);
  assert.deepEqual(
    first.map((
      { layer, choice, loss, limit, accepted },
    ) => [layer, choice, loss.toFixed(4), limit.toFixed(4), accepted]),
    [
      [0, "output_share", "0.0400", "0.0100", false],
      [0, "residual_window_attn+cfg_attn_share", "0.0205", "0.0100", false],
      [0, "residual_window_attn", "0.0105", "0.0100", false],
      [0, "full_attn+cfg_attn_share", "0.0025", "0.0100", true],
      [1, "output_share", "0.0425", "0.0200", false],
      [1, "residual_window_attn+cfg_attn_share", "0.0230", "0.0200", false],
      [1, "residual_window_attn", "0.0130", "0.0200", true],
      [2, "output_share", "0.0530", "0.0300", false],
      [2, "residual_window_attn+cfg_attn_share", "0.0335", "0.0300", false],
      [2, "residual_window_attn", "0.0235", "0.0300", true],
    ],
  );
  const none = await searchPlan({
    layers: 1,
    steps: 2,
    threshold: 1e-9,
    candidates: ["output_share"],
    output,
    advance: () => {},
  });
  assert.deepEqual(none.table, [["full_attn", "full_attn"]]);
  await assert.rejects(
    searchPlan({ layers: 0, steps: 2, threshold: 1, output, advance: () => {} }),
    /'layers'/,
  );
  await assert.rejects(
    searchPlan({ layers: 1, steps: 2, threshold: NaN, output, advance: () => {} }),
    /'threshold'/,
  );
});

/** A model of two attention layers, each added to its input with fixed projections, on a guided batch; its latents move by its output. */
async function runModel(
  latents: tf.Tensor4D,
  method: Method,
  state: MethodState,
  step: number,
): Promise<{ output: tf.Tensor4D; state: MethodState }> {
  let x: tf.Tensor4D = latents;
  for (let layer = 0; layer < context.layers; layer++) {
    const [a, b, c] = inputsAt("model", { layer, step: 0 }).map((w) =>
      tf.slice(w, [0, 0, 0, 0], [1, -1, 8, -1]) as tf.Tensor4D
    );
    const project = (w: tf.Tensor4D | undefined) =>
      tf.matMul(x, tf.tile(w!, [context.batch, 1, 1, 1])).mul(0.3) as tf.Tensor4D;
    const stepped = await method.step(state, { layer, step }, project(a), project(b), project(c));
    state = stepped.state;
    x = tf.add(x, stepped.output);
  }
  return { output: x, state };
}

Deno.test("the search on a model: the plan's run gives the outputs of the steps that the search made", async () => {
  const [start] = inputsAt("latents", { layer: 0, step: 0 });
  const [noise] = inputsAt("latents", { layer: 1, step: 0 });
  const steps = 6;
  const run = { ...context, steps };
  const trial = (choices: readonly PlanChoice[]) => ditfastattnTrial({ mask, choices });
  let state = trial(["full_attn", "full_attn"]).begin(run);
  // Halves of a guided batch differ by little.
  let latents = tf.add<tf.Tensor4D>(tf.tile(tf.slice(start, [0], [1]), [2, 1, 1, 1]), tf.mul(noise, 0.01));
  const move = (latents: tf.Tensor4D, output: tf.Tensor4D) =>
    tf.add<tf.Tensor4D>(latents, tf.mul(output, 0.02));
  const made: Float32Array[] = [];
  const { table } = await searchPlan({
    layers: 2,
    steps,
    threshold: 0.3,
    async output(step, choices) {
      const trying = await runModel(latents, trial(choices), copyState(state), step);
      disposeState(trying.state);
      return values(trying.output);
    },
    async advance(step, choices) {
      const stepped = await runModel(latents, trial(choices), state, step);
      state = stepped.state;
      latents = move(latents, stepped.output);
      made.push(await values(stepped.output));
    },
  });
  // The threshold is such that the plan is worth a test.
  assert.ok(new Set(table.flat()).size >= 3, JSON.stringify(table));

  const method = ditfastattn({ mask, table });
  let planned = method.begin(run);
  latents = tf.add<tf.Tensor4D>(tf.tile(tf.slice(start, [0], [1]), [2, 1, 1, 1]), tf.mul(noise, 0.01));
  for (let step = 0; step < steps; step++) {
    const stepped = await runModel(latents, method, planned, step);
    planned = stepped.state;
    latents = move(latents, stepped.output);
    assert.deepEqual(await values(stepped.output), made[step]);
  }
});
