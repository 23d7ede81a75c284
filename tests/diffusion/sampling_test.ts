/** The sampling loop: repeatable, interruptible, and what it refuses. */
import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import {
  band,
  disposeState,
  type MethodState,
  restoreState,
  rettention,
  saveState,
  schedule as attentionSchedule,
} from "../../lib/attention/mod.ts";
import {
  beginSampling,
  guided,
  makeScheduler,
  type ModelFunction,
  restoreSampling,
  sample,
  type SamplingState,
  saveSampling,
} from "../../lib/diffusion/mod.ts";
import { stream, useBackend } from "../../lib/tensor/mod.ts";
import { readSafetensors, writeSafetensors } from "../../lib/tensor/mod.ts";
import { schedulers } from "./_schedulers.ts";

await useBackend("wasm");

const STEPS = 8;
const shape = [1, 2, 4, 4];
const scheduler = schedulers["DPM-Solver++"]!;

/** A model with weights: a mixing of channels and times, not linear. */
const plain: ModelFunction = (latents, { timestep }) =>
  tf.tidy(() => tf.tanh(tf.add(tf.mul(latents, 0.7), Math.sin(0.01 * timestep))));

const begin = (steps = STEPS, seed: number | string = 3): SamplingState =>
  beginSampling({ scheduler, steps, shape, seed });

/** Attention over 16 tokens of 2 channels by Re-ttention, guided; what it remembers is here, as in a real model it is its caller's. */
function attending() {
  const method = rettention({
    mask: band(16, 2),
    schedule: attentionSchedule(
      "every third",
      Array.from({ length: STEPS }, (_, i) => (i < 1 ? "warm" : i % 3 === 1 ? "refresh" : "sparse")),
    ),
  });
  const context = { batch: 2, heads: 1, tokens: 16, dim: 2, steps: STEPS };
  let state: MethodState = method.begin(context);
  const model: ModelFunction = (latents, { step }) =>
    tf.tidy(() => {
      const tokens = tf.transpose(tf.reshape(latents, [2, 1, 2, 16]), [0, 1, 3, 2]) as tf.Tensor4D;
      const halves = tf.tensor4d([1, 1.3], [2, 1, 1, 1]);
      const q = tf.mul<tf.Tensor4D>(tokens, halves);
      const stepped = method.step(state, { layer: 0, step }, q, tokens, tokens);
      state = stepped.state;
      return tf.reshape(tf.transpose(stepped.output, [0, 1, 3, 2]), latents.shape);
    });
  return {
    model: guided(model, { scale: 3 }),
    save: () => saveState(state),
    restore(bytes: Uint8Array) {
      state = restoreState(method, context, bytes);
    },
    dispose: () => disposeState(state),
  };
}

for (const [name, each] of Object.entries(schedulers)) {
  Deno.test(`${name}: sampling that is saved and restored between steps is the uninterrupted one, bit for bit`, async () => {
    const setup = { scheduler: each, steps: STEPS, shape, seed: "seed" };
    const whole = attending();
    const { latents: expected } = await sample(beginSampling(setup), { scheduler: each, model: whole.model });
    whole.dispose();
    for (const until of [0, 1, 3, STEPS]) {
      const first = attending();
      const half = await sample(beginSampling(setup), { scheduler: each, model: first.model, until });
      const bytes = saveSampling(half, { attention: await first.save() });
      first.dispose();

      const { state, extras } = restoreSampling(each, bytes);
      assert.deepEqual(state, half);
      assert.deepEqual([...extras.keys()], ["attention"]);
      const second = attending();
      second.restore(extras.get("attention")!);
      const { latents } = await sample(state, { scheduler: each, model: second.model });
      assert.deepEqual(latents, expected);
      second.dispose();
    }
  });
}

Deno.test("what attention remembers counts: without it the run goes on otherwise", async () => {
  const first = attending();
  const whole = attending();
  const half = await sample(begin(), { scheduler, model: first.model, until: 3 });
  const { latents: expected } = await sample(begin(), { scheduler, model: whole.model });
  const fresh = attending();
  await assert.rejects(sample(half, { scheduler, model: fresh.model }), /steps must come in order/);
  const { latents } = await sample(half, { scheduler, model: plain });
  assert.notDeepEqual(latents, expected);
  for (const each of [first, whole, fresh]) each.dispose();
});

