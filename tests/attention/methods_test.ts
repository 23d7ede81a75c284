/** Methods over a sampling run: against reference values, and by what must hold for any input. */
import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import {
  disposeState,
  fittedGain,
  full,
  fullAttention,
  officialRettention,
  outputSharing,
  publishedSchedule,
  residualSharing,
  rettention,
  schedule as anySchedule,
  scheduleCost,
  windowOnly,
} from "../../lib/attention/mod.ts";
import { useBackend } from "../../lib/tensor/mod.ts";
import { checkOverTime } from "../../tools/golden/over_time.ts";
import {
  apart,
  callShare,
  context,
  inputsAt,
  masks,
  sample,
  schedule,
  TOLERANCE,
  values,
} from "./_sampling.ts";

await useBackend("wasm");

const { tokens, heads } = context;

const folder = new URL("../golden/diffusion/over_time", import.meta.url).pathname;

for (const evaluation of ["compiled", "interpreted"] as const) {
  Deno.test(`methods agree with the reference values of a layer over time, ${evaluation}`, async () => {
    const { comparisons } = await checkOverTime(folder, { evaluation });
    assert.ok(comparisons.length >= 150, `${comparisons.length} values compared`);
    assert.deepEqual(comparisons.filter(({ passed }) => !passed), []);
  });
}

Deno.test("a mask that drops nothing has rho = 1 and R = 0, and every method gives full attention", async () => {
  const mask = full(tokens);
  const expected = await sample(fullAttention(), fullAttention().begin(context), "full mask");
  const plain = rettention({ mask, schedule, lambda: 0, exactFullRows: false });
  let state = plain.begin(context);
  for (let step = 0; step <= 5; step++) {
    for (let layer = 0; layer < 2; layer++) {
      const inputs = inputsAt("full mask", { layer, step });
      ({ state } = plain.step(state, { layer, step }, ...inputs));
    }
  }
  for (const { rho, residual } of state.layers) {
    assert.ok(apart(await values(rho!), (await values(rho!)).fill(1)) < TOLERANCE);
    assert.ok(apart(await values(residual!), (await values(residual!)).fill(0)) < TOLERANCE);
  }
  // Of these, output sharing aside, all are exact where nothing is dropped, unless rho is moved or gains are given.
  for (
    const method of [windowOnly, residualSharing, rettention, fittedGain].map((make) =>
      make({ mask, schedule })
    )
  ) {
    const { outputs } = await sample(method, method.begin(context), "full mask");
    outputs.forEach((output, i) => assert.ok(apart(output, expected.outputs[i]!) < TOLERANCE, method.label));
  }
});

Deno.test("with q, k and v that stay the same, residual methods without lambda give full attention at every step", async () => {
  for (const mask of masks) {
    const options = { mask, schedule };
    for (
      const method of [
        outputSharing(options),
        residualSharing(options),
        rettention({ ...options, lambda: 0 }),
        rettention({ ...options, lambda: 0, exactFullRows: false }),
        rettention({ ...options, lambda: "fitted" }),
        fittedGain(options),
        fittedGain({ ...options, per: "row", first: "ratio" }),
        fittedGain({ ...options, gains: [[0.1, 0.7], [0, 2]] }),
      ]
    ) {
      const expected = await sample(fullAttention(), fullAttention().begin(context), "frozen", {
        frozen: true,
      });
      const { outputs } = await sample(method, method.begin(context), "frozen", { frozen: true });
      outputs.forEach((output, i) =>
        assert.ok(apart(output, expected.outputs[i]!) < TOLERANCE, method.label)
      );
    }
  }
});

Deno.test("rho is in [0, 1] after a refresh, 0 in empty rows and 1 in full ones, and with a clamp at all steps", async () => {
  for (const mask of masks) {
    for (const lambda of [0.4, -0.4, "fitted"] as const) {
      const method = rettention({ mask, schedule, lambda, clamp: true });
      let state = method.begin(context);
      for (let step = 0; step < context.steps; step++) {
        for (let layer = 0; layer < context.layers; layer++) {
          const inputs = inputsAt("rho", { layer, step });
          const ratio = method.ratio(state, layer);
          if (ratio) { for (const rho of await values(ratio)) assert.ok(rho >= 0 && rho <= 1, `rho ${rho}`); }
          ({ state } = method.step(state, { layer, step }, ...inputs));
          if (schedule.kinds[step] !== "refresh") continue;
          const rho = await values(state.layers[layer]!.rho!);
          for (const [index, value] of rho.entries()) {
            const bounds = mask.intervals(index % tokens, Math.floor(index / tokens) % heads);
            const all = bounds.length === 2 && bounds[1]! - bounds[0]! === tokens;
            assert.ok(value >= 0 && value <= 1);
            if (bounds.length === 0) assert.equal(value, 0);
            if (all) assert.equal(value, 1);
          }
        }
      }
      disposeState(state);
    }
  }
});

