/** Picture metrics where the answer is known, and what they refuse. */
import assert from "node:assert/strict";
import {
  cosineSimilarity,
  frameConsistency,
  framesOf,
  type Picture,
  psnr,
  relativeL1,
  ssimGaussianReflect,
  ssimGaussianValid,
  type Video,
  videoPsnr,
  videoSsim,
} from "../../lib/diffusion/mod.ts";
import { stream } from "../../lib/tensor/mod.ts";

const picture = (name: string, shape: Picture["shape"] = [2, 16, 13]): Picture => ({
  data: stream(2).child(name).uniform(shape[0] * shape[1] * shape[2]),
  shape,
});
const near = (found: number, expected: number, tolerance = 1e-12) =>
  assert.ok(Math.abs(found - expected) <= tolerance, `${found} is not ${expected}`);

Deno.test("PSNR: an error of a tenth of the range is 20 dB, whatever the range; none is Infinity", () => {
  for (const range of [1, 255]) {
    const a = new Float64Array(64).fill(range / 2);
    const [x, y] = [Float32Array.from(a), Float32Array.from(a, (value) => value + range / 10)];
    near(psnr(x, y, range), 20, 1e-5); // a tenth in float32
    assert.equal(psnr(x, x, range), Infinity);
  }
});

Deno.test("SSIM: 1 with itself, symmetric, of flat pictures by their means alone; the two definitions differ", () => {
  const [a, b] = [picture("a"), picture("b")];
  for (const ssim of [ssimGaussianValid, ssimGaussianReflect]) {
    near(ssim(a, a), 1);
    near(ssim(a, b), ssim(b, a));
    assert.ok(ssim(a, b) < 0.5);
    const flat = (value: number): Picture => ({
      data: new Float32Array(256).fill(value),
      shape: [1, 16, 16],
    });
    // (2 m n + C1) / (m^2 + n^2 + C1), the variances being 0.
    near(ssim(flat(0.25), flat(0.75)), (2 * 0.1875 + 1e-4) / (0.625 + 1e-4));
  }
  assert.ok(Math.abs(ssimGaussianValid(a, b) - ssimGaussianReflect(a, b)) > 1e-3);
});

Deno.test("distances of vectors", () => {
  const [a, b] = [Float32Array.of(3, -4), Float32Array.of(4, 3)];
  near(cosineSimilarity(a, b), 0);
  near(cosineSimilarity(a, a.map((value) => -2 * value)), -1);
  near(relativeL1(a, b), 8 / 7);
});

Deno.test("video: the mean of frames is not the whole where frames differ", () => {
  const shape = [3, 2, 16, 13] as const;
  const a: Video = { data: stream(2).child("video").uniform(3 * 416), shape };
  const errors = [0.01, 0.1, 0.1];
  const b: Video = { data: a.data.map((value, i) => value + errors[Math.floor(i / 416)]!), shape };
  const { perFrame, frameMean, global } = videoPsnr(a, b);
  for (const [i, expected] of [40, 20, 20].entries()) near(perFrame[i]!, expected, 1e-3); // float32 errors of 0.01
  near(frameMean, 80 / 3, 1e-3);
  near(global, 10 * Math.log10(3 / 0.0201), 1e-3);
  const frames = framesOf(a).map((frame, i) => ssimGaussianReflect(frame, framesOf(b)[i]!));
  assert.deepEqual(videoSsim(a, b, ssimGaussianReflect).perFrame, frames);
  assert.throws(() => videoPsnr(a, { ...b, shape: [2, 3, 16, 13] }), TypeError);
});

Deno.test("frame consistency: 1 where nothing moves, else by the first frame and the one before", () => {
  const [x, y] = [Float32Array.of(1, 0), Float32Array.of(0, 1)];
  near(frameConsistency([x, x, x]), 1);
  near(frameConsistency([x, y]), 0);
  // Second frame: 0 and 0. Third: 1 to the first, 0 to the one before. Fourth: 1 and 1.
  near(frameConsistency([x, y, x, x]), (0 + 0.5 + 1) / 3);
  assert.throws(() => frameConsistency([x]), {
    name: "RangeError",
    message: "Cannot compare frames as 'frames' must be two or more: current number is 1",
  });
  assert.throws(() => frameConsistency([x, Float32Array.of(1)]), TypeError);
});

Deno.test("pictures of different shapes, and too small for a window", () => {
  const [a, b] = [picture("a"), picture("b", [2, 13, 16])];
  assert.throws(() => ssimGaussianValid(a, b), {
    name: "TypeError",
    message:
      "Cannot compare as both sides must be of one shape: current shapes are [2, 16, 13] and [2, 13, 16]",
  });
  assert.throws(() => psnr(a.data, a.data.subarray(1)), TypeError);
  assert.throws(() => ssimGaussianReflect(a, { ...a, data: a.data.subarray(1) }), TypeError);
  const small = picture("small", [1, 10, 30]);
  assert.throws(
    () => ssimGaussianValid(small, small),
    /11 rows and columns or more: current shape is \[1, 10, 30\]/,
  );
  near(ssimGaussianReflect(small, small), 1);
  const tiny = picture("tiny", [1, 5, 30]);
  assert.throws(() => ssimGaussianReflect(tiny, tiny), /6 rows and columns or more/);
});