Deno.test("the same seed gives the same latents; the first of a batch are those of a smaller batch", async () => {
  const noisy = schedulers.DDPM!;
  const run = async (seed: number | string, batch: number) => {
    const setup = { scheduler: noisy, steps: STEPS, shape: [batch, 2, 4, 4], seed };
    return (await sample(beginSampling(setup), { scheduler: noisy, model: plain })).latents;
  };
  const one = await run(3, 1);
  assert.deepEqual(await run("3", 1), one);
  assert.notDeepEqual(await run(4, 1), one);
  assert.deepEqual((await run(3, 3)).subarray(0, one.length), one);
});

Deno.test("noise: by default from the seed's stream by step, else as given", async () => {
  const noisy = schedulers["DDIM with noise"]!;
  const begun = beginSampling({ scheduler: noisy, steps: STEPS, shape, seed: 3 });
  assert.deepEqual(begun.latents, stream(3).child("latents").normal(32));
  const asked: number[] = [];
  const given = await sample(begun, {
    scheduler: noisy,
    model: plain,
    noise(step) {
      asked.push(step);
      return stream(3).child("noise").child(step).normal(32);
    },
  });
  // The last step ends at the level of timestep 0, from which it starts: no noise.
  assert.deepEqual(asked, [0, 1, 2, 3, 4, 5, 6]);
  assert.deepEqual((await sample(begun, { scheduler: noisy, model: plain })).latents, given.latents);
  const silent = await sample(begun, { scheduler: noisy, model: plain, noise: () => new Float32Array(32) });
  assert.notDeepEqual(silent.latents, given.latents);
});

Deno.test("progress: every step once, in order, with the state that can be gone on with; no tensors stay", async () => {
  const before = tf.memory().numTensors;
  const seen: [number, number, number][] = [];
  const states: SamplingState[] = [];
  const end = await sample(begin(), {
    scheduler,
    model: plain,
    async onStep({ made, steps, timestep, state, predictedOriginal }) {
      await Promise.resolve();
      seen.push([made, steps, timestep]);
      states.push(state);
      assert.equal(predictedOriginal.length, 32);
    },
  });
  assert.deepEqual(seen, scheduler.begin(STEPS).timesteps.map((timestep, i) => [i + 1, STEPS, timestep]));
  assert.deepEqual(states.at(-1), end);
  assert.deepEqual((await sample(states[2]!, { scheduler, model: plain })).latents, end.latents);
  assert.equal(tf.memory().numTensors, before);
});

Deno.test("a signal stops the run between steps, with its reason", async () => {
  const controller = new AbortController();
  let last: SamplingState | undefined;
  const stopped = sample(begin(), {
    scheduler,
    model: plain,
    signal: controller.signal,
    onStep({ made, state }) {
      last = state;
      if (made === 3) controller.abort(new Error("enough"));
    },
  });
  await assert.rejects(stopped, { message: "enough" });
  assert.equal(last!.scheduler.step, 3);
  const whole = await sample(begin(), { scheduler, model: plain });
  assert.deepEqual((await sample(last!, { scheduler, model: plain })).latents, whole.latents);
  await assert.rejects(sample(begin(), { scheduler, model: plain, signal: AbortSignal.abort() }), {
    name: "AbortError",
  });
});

Deno.test("given latents are used as they are, and stay as they are", async () => {
  const latents = stream(5).normal(32);
  const copy = latents.slice();
  const begun = beginSampling({ scheduler, steps: STEPS, shape, seed: 3, latents });
  await sample(begun, { scheduler, model: plain });
  assert.deepEqual(latents, copy);
  assert.deepEqual(begun.latents, copy);
});

