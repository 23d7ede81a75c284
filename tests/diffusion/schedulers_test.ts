/** What schedulers promise beyond reference values: pure states, orders, limits. */
import assert from "node:assert/strict";
import { makeScheduler, type Scheduler, type SchedulerConfig } from "../../lib/diffusion/mod.ts";
import { draw, model, run, schedulers, SIZE, video } from "./_schedulers.ts";

const solver = (settings: SchedulerConfig = {}) =>
  makeScheduler({ _class_name: "DPMSolverMultistepScheduler", ...settings });

for (const [name, scheduler] of Object.entries(schedulers)) {
  Deno.test(`${name}: a restored run is the uninterrupted one, bit for bit, and no state changes`, () => {
    const steps = 7;
    const whole = run(scheduler, scheduler.begin(steps), draw("latents"));
    assert.equal(whole.length, steps);
    for (const [i, { latents, state }] of whole.entries()) {
      // As a file keeps it: numbers alone.
      const history = state.history.map((past) => past.slice());
      assert.equal(history.length, scheduler.holds(steps, i + 1));
      const rest = run(scheduler, scheduler.restore(steps, i + 1, history), latents.slice());
      assert.deepEqual(rest, whole.slice(i + 1));
      // The state that the run went on from is as it was, too.
      assert.deepEqual(run(scheduler, state, latents), whole.slice(i + 1));
    }
  });

  Deno.test(`${name}: a run of one step, and of as many as there are`, () => {
    for (const steps of [1, 1000]) {
      const { timesteps } = scheduler.begin(steps);
      assert.equal(timesteps.length, steps);
      assert.ok(timesteps.every((timestep, i) => timestep >= 0 && !(timestep > timesteps[i - 1]!)));
    }
    const [only] = run(scheduler, scheduler.begin(1), draw("latents"));
    assert.ok(only!.latents.every(Number.isFinite));
  });
}

/** Latents with a known original at each timestep, and what a perfect model says of them. */
function known(scheduler: Scheduler, type: unknown, timestep: number) {
  const alpha = scheduler.alphasCumprod ? scheduler.alphasCumprod[timestep]! : NaN;
  const [signal, level] = scheduler.alphasCumprod
    ? [Math.sqrt(alpha), Math.sqrt(1 - alpha)]
    : [1 - timestep / 1000, timestep / 1000];
  const original = draw("original").map((value) => Math.min(Math.max(value, -1), 1)); // as some clip
  const noise = draw("noise");
  const mix = (a: number, b: number) => original.map((value, i) => a * value + b * noise[i]!);
  const output = !scheduler.alphasCumprod
    ? mix(-1, 1)
    : type === "sample"
    ? original
    : type === "v_prediction"
    ? mix(-level, signal)
    : noise;
  return { original, latents: mix(signal, level), output };
}

Deno.test("a perfect model: every class predicts the original in every step", () => {
  const configs: SchedulerConfig[] = [
    { _class_name: "DDPMScheduler" },
    { _class_name: "DDIMScheduler" },
    { _class_name: "DPMSolverMultistepScheduler" },
    { _class_name: "CogVideoXDDIMScheduler" },
    { _class_name: "CogVideoXDPMScheduler" },
    { _class_name: "FlowMatchEulerDiscreteScheduler" },
  ];
  for (const config of configs) {
    const flow = config._class_name === "FlowMatchEulerDiscreteScheduler";
    for (const type of flow ? [undefined] : ["epsilon", "sample", "v_prediction"]) {
      const scheduler = makeScheduler(type === undefined ? config : { ...config, prediction_type: type });
      const steps = 5;
      let state = scheduler.begin(steps);
      for (const timestep of state.timesteps) {
        const { original, latents, output } = known(scheduler, type, timestep);
        const stepped = scheduler.step(state, output, latents, draw("any"));
        // Roundings of latents of order 3, divided by the signal, which is 0.006 at the least.
        for (const [i, value] of stepped.predictedOriginal.entries()) {
          assert.ok(Math.abs(value - original[i]!) < 2e-4, `${scheduler.label} at ${timestep}: ${value}`);
        }
        state = stepped.state;
      }
    }
  }
});

