/** Methods over a sampling run: against reference values, and by what must hold for any input. */
import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import {
  attend,
  band,
  copyState,
  disposeState,
  fitGains,
  fittedGain,
  frameBand,
  full,
  fullAttention,
  gainCalibration,
  type Mask,
  methodCost,
  type MethodState,
  officialRettention,
  outputSharing,
  periodicSchedule,
  publishedSchedule,
  residualSharing,
  restoreState,
  rettention,
  saveState,
  schedule as anySchedule,
  scheduleCost,
  stateBytes,
  windowOnly,
} from "../../lib/attention/mod.ts";
import { readSafetensors, useBackend, writeSafetensors } from "../../lib/tensor/mod.ts";
import { checkOverTime } from "../../tools/golden/over_time.ts";
import { randomMask } from "./_random.ts";
import { apart, context, everyMethod, inputsAt, sample, schedule, values } from "./_sampling.ts";

await useBackend("wasm");

const { tokens, heads } = context;

/** Masks with empty, full and other rows, shared by heads and not; and those of images and videos. */
const masks: Mask[] = [
  randomMask(1, [tokens, tokens], null, 0.3),
  randomMask(2, [tokens, tokens], heads, 0.2),
  band(tokens, 2),
  frameBand({ text: 4, frames: 4, frameTokens: 4, half: 1 }),
];

/** float32, on numbers of order 1. */
const TOLERANCE = 5e-6;

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

Deno.test("what a layer holds is what the method says, nothing leaks, and a state stays as large as was said", async () => {
  for (const mask of masks) {
    for (const method of everyMethod(mask)) {
      const before = tf.memory();
      let state = method.begin(context);
      let most = 0;
      for (let step = 0; step < context.steps; step++) {
        for (let layer = 0; layer < context.layers; layer++) {
          const inputs = inputsAt("held", { layer, step });
          const stepped = await method.step(state, { layer, step }, ...inputs);
          state = stepped.state;
          tf.dispose([...inputs, stepped.output]);
          const held = Object.entries(state.layers[layer]!).map(([name, { shape }]) => [name, shape]);
          assert.deepEqual(Object.fromEntries(held), method.holds(context, layer, step + 1), method.label);
        }
        const count = state.layers.flatMap((held) => Object.values(held)).length;
        assert.equal(tf.memory().numTensors - before.numTensors, count, method.label);
        most = Math.max(most, tf.memory().numBytes - before.numBytes);
      }
      assert.equal(most, stateBytes(method, context), method.label);
      disposeState(state);
      disposeState(state);
      assert.equal(tf.memory().numTensors, before.numTensors);
    }
  }
});

Deno.test("two samplings that take turns are what they are apart", async () => {
  for (const method of everyMethod(masks[1]!)) {
    const apartRuns = [
      await sample(method, method.begin(context), "first"),
      await sample(method, method.begin(context), "second"),
    ];
    let states: MethodState[] = [method.begin(context), method.begin(context)];
    const outputs: Float32Array[][] = [[], []];
    for (let step = 0; step < context.steps; step++) {
      const turn = [];
      for (const [index, name] of ["first", "second"].entries()) {
        const part = await sample(method, states[index]!, name, { until: step + 1 });
        outputs[index]!.push(...part.outputs);
        turn.push(part.state);
      }
      states = turn;
    }
    assert.deepEqual(outputs, apartRuns.map((run) => run.outputs), method.label);
    [...states, ...apartRuns.map(({ state }) => state)].forEach(disposeState);
  }
});

Deno.test("a state saved and restored, and a copy, go on to the bit, from any step and between layers", async () => {
  for (const method of everyMethod(masks[1]!)) {
    const whole = await sample(method, method.begin(context), "saved");
    for (const until of [0, 5, 6, 8, 11, 20]) {
      const start = await sample(method, method.begin(context), "saved", { until });
      let { state } = start;
      const made = [...start.outputs];
      if (until % 2 === 1 && until < context.steps) {
        const inputs = inputsAt("saved", { layer: 1, step: until });
        const stepped = await method.step(state, { layer: 1, step: until }, ...inputs);
        state = stepped.state;
        made.push(await values(stepped.output));
      }
      const bytes = await saveState(state);
      const restored = restoreState(method, bytes);
      const copy = copyState(state);
      disposeState(state);
      for (const from of [restored, copy]) {
        const rest = await sample(method, from, "saved");
        // The layer that was done first comes first among the outputs.
        const expected = until % 2 === 1 && until < context.steps
          ? whole.outputs.toSpliced(2 * until, 2, whole.outputs[2 * until + 1]!, whole.outputs[2 * until]!)
          : whole.outputs;
        assert.deepEqual([...made, ...rest.outputs], expected, `${method.label} from ${until}`);
        disposeState(rest.state);
      }
    }
  }
});

