/** What methods fit: gains, in the run and by calibration, and the drift of rho. */
import assert from "node:assert/strict";
import {
  attend,
  disposeState,
  fitGains,
  fittedGain,
  fullAttention,
  gainCalibration,
  type Mask,
  type MethodState,
  outputSharing,
  residualSharing,
  rettention,
} from "../../lib/attention/mod.ts";
import { useBackend } from "../../lib/tensor/mod.ts";
import { apart, context, inputsAt, masks, sample, schedule, TOLERANCE, values } from "./_sampling.ts";

await useBackend("wasm");

const { tokens, heads } = context;

/** O and W of a layer at a step, computed apart from any method. */
async function outputsAt(name: string, place: { layer: number; step: number }, mask: Mask) {
  const [q, k, v] = inputsAt(name, place);
  return {
    full: await values(attend(q, k, v).output),
    window: await values(attend(q, k, v, { mask }).output),
  };
}

/** `<dO, dW>` and `|dW|^2` of each batch row and head, [batch x heads]. */
function products(
  a: Awaited<ReturnType<typeof outputsAt>>,
  b: typeof a,
): { cross: number[]; power: number[] } {
  const size = tokens * context.dim;
  const sums = (of: (dO: number, dW: number) => number) =>
    Array.from({ length: context.batch * heads }, (_, head) => {
      let sum = 0;
      for (let i = head * size; i < (head + 1) * size; i++) {
        sum += of(a.full[i]! - b.full[i]!, a.window[i]! - b.window[i]!);
      }
      return sum;
    });
  return { cross: sums((dO, dW) => dO * dW), power: sums((_, dW) => dW * dW) };
}

Deno.test("the fitted gain is O_0 + a (W_t - W_0) with a by least squares from the last two refreshes", async () => {
  const mask = masks[2]!;
  const method = fittedGain({ mask, schedule, range: [-10, 10] });
  const { outputs, state } = await sample(method, method.begin(context), "fitted");
  disposeState(state);
  for (const layer of [0, 1]) {
    // Step 4 is the last warm one: the first gain is from it and from the refresh at 5.
    for (const [step, last, earlier] of [[6, 5, 4], [9, 5, 4], [13, 10, 5], [19, 15, 10]] as const) {
      const at = (step: number) => outputsAt("fitted", { layer, step }, mask);
      const [start, before, now] = [await at(last), await at(earlier), await at(step)];
      const { cross, power } = products(start, before);
      const expected = now.window.map((window, i) => {
        const head = Math.floor(i / (tokens * context.dim));
        return start.full[i]! + cross[head]! / power[head]! * (window - start.window[i]!);
      });
      // The gain of a head is a quotient of sums of small differences.
      assert.ok(apart(outputs[2 * step + layer]!, expected) < 1e-4, `layer ${layer}, step ${step}`);
    }
  }
});

Deno.test("gains from calibration runs are the least squares of all sparse steps, and 0, 1 and rho are the methods they stand for", async () => {
  const mask = masks[2]!;
  const options = { mask, schedule };
  const calibration = gainCalibration(options);
  const names = ["calibration 1", "calibration 2"];
  const states: MethodState[] = [];
  for (const name of names) {
    const run = await sample(calibration, calibration.begin(context), name);
    const dense = await sample(fullAttention(), fullAttention().begin(context), name);
    assert.deepEqual(run.outputs, dense.outputs);
    states.push(run.state);
  }
  const gains = await fitGains(states);
  for (const layer of [0, 1]) {
    const [cross, power] = [[0, 0], [0, 0]];
    for (const name of names) {
      let start = await outputsAt(name, { layer, step: 5 }, mask);
      for (let step = 5; step < context.steps; step++) {
        const now = await outputsAt(name, { layer, step }, mask);
        if (schedule.kinds[step] === "refresh") start = now;
        const found = products(now, start);
        found.cross.forEach((value, row) => cross[row % heads]! += value);
        found.power.forEach((value, row) => power[row % heads]! += value);
      }
    }
    assert.ok(
      apart(gains[layer]!, cross.map((value, head) => value / power[head]!)) < 1e-4,
      `${gains[layer]}`,
    );
  }
  await assert.rejects(fitGains([]), TypeError);
  await assert.rejects(fitGains([states[0]!, fullAttention().begin(context)]), TypeError);
  await assert.rejects(fitGains([calibration.begin(context)]), RangeError);

  const run = async (method: ReturnType<typeof fittedGain>) =>
    (await sample(method, method.begin(context), "equal")).outputs;
  const shared = outputSharing(options);
  const pairs = [
    [
      await run(fittedGain({ ...options, gains: [[0, 0], [0, 0]] })),
      (await sample(shared, shared.begin(context), "equal")).outputs,
    ],
    [await run(fittedGain({ ...options, gains: [[1, 1], [1, 1]] })), await run(residualSharing(options))],
    // Until the second refresh.
    [
      (await run(fittedGain({ ...options, first: "ratio" }))).slice(0, 20),
      (await run(rettention({ ...options, lambda: 0 }))).slice(0, 20),
    ],
  ];
  for (const [a, b] of pairs) a!.forEach((output, i) => assert.ok(apart(output, b![i]!) < TOLERANCE));
});

Deno.test("the fitted drift is the mean change of rho per step between the last two refreshes", async () => {
  const mask = masks[3]!;
  const method = rettention({ mask, schedule, lambda: "fitted" });
  const found: Float32Array[] = [];
  let state = method.begin({ ...context, layers: 1 });
  for (let step = 0; step < 13; step++) {
    ({ state } = method.step(state, { layer: 0, step }, ...inputsAt("drift", { layer: 0, step })));
    if (step === 5 || step === 10) found.push(await values(state.layers[0]!.rho!));
  }
  const used = await values(method.ratio(state, 0)!);
  const [first, second] = found as [Float32Array, Float32Array];
  const text = 4;
  second.forEach((rho, index) => {
    if (index % tokens < text) return assert.equal(used[index], 1);
    const head = Math.floor(index / tokens);
    let change = 0;
    for (let row = text; row < tokens; row++) {
      change += second[head * tokens + row]! - first[head * tokens + row]!;
    }
    // Two sparse steps are made.
    assert.ok(Math.abs(used[index]! - (rho + 2 * change / (tokens - text) / 5)) < TOLERANCE);
  });
  disposeState(state);
});
