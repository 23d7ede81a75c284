/** Reading configs: what is missing, unknown, unsupported or wrong. */
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { dynamicShift, makeScheduler, parseSchedulerConfig, readScheduler } from "../../lib/diffusion/mod.ts";
import { draw, SIZE } from "./_schedulers.ts";

const ddim = (settings: Record<string, unknown> = {}) =>
  makeScheduler({ _class_name: "DDIMScheduler", ...settings });
const thrown = (make: () => unknown, name: string, message: string) => assert.throws(make, { name, message });

Deno.test("timesteps by spacing, as diffusers documents them", () => {
  const cases: [Record<string, unknown>, number, number[]][] = [
    [{ timestep_spacing: "leading" }, 4, [750, 500, 250, 0]],
    [{ timestep_spacing: "leading", steps_offset: 1 }, 4, [751, 501, 251, 1]],
    [{ timestep_spacing: "trailing" }, 4, [999, 749, 499, 249]],
    [{ timestep_spacing: "linspace" }, 4, [999, 666, 333, 0]],
    // 7 does not divide 1000.
    [{ timestep_spacing: "leading" }, 7, [852, 710, 568, 426, 284, 142, 0]],
    [{ timestep_spacing: "trailing" }, 7, [999, 856, 713, 570, 428, 285, 142]],
    // 1000 - 12 x 62.5 lies between two: to the even one, then less 1.
    [{ timestep_spacing: "trailing" }, 16, [
      999,
      937,
      874,
      811,
      749,
      687,
      624,
      561,
      499,
      437,
      374,
      311,
      249,
      187,
      124,
      61,
    ]],
  ];
  for (const [settings, steps, expected] of cases) {
    assert.deepEqual(ddim(settings).begin(steps).timesteps, expected);
  }
  const solver = makeScheduler({ _class_name: "DPMSolverMultistepScheduler" });
  assert.deepEqual(solver.begin(4).timesteps, [999, 749, 500, 250]);
});

Deno.test("a config as Python writes it, with numbers that JSON lacks; -Infinity within text stays", () => {
  const config = parseSchedulerConfig(`{
    "_class_name": "DPMSolverMultistepScheduler", "_diffusers_version": "0.42.1",
    "lambda_min_clipped": -Infinity, "note": "a \\"quoted\\" -Infinity, NaN", "solver_order": 2
  }`);
  assert.equal(config.note, 'a "quoted" -Infinity, NaN');
  assert.equal(makeScheduler(config).name, "DPMSolverMultistepScheduler");
  assert.deepEqual(makeScheduler(config).ignored, ["note"]);
  for (const text of ["", "{", "[]", "null", '"DDIMScheduler"', '{"a": -infinity}']) {
    assert.throws(() => parseSchedulerConfig(text), SyntaxError, text);
  }
});

