/** Guidance: which half counts as what, which channels stay, and the rising scale. */
import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { dynamicGuidanceScale, guided, type ModelFunction } from "../../lib/diffusion/mod.ts";
import { useBackend } from "../../lib/tensor/mod.ts";

await useBackend("wasm");

const place = { step: 0, steps: 50, timestep: 999 };
/** [2, 3, 1] */
const latents = tf.tensor([[[1], [2], [3]], [[-1], [0], [4]]]);

/** The halves of the batch and the place go into the output: x in the first, 10 x + 1 in the second, twice the channels. */
const model: ModelFunction = (twice) =>
  tf.tidy(() => {
    const [first, second] = tf.split(twice, 2) as [tf.Tensor, tf.Tensor];
    const output = tf.concat([first, tf.add(tf.mul(second, 10), 1)]);
    return tf.concat([output, tf.mul(output, -1)], 1);
  });

const values = async (guidance: Parameters<typeof guided>[1]) => {
  const output = await guided(model, guidance)(latents, place);
  const result = { shape: output.shape, data: [...await output.data()] };
  output.dispose();
  return result;
};

Deno.test("guided: u + scale (c - u), unconditional first by default, conditional first on demand", async () => {
  const x = [1, 2, 3, -1, 0, 4];
  const before = tf.memory().numTensors;
  assert.deepEqual(await values({ scale: 4, channels: 3 }), {
    shape: [2, 3, 1],
    data: x.map((u) => u + 4 * (10 * u + 1 - u)),
  });
  assert.deepEqual(await values({ scale: 4, channels: 3, conditionalHalf: "first" }), {
    shape: [2, 3, 1],
    data: x.map((c) => 10 * c + 1 + 4 * (c - (10 * c + 1))),
  });
  // Without `channels` all are guided, and stay.
  const all = await values({ scale: 4 });
  assert.deepEqual(all.shape, [2, 6, 1]);
  assert.deepEqual(all.data.slice(3, 6), [1, 2, 3].map((u) => -(u + 4 * (9 * u + 1))));
  assert.equal(tf.memory().numTensors, before);
});

Deno.test("guided: scale 1 is the conditional output, 0 the unconditional", async () => {
  assert.deepEqual((await values({ scale: 0, channels: 2 })).data, [1, 2, -1, 0]);
  assert.deepEqual((await values({ scale: 1, channels: 2 })).data, [11, 21, -9, 1]);
});

Deno.test("the rising scale as the CogVideoX pipeline computes it", async () => {
  // 1 + 6 (1 - cos(pi ((50 - t) / 50)^5)) / 2 in Python.
  const published: [number, number][] = [
    [999, 2.291487174551452],
    [579, 6.610010902676221],
    [199, 6.999214907661871],
    [99, 6.86437181216982],
    [59, 1.0000005285864701],
    [39, 1.000003932038104],
    [19, 1.123397939968981],
    [0, 7.0],
  ];
  for (const [timestep, scale] of published) {
    // Early on the angle is of order 1e7: sines of such differ in the last digits between libraries.
    assert.ok(Math.abs(dynamicGuidanceScale(6, 50, timestep) - scale) < 1e-6, `${timestep}`);
  }
  assert.equal(dynamicGuidanceScale(6, 50, 0), 7);
  const scale = dynamicGuidanceScale(6, 50, 999);
  const { data: [first] } = await values({ scale: 6, channels: 3, dynamic: true });
  // float32, from 1 and 11.
  assert.ok(Math.abs(first! - (1 + scale * 10)) < 1e-5);
});

Deno.test("guided: what cannot be guided", async () => {
  assert.throws(() => guided(model, { scale: NaN }), /^RangeError: Cannot guide as 'scale' must be finite/);
  for (const channels of [0, 1.5]) {
    assert.throws(
      () => guided(model, { scale: 1, channels }),
      /^RangeError: .*'channels' must be a positive whole/,
    );
  }
  const before = tf.memory().numTensors;
  await assert.rejects(async () => await guided(model, { scale: 1, channels: 7 })(latents, place), {
    name: "TypeError",
    message: "Cannot guide as the model's output must have 7 channels or more: current shape is [4, 6, 1]",
  });
  const halved: ModelFunction = () => latents.clone();
  await assert.rejects(async () => await guided(halved, { scale: 1 })(latents, place), {
    name: "TypeError",
    message: "Cannot guide as the model's output must have a batch of 4: current shape is [2, 3, 1]",
  });
  assert.equal(tf.memory().numTensors, before);
});