Deno.test("DDIM without noise follows a perfect model to the original from any step; so do Euler steps along the flow", () => {
  for (
    const scheduler of [
      makeScheduler({ _class_name: "DDIMScheduler", clip_sample: false }),
      solver(),
      makeScheduler({ _class_name: "CogVideoXDDIMScheduler", timestep_spacing: "trailing" }),
      makeScheduler({ _class_name: "FlowMatchEulerDiscreteScheduler" }),
    ]
  ) {
    let state = scheduler.begin(8);
    const { original, latents: noisy } = known(scheduler, "epsilon", state.timesteps[0]!);
    let latents: Float32Array = noisy;
    for (const timestep of state.timesteps) {
      const { output } = known(scheduler, "epsilon", timestep);
      ({ previous: latents, state } = scheduler.step(state, output, latents));
    }
    for (const [i, value] of latents.entries()) {
      // As above; the roundings of eight steps.
      assert.ok(Math.abs(value - original[i]!) < 5e-4, `${scheduler.label}: ${value} for ${original[i]}`);
    }
  }
});

Deno.test("DDIM with eta 1 is DDPM, where the steps divide the training timesteps", () => {
  const settings = { clip_sample: false, timestep_spacing: "trailing" };
  const implicit = makeScheduler({ _class_name: "DDIMScheduler", ...settings }, { eta: 1 });
  const ancestral = makeScheduler({ _class_name: "DDPMScheduler", ...settings });
  const latents = draw("latents");
  const [one, other] = [implicit, ancestral].map((scheduler) => run(scheduler, scheduler.begin(20), latents));
  for (const [step, { latents }] of one!.entries()) {
    for (const [i, value] of latents.entries()) {
      const expected = other![step]!.latents[i]!;
      // float32, through the differences of levels near 1 in both.
      assert.ok(
        Math.abs(value - expected) < 2e-5 * (1 + Math.abs(expected)),
        `step ${step}: ${value}, ${expected}`,
      );
    }
  }
});

/** Whether the step from `step` depends on the prediction before. */
function looksBack(scheduler: Scheduler, steps: number, step: number): boolean {
  const before = run(scheduler, scheduler.begin(steps), draw("latents"), step).at(-1)!;
  const { state, latents } = before;
  const other = scheduler.restore(steps, step, state.history.map((past) => past.map((value) => value + 1)));
  const [a, b] = [state, other].map((each) =>
    scheduler.step(each, model(latents, state.timesteps[step]!), latents, draw("any")).previous
  );
  return a!.some((value, i) => value !== b![i]);
}

Deno.test("DPM-Solver++: second order between, first order last where the last sigma is 0 or steps are few", () => {
  for (const steps of [4, 14, 15, 20]) {
    for (
      const settings of [{}, { solver_type: "heun" }, { euler_at_final: true }, { lower_order_final: false }]
    ) {
      const scheduler = solver(settings);
      assert.ok(looksBack(scheduler, steps, 1) && looksBack(scheduler, steps, steps - 2));
      assert.ok(!looksBack(scheduler, steps, steps - 1), scheduler.label);
    }
    const toSmallest = { final_sigmas_type: "sigma_min" };
    assert.equal(looksBack(solver(toSmallest), steps, steps - 1), steps >= 15);
    assert.ok(looksBack(solver({ ...toSmallest, lower_order_final: false }), steps, steps - 1));
    assert.ok(!looksBack(solver({ ...toSmallest, euler_at_final: true }), steps, steps - 1));
  }
  // To sigma 0 a step of first order leaves the prediction alone.
  const { latents, original } = run(solver(), solver().begin(20), draw("latents")).at(-1)!;
  assert.deepEqual(latents, original);
});

