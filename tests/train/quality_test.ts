import assert from "node:assert/strict";
import { anchor } from "../../lib/models/mod.ts";
import { stream, useBackend } from "../../lib/tensor/mod.ts";
import {
  constant,
  evaluateClassifier,
  type LabelledBatch,
  trainClassifier,
  type TrainOptions,
  trainWithQualityTest,
} from "../../lib/train/mod.ts";

await useBackend("wasm");

/** Images whose class is the quarter that is bright. */
function batchOf(seed: number, size: number): LabelledBatch {
  const side = 8;
  const labels = stream(seed).child("labels").integers(size, 4);
  const images = stream(seed).child("images").normal(size * side * side * 3, 0, 0.3);
  labels.forEach((label, image) => {
    const [top, left] = [4 * (label >> 1), 4 * (label & 1)];
    for (let row = top; row < top + 4; row++) {
      for (let column = left; column < left + 4; column++) {
        for (let channel = 0; channel < 3; channel++) {
          images[((image * side + row) * side + column) * 3 + channel]! += 1;
        }
      }
    }
  });
  return { images, labels, size, height: side, width: side, channels: 3 };
}

const validation = [batchOf(100, 32)];
const batches = (count: number) => Array.from({ length: count }, (_, index) => batchOf(index, 16));
const net = () => anchor("resnet", "smoke", "EvoNorm-S0", stream(1).child("init"), { classes: 4 });
const options = (rate: number): TrainOptions => ({ schedule: constant(rate) });

Deno.test("a training that passes goes on as if it had not been tested", async () => {
  const [tested, plain] = [net(), net()];
  const quality = { validation, classes: 4, after: 12 };
  const result = await trainWithQualityTest(tested, batches(16), { ...options(0.05), quality });
  assert.equal(result.quality.rejected, false);
  assert.equal(result.quality.threshold, 0.5);
  assert.ok(result.quality.accuracy! >= 0.5 && result.quality.steps === 12 && result.quality.seconds > 0);
  assert.deepEqual({ ...result, quality: null }, {
    ...await trainClassifier(plain, batches(16), options(0.05)),
    quality: null,
  });
  assert.deepEqual(await evaluateClassifier(tested, validation), await evaluateClassifier(plain, validation));
  tested.dispose();
  plain.dispose();
});

Deno.test("a training that is no better than chance ends at the test", async () => {
  const model = net();
  const quality = { validation, classes: 4, after: 3 };
  const result = await trainWithQualityTest(model, batches(16), { ...options(0), quality });
  assert.deepEqual([result.steps, result.quality.steps, result.quality.rejected], [3, 3, true]);
  assert.ok(result.quality.accuracy! < 0.5);
  model.dispose();
});

Deno.test("a loss that is not finite is rejected without an accuracy, an early end is judged as it is", async () => {
  const model = net();
  const broken = { ...batchOf(0, 16), images: new Float32Array(16 * 8 * 8 * 3).fill(NaN) };
  const quality = { validation, classes: 4, after: 5 };
  const diverged = await trainWithQualityTest(model, [...batches(1), broken, ...batches(4)], {
    ...options(0.01),
    quality,
  });
  assert.deepEqual([diverged.divergedAt, diverged.quality.accuracy, diverged.quality.rejected], [
    1,
    null,
    true,
  ]);
  const short = await trainWithQualityTest(model, batches(2), {
    ...options(0),
    quality: { ...quality, threshold: 0 },
  });
  assert.deepEqual([short.quality.steps, short.quality.rejected], [2, false]);
  model.dispose();
});

Deno.test("options out of range are refused", async () => {
  const model = net();
  const run = (quality: object) =>
    trainWithQualityTest(model, batches(1), {
      ...options(0.1),
      quality: { validation, classes: 4, ...quality },
    });
  await assert.rejects(run({ after: 0 }), {
    name: "RangeError",
    message: "Cannot test quality as 'after' must be a positive integer: current value is 0",
  });
  await assert.rejects(run({ threshold: 1.5 }), RangeError);
  model.dispose();
});
