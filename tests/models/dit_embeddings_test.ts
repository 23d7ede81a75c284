/** Position embeddings: what must hold of any table, and sizes that have none. Values: golden group `embeddings`. */
import assert from "node:assert/strict";
import {
  cropRegion,
  rotary2d,
  rotary3d,
  sinCos2d,
  sinCos3d,
  timestepEmbedding,
} from "../../lib/models/mod.ts";

Deno.test("time: at 0 all cosines are 1 and all sines 0, in the order asked for", () => {
  assert.deepEqual([...timestepEmbedding([0], 4).data], [1, 1, 0, 0]);
  assert.deepEqual([...timestepEmbedding([0], 4, { cosinesFirst: false }).data], [0, 0, 1, 1]);
  const { data, shape } = timestepEmbedding([1, 2], 4, { maxPeriod: 100 });
  assert.deepEqual(shape, [2, 4]);
  // Frequencies 1 and 100^(-1/2).
  const expected = [1, 2].flatMap((t) => [Math.cos(t), Math.cos(t / 10), Math.sin(t), Math.sin(t / 10)]);
  for (const [i, value] of data.entries()) assert.ok(Math.abs(value - expected[i]!) < 2e-7); // float32
});

Deno.test("positions: the first half of the channels tells the column, the second the row; frames come first", () => {
  const [height, width, dim] = [3, 5, 8];
  const plane = sinCos2d(dim, { height, width, baseSize: 4 }).data;
  const half = (token: number, part: 0 | 1) =>
    plane.subarray(token * dim + part * 4, token * dim + part * 4 + 4);
  assert.deepEqual(half(1 * width + 2, 0), half(2 * width + 2, 0));
  assert.deepEqual(half(1 * width + 2, 1), half(1 * width + 4, 1));
  assert.notDeepEqual(half(1, 0), half(2, 0));
  // Position 1 is a fifth of the base.
  assert.ok(Math.abs(half(1, 0)[0]! - Math.sin(4 / 5)) < 1e-7);
  const video = sinCos3d(16, { frames: 2, height, width }).data;
  const at = (frame: number, token: number) =>
    video.subarray((frame * 15 + token) * 16, (frame * 15 + token) * 16 + 16);
  assert.deepEqual(at(1, 3).subarray(0, 4), at(1, 9).subarray(0, 4));
  assert.deepEqual(at(0, 7).subarray(4), at(1, 7).subarray(4));
});

Deno.test("rotary: pairs of channels share an angle, cos^2 + sin^2 is 1, position 0 does not turn", () => {
  const crop = { start: [0, 0], stop: [4, 4] } as const;
  for (
    const { cos, sin } of [
      rotary2d(8, { height: 4, width: 4, crop }),
      rotary3d(16, { frames: 2, height: 4, width: 4, crop }),
    ]
  ) {
    const [rows, width] = cos.shape;
    assert.equal(cos.data.length, rows * width);
    for (let i = 0; i < cos.data.length; i += 2) {
      assert.equal(cos.data[i], cos.data[i + 1]);
      assert.equal(sin.data[i], sin.data[i + 1]);
      assert.ok(Math.abs(cos.data[i]! ** 2 + sin.data[i]! ** 2 - 1) < 2e-7); // float32
    }
    assert.ok(cos.data.subarray(0, width).every((value) => value === 1));
  }
  // A crop that is the grid itself gives whole positions.
  const grid = { frames: 2, height: 3, width: 4 };
  const whole = { start: [0, 0], stop: [3, 4] } as const;
  assert.deepEqual(rotary3d(16, { ...grid, crop: whole }), rotary3d(16, grid));
});

Deno.test("crops: whole in the middle, halves rounded to even as Python does", () => {
  const own = { height: 32, width: 32 };
  assert.deepEqual(cropRegion({ height: 64, width: 64 }, own), { start: [0, 0], stop: [32, 32] });
  assert.deepEqual(cropRegion({ height: 48, width: 80 }, own), { start: [6, 0], stop: [25, 32] }); // 6.5 above
  assert.deepEqual(cropRegion({ height: 80, width: 48 }, own), { start: [0, 6], stop: [32, 25] });
  assert.deepEqual(cropRegion({ height: 30, width: 45 }, { height: 30, width: 45 }), {
    start: [0, 0],
    stop: [30, 45],
  });
});

Deno.test("sizes that have no embedding", () => {
  const grid = { height: 2, width: 2, baseSize: 2 };
  const crop = { start: [0, 0], stop: [2, 2] } as const;
  const calls: [() => unknown, string][] = [
    [() => timestepEmbedding([1], 3), "times as 'dim' must be a positive multiple of 2: current dim is 3"],
    [() => sinCos2d(6, grid), "positions as 'dim' must be a positive multiple of 4: current dim is 6"],
    [
      () => sinCos3d(24, { ...grid, frames: 1 }),
      "positions as 'dim' must be a positive multiple of 16: current dim is 24",
    ],
    [
      () => rotary2d(0, { ...grid, crop }),
      "rotary positions as 'dim' must be a positive multiple of 4: current dim is 0",
    ],
    [
      () => rotary3d(16, { ...grid, frames: 0 }),
      "positions as 'frames' must be a positive whole number: current frames is 0",
    ],
    [
      () => sinCos2d(8, { ...grid, height: 1.5 }),
      "positions as 'height' must be a positive whole number: current height is 1.5",
    ],
  ];
  for (const [call, message] of calls) {
    assert.throws(call, { name: "RangeError", message: `Cannot embed ${message}` });
  }
});