Deno.test("unknown classes and settings that are not supported are named", () => {
  thrown(
    () => makeScheduler({ _class_name: "UniPCMultistepScheduler" }),
    "RangeError",
    "Cannot make a scheduler as '_class_name' must be one of DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler, " +
      'CogVideoXDDIMScheduler, CogVideoXDPMScheduler, FlowMatchEulerDiscreteScheduler: current _class_name is "UniPCMultistepScheduler"',
  );
  for (const config of [{}, { _class_name: 3 }, { _class_name: "toString" }]) {
    assert.throws(() => makeScheduler(config), /must be one of DDPMScheduler/);
  }
  for (const config of [null, [], "DDIMScheduler"]) {
    assert.throws(
      () => makeScheduler(config as never),
      /^TypeError: Cannot make a scheduler as 'config' must be/,
    );
  }
  const unsupported: [string, string, unknown, string][] = [
    [
      "DDPMScheduler",
      "variance_type",
      "learned_range",
      '"fixed_small" or "fixed_small_log" or "fixed_large"',
    ],
    ["DDPMScheduler", "thresholding", true, "false"],
    ["DDIMScheduler", "beta_schedule", "squaredcos_cap_v2", '"linear" or "scaled_linear"'],
    ["DDIMScheduler", "trained_betas", [0.1], "null"],
    ["DDIMScheduler", "prediction_type", "flow_prediction", '"epsilon" or "sample" or "v_prediction"'],
    ["DDIMScheduler", "beta_end", 1, "below 1"],
    ["DPMSolverMultistepScheduler", "algorithm_type", "sde-dpmsolver++", '"dpmsolver++"'],
    ["DPMSolverMultistepScheduler", "solver_order", 3, "1 or 2"],
    ["DPMSolverMultistepScheduler", "lambda_min_clipped", -5.1, "-Infinity"],
    ["DPMSolverMultistepScheduler", "use_flow_sigmas", true, "false"],
    ["CogVideoXDDIMScheduler", "snr_shift_scale", 0, "above 0"],
    ["FlowMatchEulerDiscreteScheduler", "stochastic_sampling", true, "false"],
    ["FlowMatchEulerDiscreteScheduler", "shift_terminal", 0.1, "null"],
  ];
  for (const [_class_name, name, value, requirement] of unsupported) {
    thrown(
      () => makeScheduler({ _class_name, [name]: value }),
      "RangeError",
      `Cannot make ${_class_name} as '${name}' must be ${requirement}: current ${name} is ${
        typeof value === "number" ? value : JSON.stringify(value)
      }`,
    );
  }
});

Deno.test("settings of a wrong type or out of range", () => {
  const cases: [Record<string, unknown>, string, string][] = [
    [
      { clip_sample: "yes" },
      "TypeError",
      "'clip_sample' must be true or false: current clip_sample is \"yes\"",
    ],
    [{ beta_start: "0.1" }, "TypeError", "'beta_start' must be a number: current beta_start is \"0.1\""],
    [
      { beta_start: NaN },
      "RangeError",
      "'beta_start' must be a finite number from 0: current beta_start is NaN",
    ],
    [
      { timestep_spacing: null },
      "TypeError",
      "'timestep_spacing' must be text: current timestep_spacing is null",
    ],
    [
      { num_train_timesteps: 10.5 },
      "RangeError",
      "'num_train_timesteps' must be a whole number: current num_train_timesteps is 10.5",
    ],
    [
      { num_train_timesteps: 0 },
      "RangeError",
      "'num_train_timesteps' must be a finite number from 1: current num_train_timesteps is 0",
    ],
  ];
  for (const [settings, name, message] of cases) {
    thrown(() => ddim(settings), name, `Cannot make DDIMScheduler as ${message}`);
  }
});

Deno.test("options: only with their class, and within range", () => {
  thrown(
    () => makeScheduler({ _class_name: "DDPMScheduler" }, { eta: 0.5 }),
    "RangeError",
    "Cannot make DDPMScheduler as it must be DDIMScheduler to take the option 'eta': current eta is 0.5",
  );
  assert.throws(
    () => makeScheduler({ _class_name: "DDIMScheduler" }, { eta: 1.5 }),
    /'eta' must be in \[0, 1\]/,
  );
  const flow = { _class_name: "FlowMatchEulerDiscreteScheduler" };
  assert.throws(
    () => makeScheduler(flow, { mu: 1 }),
    /'use_dynamic_shifting' must be true with the option 'mu'/,
  );
  assert.throws(
    () => makeScheduler({ ...flow, use_dynamic_shifting: true }),
    /'use_dynamic_shifting' must be false without the option 'mu'/,
  );
  assert.throws(
    () => makeScheduler(flow, { sigmas: [1, 0] }),
    /'sigmas' must be above 0 and at most 1: .* is 0/,
  );
  assert.throws(
    () => makeScheduler({ ...flow, use_dynamic_shifting: true }, { mu: NaN }),
    /'mu' must be finite: current mu is NaN/,
  );
  assert.throws(() => makeScheduler(flow, { sigmas: [1, 0.5] }).begin(3), /must be the number of sigmas, 2/);
  // From 0.5 at 256 tokens to 1.15 at 4096.
  assert.deepEqual([256, 4096].map((tokens) => Math.round(100 * dynamicShift(tokens))), [50, 115]);
  assert.ok(Math.abs(dynamicShift(2176) - 0.825) < 1e-12);
});