Deno.test("a state that is spent, of another method or of other sizes, and steps out of order are refused before any work", async () => {
  const mask = masks[2]!;
  const method = rettention({ mask, schedule });
  const inputs = inputsAt("refused", { layer: 0, step: 0 });
  const begun = method.begin(context);
  const at = (layer: number, step: number) => ({ layer, step });
  const { state } = method.step(begun, at(1, 0), ...inputs);
  const before = tf.memory().numTensors;
  const refused = (act: () => unknown, error: new () => Error, message: RegExp) => {
    assert.throws(
      act,
      (thrown: Error) => thrown instanceof error && message.test(thrown.message),
      `${message}`,
    );
  };
  refused(() => method.step(begun, at(0, 0), ...inputs), RangeError, /earlier one/);
  refused(
    () => method.step(state, at(1, 0), ...inputs),
    RangeError,
    /now step 0 of layer 0: current call is step 0 of layer 1/,
  );
  refused(() => method.step(state, at(0, 1), ...inputs), RangeError, /in order/);
  refused(() => method.step(state, at(2, 0), ...inputs), RangeError, /'layer'/);
  refused(() => method.step(state, at(0.5, 0), ...inputs), RangeError, /'layer'/);
  const other = rettention({ mask, schedule, lambda: 0 });
  refused(
    () => other.step(state, at(0, 0), ...inputs),
    TypeError,
    /must be one of rettention\(band.*lambda 0\)/,
  );
  const small = inputsAt("refused", at(0, 0), { ...context, batch: 1 });
  refused(
    () => method.step(state, at(0, 0), ...small),
    TypeError,
    /'q' must be .* = \[2, 2, 20, 8\], .*\[1, 2, 20, 8\]/,
  );
  refused(() => method.step(state, at(0, 0), inputs[0], small[1], inputs[2]), TypeError, /'k'/);
  refused(() => method.step(state, at(0, 0), inputs[0], inputs[1], null), TypeError, /'v' must be a tensor/);
  const whole = tf.cast(inputs[0], "int32") as tf.Tensor4D;
  refused(() => method.step(state, at(0, 0), whole, inputs[1], inputs[2]), TypeError, /float32/);
  tf.dispose([whole, small]);
  assert.equal(tf.memory().numTensors, before);

  refused(
    () => method.begin({ ...context, steps: 19 }),
    RangeError,
    /20 steps that it was made for: current steps are 19/,
  );
  refused(
    () => method.begin({ ...context, tokens: 21 }),
    RangeError,
    /21 queries and keys: current mask is band/,
  );
  refused(
    () => rettention({ mask: masks[1]!, schedule }).begin({ ...context, heads: 3 }),
    RangeError,
    /3 heads or serve any/,
  );
  refused(() => method.begin({ ...context, batch: 0 }), RangeError, /'batch'/);
  refused(() => method.begin({ ...context, dim: 1.5 }), RangeError, /'dim'/);
  refused(() => fittedGain({ mask, schedule, gains: [[1, 1]] }).begin(context), RangeError, /1 layers/);
  refused(() => fittedGain({ mask, schedule, gains: [[1], [1]] }).begin(context), RangeError, /1 heads/);
  refused(() => fittedGain({ mask, schedule, gains: [[1, 1], [1]] }), RangeError, /as many heads/);
  refused(() => fittedGain({ mask, schedule, gains: [[1, NaN]] }), RangeError, /finite/);
  refused(() => rettention({ mask, schedule, lambda: NaN }), RangeError, /'lambda'/);
  refused(
    () => rettention({ mask, schedule: anySchedule("late", ["warm", "sparse", "refresh"]) }),
    RangeError,
    /sparse at step 1/,
  );
  refused(
    () => outputSharing({ schedule: anySchedule("none", ["sparse"]) }),
    RangeError,
    /refresh must come/,
  );
  refused(() => anySchedule("odd", ["warm", "cold" as "warm"]), RangeError, /step 1 is cold/);
  refused(() => anySchedule("empty", []), RangeError, /has none/);
  refused(() => periodicSchedule({ steps: 10, warm: 2, interval: 0 }), RangeError, /'interval'/);
  refused(() => publishedSchedule("sora" as "pixart"), RangeError, /pixart, hunyuan, cogvideox/);

  disposeState(state);
  refused(() => method.step(state, at(0, 0), ...inputs), RangeError, /disposed/);
  refused(() => copyState(state), RangeError, /disposed/);
  await assert.rejects(saveState(state), RangeError);
});

