/** Diffusion transformers beside diffusers: forward passes on every backend, and whole runs. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs";
import { availableBackends, useBackend } from "../../lib/tensor/mod.ts";
import { checkPlan } from "../../tools/golden/_dit_plan.ts";
import { checkRuns } from "../../tools/golden/_dit_run.ts";
import { checkTransformers } from "../../tools/golden/dit.ts";
import { models, rivals } from "./_tiny.ts";

/**
 * Tensors of the six forward passes and of the autoencoder; those of the runs: latents after steps and in the end, timesteps, guided output,
 * rho and R.
 */
const compared = { forward: 80, pixart: 60, hunyuan: 60, cogvideox: 68, cogvideox_rope: 35, dit: 4 };

const report = JSON.parse(await readFile(join(models, "report.json"), "utf8")).models;

for (const [backend, reason] of await availableBackends({ allowSoftware: true })) {
  Deno.test({
    name: `forward passes of all transformers are those of diffusers: ${backend}${
      reason === null ? "" : ` (skipped: ${reason})`
    }`,
    ignore: reason !== null,
    async fn() {
      await useBackend(backend, { allowSoftware: true });
      const before = tf.memory().numTensors;
      const { comparisons } = await checkTransformers(models, { evaluation: "compiled" }, []);
      assert.deepEqual(comparisons.filter(({ passed }) => !passed), []);
      assert.equal(comparisons.length, compared.forward);
      assert.equal(tf.memory().numTensors, before);
    },
  });
}

for (const name of ["pixart", "dit", "hunyuan", "cogvideox", "cogvideox_rope"] as const) {
  Deno.test(`whole runs with each method are those of diffusers and of the official code: ${name}`, async () => {
    await useBackend("wasm");
    const before = tf.memory().numTensors;
    const { run, forward_max_abs_f32_vs_f64: deviations } = report[name];
    const comparisons = await checkRuns(join(models, name), name, run, deviations);
    assert.deepEqual(comparisons.filter(({ passed }) => !passed), []);
    assert.equal(comparisons.length, compared[name]);
    assert.equal(tf.memory().numTensors, before);
  });
}

Deno.test("the plan of DiTFastAttn, searched on PixArt, is the official one", async () => {
  await useBackend("wasm");
  const comparisons = await checkPlan(models, rivals);
  assert.deepEqual(comparisons.filter(({ passed }) => !passed), []);
  // Five searches with decisions, losses, table and the latents of the plan; the dense latents.
  assert.equal(comparisons.length, 5 * 4 + 1);
});