Deno.test("DPM-Solver++ of second order comes nearer to the solution than of first order, and faster", () => {
  const ends = ([1, 2] as const).map((order) => {
    const scheduler = solver({ solver_order: order, final_sigmas_type: "sigma_min" });
    const end = (steps: number) => run(scheduler, scheduler.begin(steps), draw("latents")).at(-1)!.latents;
    const exact = end(500);
    return [16, 32].map((steps) => Math.hypot(...end(steps).map((value, i) => value - exact[i]!)));
  }) as [[number, number], [number, number]];
  const [[coarse, fine], [coarseSecond, fineSecond]] = ends;
  assert.ok(coarseSecond < coarse && fineSecond < fine);
  assert.ok(coarseSecond / fineSecond > coarse / fine);
});

Deno.test("CogVideoX DPM: the first and last steps do not look back, and the last adds no noise", () => {
  const scheduler = makeScheduler({ _class_name: "CogVideoXDPMScheduler", ...video });
  assert.ok(looksBack(scheduler, 10, 2) && looksBack(scheduler, 10, 8));
  assert.ok(!looksBack(scheduler, 10, 9));
  // After a step from no signal at all, lambda having risen infinitely, the earlier prediction weighs nothing.
  assert.ok(!looksBack(scheduler, 10, 1));
  const made = run(scheduler, scheduler.begin(10), draw("latents"));
  assert.ok(scheduler.needsNoise(made[7]!.state) && !scheduler.needsNoise(made[8]!.state));
  assert.deepEqual(made[9]!.latents, made[9]!.original);
});

Deno.test("zero SNR: the last level is 0, its latents tell nothing of the original", () => {
  for (const name of ["DDIMScheduler", "DDPMScheduler", "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"]) {
    const scheduler = makeScheduler({ _class_name: name, ...video, clip_sample: false });
    const levels = scheduler.alphasCumprod!;
    assert.equal(levels[999], 0);
    assert.ok(levels.every((level, t) => level >= 0 && level <= 1 && !(level >= levels[t - 1]!)));
    const state = scheduler.begin(10);
    assert.equal(state.timesteps[0], 999);
    const output = draw("output");
    const { predictedOriginal } = scheduler.step(state, output, draw("latents"), draw("any"));
    // v = -original where there is no signal; -0 is 0.
    assert.ok(predictedOriginal.every((value, i) => value === -output[i]!), name);
    assert.throws(() => makeScheduler({ _class_name: name, rescale_betas_zero_snr: true }), {
      name: "RangeError",
      message:
        `Cannot make ${name} as 'prediction_type' must be v_prediction or sample with rescale_betas_zero_snr: current prediction_type is undefined`,
    });
  }
  // DPM-Solver++ keeps a little signal instead.
  assert.equal(solver({ rescale_betas_zero_snr: true }).alphasCumprod![999], 2 ** -24);
});

Deno.test("clipping: originals stay within the range, the noise is that of the model", () => {
  const config = { _class_name: "DDIMScheduler", clip_sample_range: 0.25 };
  const [clipped, free] = [makeScheduler(config), makeScheduler({ ...config, clip_sample: false })];
  const [a, b] = [clipped, free].map((scheduler) =>
    scheduler.step(scheduler.begin(10), draw("output"), draw("latents"))
  );
  assert.ok(b!.predictedOriginal.some((value) => Math.abs(value) > 0.25));
  assert.deepEqual(
    a!.predictedOriginal,
    b!.predictedOriginal.map((value) => Math.min(Math.max(value, -0.25), 0.25)),
  );
  const alpha = clipped.alphasCumprod![clipped.begin(10).timesteps[1]!]!;
  for (let i = 0; i < SIZE; i++) {
    const moved = Math.sqrt(alpha) * (a!.predictedOriginal[i]! - b!.predictedOriginal[i]!);
    // Roundings of numbers up to 200, times sqrt(alpha) 0.02.
    assert.ok(Math.abs(a!.previous[i]! - b!.previous[i]! - moved) < 1e-5);
  }
});
