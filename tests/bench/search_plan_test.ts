import assert from "node:assert/strict";
import { SETTINGS } from "../../experiments/evonorm/search.ts";
import { stagePlans } from "../../bench/_search_plan.ts";

const { task } = SETTINGS.smoke;
// Billions of multiplications of an image of 32 x 32 pixels in the anchors "smoke", as lib/models states them.
const resnet = 5_203_200 / 1e9, mobilenet = 2_432_640 / 1e9;
const share = (16 / 32) ** 2;
const trained = (network: number, steps: number) => 3 * network * share * 16 * steps;
const tested = (network: number) => network * share * 100;
const quality = (network: number) => trained(network, 8) + tested(network);
const plan = (name: string, work: number) => stagePlans([{ name, work }], task)[0];

Deno.test("the task is the one that the figures below are of", () => {
  const { anchors, batch, crop, testCrop, validation, steps, quality } = task;
  assert.deepEqual(
    [anchors, batch, crop, testCrop, validation, steps, quality],
    ["resnet+mobilenet", 16, 16, 16, 100, 16, 8],
  );
});

Deno.test("a candidate that passed a stage went through both anchors", () => {
  const both = [{ steps: 8, evaluated: true }, { steps: 8, evaluated: true }];
  assert.deepEqual(plan("quality", quality(resnet) + quality(mobilenet)), { name: "quality", anchors: both });
  assert.deepEqual(plan("training", quality(resnet) + quality(mobilenet)), {
    name: "training",
    anchors: both,
  });
});

Deno.test("a candidate that failed in the first anchor was not trained in the second", () => {
  assert.deepEqual(plan("quality", quality(resnet)), {
    name: "quality",
    anchors: [{ steps: 8, evaluated: true }],
  });
});

Deno.test("a training that broke was not measured, whichever step it was", () => {
  assert.deepEqual(plan("quality", trained(resnet, 3)), {
    name: "quality",
    anchors: [{ steps: 3, evaluated: false }],
  });
  assert.deepEqual(plan("quality", trained(resnet, 8)), {
    name: "quality",
    anchors: [{ steps: 8, evaluated: false }],
  });
  assert.deepEqual(plan("training", quality(resnet) + trained(mobilenet, 1)), {
    name: "training",
    anchors: [{ steps: 8, evaluated: true }, { steps: 1, evaluated: false }],
  });
});

Deno.test("a stability test is so many norms, in the first anchor, of eight images", () => {
  assert.deepEqual(plan("stability", 9 * resnet * share * 8 * 2), { name: "stability", norms: 2 });
});

Deno.test("work that is not of this task is refused", () => {
  assert.throws(() => plan("quality", trained(resnet, 2.5)), /^RangeError: .*whole steps.* is 2\.5 steps/);
  assert.throws(() => plan("limit", 0), /^RangeError: .*current stage is limit/);
});