Deno.test("rows of a guided batch have statistics of their own", async () => {
  const mask = masks[1]!;
  for (const make of [rettention, fittedGain, residualSharing]) {
    const method = make({ mask, schedule });
    const both = await sample(method, method.begin(context), "guided");
    const single = { ...context, batch: 1 };
    for (const row of [0, 1]) {
      let state = method.begin(single);
      for (let step = 0, call = 0; step < context.steps; step++) {
        for (let layer = 0; layer < context.layers; layer++, call++) {
          const own = inputsAt("guided", { layer, step }).map((x) => tf.slice(x, [row], [1]));
          const stepped = method.step(state, { layer, step }, own[0]!, own[1]!, own[2]!);
          state = stepped.state;
          const half = both.outputs[call]!.length / 2;
          const expected = both.outputs[call]!.subarray(row * half, (row + 1) * half);
          assert.ok(apart(await values(stepped.output), expected) < TOLERANCE, method.label);
        }
      }
      disposeState(state);
    }
  }
});

Deno.test("published schedules, their costs, and the official code's list of refreshes", () => {
  const count = (schedule: { kinds: readonly string[] }, kind: string) =>
    schedule.kinds.filter((one) => one === kind).length;
  for (
    const [model, ...expected] of [["pixart", 5, 3, 12], ["hunyuan", 10, 8, 32], [
      "cogvideox",
      15,
      7,
      28,
    ]] as const
  ) {
    const published = publishedSchedule(model);
    assert.deepEqual(["warm", "refresh", "sparse"].map((kind) => count(published, kind)), expected);
    assert.deepEqual(published.kinds, publishedSchedule(model, { literal: true }).kinds);
  }
  assert.equal(count(publishedSchedule("pixart", { steps: 50 }), "refresh"), 9);
  assert.equal(count(publishedSchedule("pixart", { steps: 50, literal: true }), "refresh"), 3);
  assert.equal(
    officialRettention({ mask: masks[2]!, model: "pixart", steps: 50 }).schedule.kinds.lastIndexOf("refresh"),
    15,
  );
  const mask = masks[2]!;
  assert.equal(scheduleCost(schedule, 1 / 32), (8 + 15 / 32) / 20);
  for (
    const [method, dense, sparse] of [
      [rettention({ mask, schedule }), 8, 15],
      [fittedGain({ mask, schedule }), 8, 16],
      [fittedGain({ mask, schedule, first: 1 }), 8, 15],
      [outputSharing({ schedule }), 8, 0],
      [windowOnly({ mask, schedule }), 8, 12],
      [fullAttention(), 20, 0],
    ] as const
  ) {
    assert.equal(callShare(method, 1 / 32), (dense + sparse / 32) / 20, method.label);
  }
});

Deno.test("lambda is added after sparse steps only", async () => {
  const kinds = ["refresh", "sparse", "warm", "sparse", "sparse", "refresh"] as const;
  const method = rettention({ mask: masks[2]!, schedule: anySchedule("mixed", kinds), lambda: 0.25 });
  let state = method.begin({ ...context, layers: 1, steps: kinds.length });
  const added: number[] = [];
  for (const step of kinds.keys()) {
    const ratio = method.ratio(state, 0);
    added.push(ratio ? (await values(ratio))[0]! - (await values(state.layers[0]!.rho!))[0]! : NaN);
    ({ state } = method.step(state, { layer: 0, step }, ...inputsAt("mixed", { layer: 0, step })));
  }
  assert.deepEqual(added.map((value) => Number(value.toFixed(5))), [NaN, 0, 0.25, 0.25, 0.5, 0.75]);
  disposeState(state);
});