Deno.test("labels tell schedulers apart that differ in a setting, and only those", () => {
  assert.equal(ddim().label, ddim({ clip_sample: true, _diffusers_version: "0.1", other: 3 }).label);
  assert.notEqual(ddim().label, ddim({ clip_sample: false }).label);
  assert.notEqual(ddim().label, makeScheduler({ _class_name: "DDIMScheduler" }, { eta: 0.1 }).label);
});

Deno.test("steps, states and arrays that do not fit", () => {
  const scheduler = makeScheduler({ _class_name: "DDPMScheduler" });
  for (const steps of [0, 1.5, 1001, NaN]) {
    thrown(
      () => scheduler.begin(steps),
      "RangeError",
      `Cannot begin DDPMScheduler as 'steps' must be a whole number from 1 to 1000: current steps are ${steps}`,
    );
  }
  assert.throws(() => ddim({ steps_offset: 300 }).begin(4), /'steps_offset' must keep timesteps below 1000/);
  const [a, b, noise] = [draw("a"), draw("b"), draw("c")];
  const state = scheduler.begin(2);
  thrown(
    () => scheduler.step(state, a, b),
    "TypeError",
    "Cannot step as 'noise' must be a Float32Array: current noise is missing",
  );
  thrown(
    () => scheduler.step(state, a.slice(1), b, noise),
    "TypeError",
    `Cannot step as 'modelOutput' must be of the size of the latents, ${SIZE}: current modelOutput has ${
      SIZE - 1
    } elements`,
  );
  assert.throws(
    () => scheduler.step(state, a, [...b] as never, noise),
    /'sample' must be a Float32Array: .* is a Array/,
  );
  assert.throws(
    () => ddim().step(state, a, b),
    /^TypeError: Cannot step as 'state' must be one of DDIMScheduler\(/,
  );
  let last = scheduler.step(state, a, b, noise).state;
  assert.ok(!scheduler.needsNoise(last)); // timestep 0
  last = scheduler.step(last, a, b).state;
  assert.throws(() => scheduler.step(last, a, b), /^RangeError: .*all 2 are made/);
  assert.equal(scheduler.needsNoise(last), false);
  const solver = makeScheduler({ _class_name: "DPMSolverMultistepScheduler" });
  assert.throws(() => solver.restore(4, 5, []), /^RangeError: .*'step' must be a whole number from 0 to 4/);
  assert.throws(() => solver.restore(4, 2, []), /^TypeError: .*'history' must hold 1 arrays after step 2/);
});

Deno.test("a file that cannot be used is named", async () => {
  const folder = await mkdtemp(join(tmpdir(), "scheduler-"));
  const path = join(folder, "scheduler_config.json");
  await writeFile(path, '{"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}');
  await assert.rejects(
    readScheduler(path),
    (error: Error) =>
      error instanceof RangeError &&
      error.message.startsWith(`${path}: Cannot make DDIMScheduler as 'beta_schedule'`),
  );
  await writeFile(path, '{"_class_name": "DDIMSch');
  await assert.rejects(
    readScheduler(path),
    (error: Error) => error instanceof SyntaxError && error.message.startsWith(`${path}: Cannot read`),
  );
  await writeFile(path, '{"_class_name": "DDIMScheduler"}');
  assert.equal((await readScheduler(path, { eta: 1 })).name, "DDIMScheduler");
  await rm(folder, { recursive: true });
});
