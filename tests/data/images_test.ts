import assert from "node:assert/strict";
import { channelMoments, split, subset } from "../../lib/data/mod.ts";
import { testImages, testStream } from "./_fixtures.ts";

Deno.test("channelMoments: mean and biased std of pixels / 255, per channel", () => {
  const images = Uint8Array.of(0, 255, 51, 255, 102, 255, 153, 255); // channel 0: 0 51 102 153, channel 1: all 255
  const split = { images, labels: Uint8Array.of(0), count: 1, height: 2, width: 2, channels: 2 };
  const { mean, std } = channelMoments(split);
  assert.ok(Math.abs(mean[0]! - 0.3) < 1e-12 && mean[1] === 1, `mean is ${mean}`);
  assert.ok(Math.abs(std[0]! - Math.sqrt(0.05)) < 1e-12 && std[1] === 0, `std is ${std}`);
});

Deno.test("split: class-balanced, disjoint, complete, in order, the same for the same stream", () => {
  const images = testImages(200, 2, 1);
  const parts = split(images, { validation: 50, stream: testStream("a") });
  assert.equal(parts.validation.count, 50);
  assert.equal(parts.train.count, 150);
  for (let label = 0; label < 10; label++) {
    assert.equal(parts.validation.labels.filter((given) => given === label).length, 5);
  }
  const key = (part: typeof images, i: number) => part.images.subarray(i * 4, i * 4 + 4).join();
  const keys = (part: typeof images) => Array.from({ length: part.count }, (_, i) => key(part, i));
  const together = [...keys(parts.train), ...keys(parts.validation)];
  assert.deepEqual(together.sort(), keys(images).sort());
  assert.deepEqual(split(images, { validation: 50, stream: testStream("a") }), parts);
  assert.notDeepEqual(
    split(images, { validation: 50, stream: testStream("b") }).validation.images,
    parts.validation.images,
  );
  const positions = keys(parts.validation).map((k) => keys(images).indexOf(k));
  assert.deepEqual(positions, positions.toSorted((a, b) => a - b));
});

Deno.test("split: a number that does not divide gives some classes one more", () => {
  const { validation } = split(testImages(200, 2, 1), { validation: 53, stream: testStream("a") });
  const counts = Array.from(
    { length: 10 },
    (_, label) => validation.labels.filter((l) => l === label).length,
  );
  assert.deepEqual(counts.toSorted(), [5, 5, 5, 5, 5, 5, 5, 6, 6, 6]);
});

Deno.test("split: refuses impossible numbers", () => {
  const images = testImages(20, 2, 1);
  for (const validation of [0, 20, 2.5, NaN]) {
    assert.throws(() => split(images, { validation, stream: testStream("a") }), {
      name: "RangeError",
      message: /Cannot split off validation images .* between 1 and 19: current number is/,
    });
  }
  const lopsided = { ...images, labels: Uint8Array.from({ length: 20 }, (_, i) => i === 0 ? 1 : 0) };
  assert.throws(() => split(lopsided, { validation: 6, stream: testStream("a") }), {
    name: "RangeError",
    message: /current class 1 has 1$/,
  });
});

Deno.test("subset: copies images and labels by index, refuses others", () => {
  const images = testImages(5, 2, 3);
  const taken = subset(images, [4, 0, 4]);
  assert.deepEqual([...taken.labels], [4, 0, 4]);
  assert.deepEqual(taken.images.subarray(12, 24), images.images.subarray(0, 12));
  assert.throws(() => subset(images, [5]), { name: "RangeError", message: /current index is 5/ });
});
