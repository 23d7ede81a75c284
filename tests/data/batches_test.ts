import assert from "node:assert/strict";
import {
  type Batch,
  batches,
  channelMoments,
  evaluationBatches,
  proxyAugmentation,
  standardAugmentation,
} from "../../lib/data/mod.ts";
import { testImages, testStream } from "./_fixtures.ts";

const images = testImages(40, 8, 3);
const plain = { mean: [0, 0, 0], std: [1, 1, 1] };

/** The byte of image n at (y, x, c), 0 (black) outside: the definition that batches are compared with. */
function byteAt(n: number, y: number, x: number, c: number): number {
  const { height, width, channels } = images;
  if (y < 0 || x < 0 || y >= height || x >= width) return 0;
  return images.images[((n * height + y) * width + x) * channels + c]!;
}

Deno.test("batches: every image once per epoch, in another order each time", () => {
  const epochs: string[] = [];
  const options = { ...plain, size: 8, stream: testStream("a"), epochs: 3 };
  const seen = [...batches(images, options)];
  assert.equal(seen.length, 15);
  for (let epoch = 0; epoch < 3; epoch++) {
    const ofEpoch = seen.filter((batch) => batch.epoch === epoch);
    // With mean 0 and std 1 the first value of an image is 31n/255 mod 256, different for each n.
    const firsts = ofEpoch.flatMap((batch) =>
      Array.from({ length: 8 }, (_, i) => Math.round(batch.images[i * 192]! * 255))
    );
    assert.equal(new Set(firsts).size, 40);
    epochs.push(firsts.join());
    const labels = ofEpoch.flatMap((batch) => [...batch.labels]);
    firsts.forEach((first, i) => {
      const n = Array.from({ length: 40 }, (_, k) => k).find((k) => (k * 31) % 256 === first)!;
      assert.equal(labels[i], n % 10);
    });
  }
  assert.equal(new Set(epochs).size, 3);
});

Deno.test("batches: the same stream gives the same bytes, another stream others", () => {
  const options = { ...channelMoments(images), size: 16, augment: { pad: 2, crop: 8, flip: true }, steps: 5 };
  const run = (name: string) => [...batches(images, { ...options, stream: testStream(name) })];
  assert.deepEqual(run("a"), run("a"));
  assert.notDeepEqual(run("a")[0]!.images, run("b")[0]!.images);
});

Deno.test("batches: stopping early does not change what is drawn", () => {
  const options = { ...plain, size: 16, stream: testStream("a"), augment: { pad: 1, flip: true } };
  const long = [...batches(images, { ...options, steps: 7 })];
  assert.deepEqual([...batches(images, { ...options, steps: 3 })], long.slice(0, 3));
});

Deno.test("batches: each image is a window of the padded image, mirrored or not, every value exact", () => {
  const { mean, std } = channelMoments(images);
  const pad = 3;
  const crop = 6;
  const places = new Set<string>();
  const options = { mean, std, size: 20, stream: testStream("crops"), augment: { pad, crop, flip: true } };
  for (const batch of batches(images, { ...options, epochs: 4 })) {
    for (let i = 0; i < batch.size; i++) {
      const found = findWindow(batch, i, mean, std, pad);
      assert.ok(found, "an image is no window of any source image with its label");
      places.add(found);
    }
  }
  // 9 x 9 places x mirrored or not = 162; 160 images were drawn, so about 100 different ones are expected.
  assert.ok(places.size > 80, `only ${places.size} different windows in 160 draws`);
});

/** Looks for the source image, offset and mirroring that explain image i of a batch. */
function findWindow(
  batch: Batch,
  i: number,
  mean: readonly number[],
  std: readonly number[],
  pad: number,
): string | undefined {
  const explains = (n: number, top: number, left: number, mirrored: boolean) => {
    for (let y = 0; y < batch.height; y++) {
      for (let x = 0; x < batch.width; x++) {
        const from = mirrored ? batch.width - 1 - x : x;
        for (let c = 0; c < 3; c++) {
          const byte = byteAt(n, y + top, from + left, c);
          const want = Math.fround((byte / 255 - mean[c]!) / std[c]!);
          if (batch.images[((i * batch.height + y) * batch.width + x) * 3 + c] !== want) return false;
        }
      }
    }
    return true;
  };
  const free = images.height + pad - batch.height;
  for (let n = batch.labels[i]!; n < images.count; n += 10) {
    for (let top = -pad; top <= free; top++) {
      for (let left = -pad; left <= free; left++) {
        for (const mirrored of [false, true]) {
          if (explains(n, top, left, mirrored)) return `${top},${left},${mirrored}`;
        }
      }
    }
  }
  return undefined;
}

Deno.test("batches: the remainder is dropped unless asked for", () => {
  const options = { ...plain, size: 16, stream: testStream("a"), epochs: 1 };
  assert.deepEqual([...batches(images, options)].map(({ size }) => size), [16, 16]);
  const whole = [...batches(images, { ...options, dropRemainder: false })];
  assert.deepEqual(whole.map(({ size }) => size), [16, 16, 8]);
  assert.equal(whole[2]!.images.length, 8 * 8 * 8 * 3);
});

Deno.test("batches: a batch keeps its values when the next one is made", () => {
  const run = batches(images, { ...plain, size: 8, stream: testStream("a") });
  const first = run.next().value as Batch;
  const copy = first.images.slice();
  run.next();
  assert.deepEqual(first.images, copy);
});

Deno.test("batches: presets cut 32x32 and 24x24 out of CIFAR's images", () => {
  const cifar = testImages(4, 32, 3);
  const side = (augment: typeof standardAugmentation) =>
    (batches(cifar, { ...plain, size: 4, stream: testStream("a"), augment }).next().value as Batch).height;
  assert.equal(side(standardAugmentation), 32);
  assert.equal(side(proxyAugmentation), 24);
});

Deno.test("evaluationBatches: in order, remainder included, centre crop", () => {
  const all = [...evaluationBatches(images, 16, { ...plain, crop: 4 })];
  assert.deepEqual(all.map(({ size, height, width }) => [size, height, width]), [[16, 4, 4], [16, 4, 4], [
    8,
    4,
    4,
  ]]);
  assert.deepEqual(all.flatMap(({ labels }) => [...labels]), [...images.labels]);
  const n = 33;
  const image = all[2]!.images.subarray(48, 96);
  let i = 0;
  for (let y = 2; y < 6; y++) {
    for (let x = 2; x < 6; x++) {
      for (let c = 0; c < 3; c++) assert.equal(image[i++], Math.fround(byteAt(n, y, x, c) / 255));
    }
  }
});

Deno.test("batches: impossible options are refused before the first batch", () => {
  const good = { ...plain, size: 8, stream: testStream("a") };
  const refused = (options: Partial<Parameters<typeof batches>[1]>, message: RegExp) =>
    assert.throws(() => batches(images, { ...good, ...options }), { name: "RangeError", message });
  refused({ size: 41 }, /batch size must be an integer from 1 to 40: current batch size is 41/);
  refused({ size: 0 }, /batch size/);
  refused({ augment: { crop: 9 } }, /crop must be an integer from 1 to 8: current crop is 9/);
  refused({ augment: { pad: -1 } }, /padding/);
  refused({ steps: 1.5 }, /number of steps/);
  refused({ mean: [0] }, /mean and std must be 3 finite numbers/);
  refused({ std: [1, 1, 0] }, /std above 0/);
  assert.throws(() => evaluationBatches(images, 0, plain), { name: "RangeError", message: /batch size/ });
});
