/** The states of methods: who owns their tensors, turns, files, and what is refused. */
import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import {
  copyState,
  disposeState,
  fittedGain,
  fullAttention,
  type MethodState,
  outputSharing,
  periodicSchedule,
  publishedSchedule,
  residualSharing,
  restoreState,
  rettention,
  saveState,
  schedule as anySchedule,
  stateBytes,
} from "../../lib/attention/mod.ts";
import { readSafetensors, useBackend, writeSafetensors } from "../../lib/tensor/mod.ts";
import { context, everyMethod, inputsAt, masks, sample, schedule, values } from "./_sampling.ts";

await useBackend("wasm");

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
      const restored = restoreState(method, context, bytes);
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

Deno.test("a state outlives the tidy that its step is called in, and outputs are the caller's", () => {
  for (const make of [rettention, fittedGain, outputSharing]) {
    const method = make({ mask: masks[3]!, schedule });
    const [tidied, plain] = [method.begin(context), method.begin(context)];
    let states = [tidied, plain];
    for (let step = 0; step < context.steps; step++) {
      for (let layer = 0; layer < context.layers; layer++) {
        const [inside, outside] = states.map((state, index) => {
          let after = state;
          const call = () => {
            const stepped = method.step(state, { layer, step }, ...inputsAt("tidy", { layer, step }));
            after = stepped.state;
            return stepped.output;
          };
          const output = index === 0 ? tf.tidy(call) : call();
          const numbers = output.dataSync();
          output.dispose();
          return { numbers, after };
        });
        assert.deepEqual(inside!.numbers, outside!.numbers);
        states = [inside!.after, outside!.after];
      }
    }
    states.forEach(disposeState);
  }
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
    context: JSON.stringify({ model: "", ...context }),
    step: "7",
    done: "[]",
  };
  assert.doesNotThrow(() => disposeState(restoreState(method, context, writeSafetensors(tensors, metadata))));
  assert.throws(
    () => restoreState(residualSharing({ mask: masks[2]!, schedule }), context, bytes),
    TypeError,
  );
  assert.throws(() => restoreState(method, context, bytes.subarray(0, bytes.length - 4)), SyntaxError);
  for (
    const [wrong, message] of [
      [{ format: "pt" }, /format/],
      [{ step: "6.5" }, /'step'/],
      [{ step: "21" }, /'step'/],
      [{ step: "3" }, /tensors must be none/],
      [{ done: "[2]" }, /'done'/],
      [{ done: "[0,1]" }, /'done'/],
      [{ done: "0" }, /'done'/],
    ] as [Record<string, string>, RegExp][]
  ) {
    const file = writeSafetensors(tensors, { ...metadata, ...wrong });
    assert.throws(
      () => restoreState(method, context, file),
      (error) => error instanceof SyntaxError && message.test(error.message),
      `${message}`,
    );
  }
  for (
    const other of [
      { ...context, batch: 4 },
      { ...context, tokens: 21 },
      { ...context, layers: 3 },
      { ...context, model: "another" },
    ]
  ) {
    const method = fullAttention();
    const bytes = writeSafetensors(new Map(), { ...metadata, method: method.label });
    assert.doesNotThrow(() => restoreState(method, context, bytes));
    assert.throws(() => restoreState(method, other, bytes), /state's context must be .*: current context is/);
  }
  assert.throws(() => restoreState(method, { ...context, steps: 30 }, bytes), RangeError);
  const same = new Map(
    [...tensors].map(([name, tensor]) => [name, { ...tensor, shape: tensor.shape.toReversed() }]),
  );
  assert.throws(
    () => restoreState(method, context, writeSafetensors(same as typeof tensors, metadata)),
    /"0.rho" must be F32 \[2, 2, 20\]: current tensor is F32 \[20, 2, 2\]/,
  );
  const fewer = new Map(tensors);
  fewer.delete("1.residual");
  assert.throws(
    () => restoreState(method, context, writeSafetensors(fewer, metadata)),
    /"1.residual" .* missing/,
  );
  assert.equal(tf.memory().numTensors, before);
});