Deno.test("after the last step nothing is left to do", async () => {
  const method = fullAttention();
  const short = { ...context, layers: 1, steps: 2 };
  const { state } = await sample(method, method.begin(short), "end");
  const inputs = inputsAt("end", { layer: 0, step: 2 }, short);
  assert.throws(() => method.step(state, { layer: 0, step: 2 }, ...inputs), /all 2 are made/);
});

Deno.test("files that are no state of the method are refused", async () => {
  const method = rettention({ mask: masks[2]!, schedule });
  const { state } = await sample(method, method.begin(context), "file", { until: 7 });
  const bytes = await saveState(state);
  const before = tf.memory().numTensors;
  const tensors = readSafetensors(bytes);
  const metadata = {
    format: "normlab attention state 1",
    method: method.label,
    context: JSON.stringify(context),
    step: "7",
    done: "[]",
  };
  assert.doesNotThrow(() => disposeState(restoreState(method, writeSafetensors(tensors, metadata))));
  assert.throws(() => restoreState(residualSharing({ mask: masks[2]!, schedule }), bytes), TypeError);
  assert.throws(() => restoreState(method, bytes.subarray(0, bytes.length - 4)), SyntaxError);
  for (
    const [wrong, message] of [
      [{ format: "pt" }, /format/],
      [{ step: "6.5" }, /'step'/],
      [{ step: "21" }, /'step'/],
      [{ step: "3" }, /tensors must be none/],
      [{ done: "[2]" }, /'done'/],
      [{ done: "[0,1]" }, /'done'/],
      [{ done: "0" }, /'done'/],
      [{ context: "{" }, /'context'/],
      [{ context: JSON.stringify({ ...context, batch: undefined }) }, /'context'/],
      [{ context: JSON.stringify({ ...context, layers: 1e9 }) }, /'context'/],
      [{ context: JSON.stringify({ ...context, batch: 4 }) }, /"0.rho" must be F32 \[4, 2, 20\]/],
    ] as [Record<string, string>, RegExp][]
  ) {
    const file = writeSafetensors(tensors, { ...metadata, ...wrong });
    assert.throws(
      () => restoreState(method, file),
      (error) => error instanceof SyntaxError && message.test(error.message),
      `${message}`,
    );
  }
  const longer = writeSafetensors(tensors, {
    ...metadata,
    context: JSON.stringify({ ...context, steps: 30 }),
  });
  assert.throws(() => restoreState(method, longer), RangeError);
  const fewer = new Map(tensors);
  fewer.delete("1.residual");
  assert.throws(() => restoreState(method, writeSafetensors(fewer, metadata)), /"1.residual" .* missing/);
  assert.equal(tf.memory().numTensors, before);
});

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
  assert.equal(methodCost(rettention({ mask, schedule }), context, 1 / 32), (8 + 15 / 32) / 20);
  assert.equal(methodCost(fittedGain({ mask, schedule }), context, 1 / 32), (8 + 16 / 32) / 20);
  assert.equal(methodCost(outputSharing({ schedule }), context, 1 / 32), 8 / 20);
  assert.equal(methodCost(windowOnly({ mask, schedule }), context, 1 / 32), (8 + 12 / 32) / 20);
  assert.equal(methodCost(fullAttention(), context, 1 / 32), 1);
});