Deno.test("outputs that cannot be sampled with are errors, and leave no tensors", async () => {
  const before = tf.memory().numTensors;
  const runs: [ModelFunction, RegExp][] = [
    [
      (latents) => tf.concat([latents, latents], 1),
      /must have the shape of the latents, \[1, 2, 4, 4\]: .*\[1, 4, 4, 4\]/,
    ],
    [
      (latents) => tf.tidy(() => tf.log(tf.sub(latents, latents))),
      /must be finite: current output at step 0 is -Infinity/,
    ],
    [() => Promise.reject(new Error("out of memory")), /^Error: out of memory$/],
  ];
  for (const [model, message] of runs) await assert.rejects(sample(begin(), { scheduler, model }), message);
  await assert.rejects(
    sample(begin(), { scheduler: schedulers.DDIM!, model: plain }),
    /'state' must be one of DDIMScheduler/,
  );
  const half = await sample(begin(), { scheduler, model: plain, until: 4 });
  for (const until of [3, 9, 4.5]) {
    await assert.rejects(
      sample(half, { scheduler, model: plain, until }),
      /'until' must be a whole number from 4 to 8/,
    );
  }
  assert.throws(() => beginSampling({ scheduler, steps: 4, shape: [], seed: 1 }), /^RangeError: .*'shape'/);
  assert.throws(
    () => beginSampling({ scheduler, steps: 4, shape: [1, 0], seed: 1 }),
    /current shape is \[1, 0\]/,
  );
  assert.throws(
    () => beginSampling({ scheduler, steps: 4, shape, seed: 1, latents: new Float32Array(3) }),
    /^TypeError: .*the 32 elements of 'shape': current latents have 3/,
  );
  assert.equal(tf.memory().numTensors, before);
});

Deno.test("files that are no such run are refused", async () => {
  const state = await sample(begin(), { scheduler, model: plain, until: 3 });
  const good = saveSampling(state, { note: Uint8Array.of(1, 2) });
  assert.deepEqual(restoreSampling(scheduler, good).extras.get("note"), Uint8Array.of(1, 2));
  const metadata = {
    format: "normlab sampling state 1",
    scheduler: scheduler.label,
    seed: "3",
    steps: "8",
    step: "3",
  };
  const remade = (change: Record<string, string>, without: string[] = [], added = {}) => {
    const tensors = readSafetensors(good);
    for (const name of without) tensors.delete(name);
    for (const [name, tensor] of Object.entries(added)) tensors.set(name, tensor as never);
    return writeSafetensors(tensors, { ...metadata, ...change });
  };
  assert.deepEqual(restoreSampling(scheduler, remade({})).state, state);
  const small = { dtype: "F32", shape: [2], data: new Float32Array(2) };
  const bad: [Uint8Array, RegExp][] = [
    [good.subarray(0, 100), /SyntaxError/],
    [remade({ format: "pt" }), /SyntaxError: .*format must be/],
    [remade({ scheduler: "DDIMScheduler()" }), /TypeError: .*the run's scheduler must be DPMSolver/],
    [remade({ seed: "[1]" }), /SyntaxError: .*'seed'/],
    [remade({ seed: "x" }), /SyntaxError: .*'seed' must be what saveSampling writes/],
    [remade({ step: "9" }), /SyntaxError: .*'step' must be one of 'steps': current step is "9" of "8"/],
    [remade({ step: "1.5" }), /SyntaxError: .*'step'/],
    [remade({ steps: "2000" }), /RangeError: .*'steps' must be a whole number from 1 to 1000/],
    [remade({}, ["latents"]), /SyntaxError: .*"latents"/],
    [
      remade({}, ["history.0"]),
      /SyntaxError: .*tensor "history.0" must be F32 \[1, 2, 4, 4\]: current tensor is missing/,
    ],
    [remade({}, [], { "history.0": small }), /SyntaxError: .*current tensor is F32 \[2\]/],
    [remade({}, [], { "history.1": small }), /SyntaxError: .*tensor "history.1" is there too/],
    [remade({ step: "0" }), /SyntaxError: .*tensor "history.0" is there too/],
  ];
  for (const [bytes, message] of bad) assert.throws(() => restoreSampling(scheduler, bytes), message);
  // What is read belongs to the reader.
  const bytes = good.slice();
  const { state: read } = restoreSampling(scheduler, bytes);
  bytes.fill(0);
  assert.deepEqual(read, state);
  const one = makeScheduler({ _class_name: "DPMSolverMultistepScheduler", solver_type: "heun" });
  assert.throws(() => restoreSampling(one, good), TypeError);
});
