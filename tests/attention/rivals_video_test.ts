/** Selections for videos, gradients through layouts, and what all selections refuse. */
import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { layout, tokenMajorLayout } from "../../lib/attention/layouts.ts";
import * as rivals from "../../lib/attention/selection/mod.ts";
import { keptShare } from "../../lib/attention/tiles.ts";
import { draw } from "./_random.ts";
import {
  assertAttends,
  assertNear,
  type Sees,
  seesBlocks,
  seesOf,
  structured,
  test,
  type Triple,
} from "./_selections.ts";

/** One channel marks what a token is alike with; strong, so that attention is all there. */
function alike(tokens: number, dim: number, kind: (token: number) => number): Float32Array {
  return Float32Array.from({ length: tokens * dim }, (_, index) => {
    const angle = kind(Math.floor(index / dim)) * 2.399963 * (1 + index % dim >> 1);
    return 3 * (index % 2 ? Math.sin(angle) : Math.cos(angle));
  });
}

test("Sparse VideoGen: heads get their kind; temporal ones see their place in all frames", async () => {
  const shape = { text: 10, frames: 6, frameTokens: 192 };
  const tokens = 10 + 6 * 192;
  const frame = (token: number) => token < 10 ? -1 : Math.floor((token - 10) / 192);
  const place = (token: number) => token < 10 ? -1 : (token - 10) % 192;
  const twice = (x: Float32Array[]) => tf.tensor4d(x.flatMap((head) => [...head]), [1, 2, tokens, 16]);
  const q = twice([alike(tokens, 16, place), alike(tokens, 16, frame)]);
  const v = draw("video v", [1, 2, tokens, 16]);
  const settings = { ...shape, density: 0.3, seed: 3 };
  const selection = await rivals.sparseVideoGen(q, q, v, settings);
  assert.deepEqual([...selection.choice], [1, 0]);
  assert.equal(selection.band, Math.floor(rivals.videoGenWidth(0.3, shape) * 192 / 128) * 128);
  assert.ok(keptShare(selection.mask) <= 0.3);
  const major = (token: number) => token < 10 ? token : 10 + place(token) * 6 + frame(token);
  const sees: Sees = (head, i, j) => {
    const distance = head === 0 ? Math.abs(major(i) - major(j)) : Math.abs(i - j);
    return i < 10 || j < 10 || distance < selection.band;
  };
  assertAttends(selection, [q, q, v], sees);
  // The same draw for the same seed, another for another.
  const { rows } = await rivals.chooseHeads(q, q, v, { ...shape, seed: 3 });
  assert.deepEqual(rows, selection.rows);
  assert.notDeepEqual((await rivals.chooseHeads(q, q, v, { ...shape, seed: 4 })).rows, rows);
  // Officially a text query makes every head temporal.
  const official = await rivals.chooseHeads(q, q, v, {
    ...shape,
    textRule: "official",
    rows: Int32Array.of(600, 3),
  });
  assert.deepEqual([...official.choice], [1, 1]);
  assert.ok(
    official.errors.subarray(2).every(Number.isNaN) && !official.errors.subarray(0, 2).some(Number.isNaN),
  );
  tf.dispose([q, v]);
});

test("Sparse VideoGen: what is kept is below the density asked for; an image is one frame", () => {
  for (const density of [0.1, 0.25, 0.6, 1]) {
    const shape = { frames: 5, frameTokens: 700, text: 30 };
    const share = keptShare(rivals.videoGenMask(shape, rivals.videoGenBand(density, shape)));
    // Less 128 tokens on either side, and the text counted once where rows and columns cross.
    assert.ok(share <= density && share > density - 2 * 128 / 3530 - 30 / 3530, `${share} for ${density}`);
  }
  const image = { frames: 1, frameTokens: 1024 };
  assert.equal(rivals.videoGenBand(0.25, image), 128);
  assert.equal(keptShare(rivals.videoGenMask(image, 1024)), 1);
});

test("radial: blocks as the dense mask has them, text behind wherever it comes", () => {
  for (
    const { frames, frameTokens, block, decay, model, text } of [
      { frames: 7, frameTokens: 40, block: 16, decay: 0.5, model: "hunyuan", text: 8 },
      { frames: 5, frameTokens: 33, block: 16, decay: 1, model: "wan", text: 0 },
      { frames: 4, frameTokens: 300, block: 32, decay: 0.25, model: "hunyuan", text: 21 },
    ] as const
  ) {
    const settings = { frames, frameTokens, block, decay, model, text };
    const { blocks, layout } = rivals.radialAttention(settings);
    assert.equal(layout, null);
    const video = frames * frameTokens;
    const size = Math.ceil((video + text) / block);
    const kept = new Uint8Array(size * size);
    const whole = Math.floor(video / block);
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) if (i >= whole || j >= whole) kept[i * size + j] = 1;
    }
    for (let a = 0; a < frames; a++) {
      for (let b = 0; b < frames; b++) {
        const distance = Math.abs(a - b);
        const all = model === "wan" && b === 0;
        const bits = frameTokens.toString(2).length - (distance ? distance.toString(2).length : 0);
        const width = distance <= 1 || all ? frameTokens : Math.max(block, 2 ** bits * decay);
        if (!all && 2 ** bits < 128 && distance % Math.floor(128 / 2 ** bits) !== 0) continue;
        const [top, left] = [Math.floor(a * frameTokens / block), Math.floor(b * frameTokens / block)];
        for (let i = top; i < top + Math.ceil(frameTokens / block); i++) {
          for (let j = left; j < left + Math.ceil(frameTokens / block); j++) {
            let [some, many] = [0, 0];
            for (let y = j * block; y < (j + 1) * block; y++) {
              let count = 0;
              for (let x = i * block; x < (i + 1) * block; x++) {
                const inside = Math.floor(x / frameTokens) === a && Math.floor(y / frameTokens) === b;
                if (inside && Math.abs(x % frameTokens - y % frameTokens) <= width) count++;
              }
              if (count > 0) some++;
              if (count / block > 1 / 3) many++;
            }
            if (some > 0 && many / some > 0.6 && i < size && j < size) kept[i * size + j] = 1;
          }
        }
      }
    }
    assert.deepEqual(blocks.kept, kept);
  }
  const inputs = structured("radial", [2, 1, 208, 8]);
  const settings = { frames: 5, frameTokens: 40, block: 16, decay: 0.5, text: 8 };
  const { blocks } = rivals.radialAttention(settings);
  const sees = seesBlocks(blocks);
  const behind = (token: number) => (token + 200) % 208;
  assertAttends(rivals.radialAttention(settings), inputs, (_, i, j) => sees(0, i, j));
  assertAttends(
    rivals.radialAttention({ ...settings, textFirst: true }),
    inputs,
    (_, i, j) => sees(0, behind(i), behind(j)),
  );
  tf.dispose(inputs);
});

test("sliding tiles: the window of tiles in the order of the model", () => {
  const settings = { canvas: [4, 6, 8], tile: [2, 2, 4], window: [1, 3, 1], text: 7 } as const;
  const inputs = structured("tiles", [1, 2, 199, 8]);
  for (const textFirst of [false, true]) {
    const coordinates = (token: number) => {
      const raster = textFirst ? token - 7 : token;
      if (raster < 0 || raster >= 192) return null;
      return [Math.floor(raster / 48) >> 1, Math.floor(raster / 8) % 6 >> 1, raster % 8 >> 2] as const;
    };
    const sees: Sees = (_, i, j) => {
      const [a, b] = [coordinates(i), coordinates(j)];
      if (!a || !b) return true;
      // The window of three rows of tiles is all of them, from each of the three.
      return a[0] === b[0] && a[2] === b[2];
    };
    assertAttends(rivals.slidingTiles({ ...settings, textFirst }), inputs, sees);
  }
  const { mask } = rivals.slidingTiles({ canvas: [5, 5, 5], tile: [1, 1, 1], window: [3, 3, 3] });
  // Moved inwards at the edges, the window is as large everywhere.
  assert.equal(keptShare(mask), 27 / 125);
  tf.dispose(inputs);
});

test("attendSelection: gradients go through layouts, one for all heads or one for each", () => {
  const shape = { text: 6, frames: 2, frameTokens: 45 };
  const inputs = structured("gradients", [2, 2, 96, 8]);
  const weights = draw("weights", [2, 2, 96, 8]);
  const { tokenAt } = tokenMajorLayout(shape);
  const temporal = [false, true, true, false];
  const places = temporal.flatMap((major, head) =>
    Array.from(tokenAt, (token, place) => head * 96 + (major ? token : place))
  );
  const perHead = { layout: layout(places), mask: rivals.videoGenMask(shape, 20) };
  const shared = rivals.radialAttention({ ...shape, textFirst: true, block: 8, decay: 0.1 });
  assert.ok(keptShare(shared.mask) < 0.9);
  for (const selection of [perHead, shared]) {
    const sees = seesOf(selection, 4);
    const expected = tf.grads((q, k, v) => tf.sum(tf.mul(softmaxOf(q, k, v, sees), weights)))(inputs);
    const measured = tf.grads((...qkv) =>
      tf.sum(tf.mul(rivals.attendSelection(...qkv as Triple, selection).output, weights))
    )(inputs);
    measured.forEach((gradient, index) =>
      assertNear(gradient.dataSync(), expected[index]!.dataSync(), `gradient ${"qkv"[index]}`)
    );
    tf.dispose([...expected, ...measured]);
  }
  tf.dispose([...inputs, weights]);
});

/** Attention in plain operations, differentiable. */
function softmaxOf(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, sees: Sees): tf.Tensor {
  const [batch, heads, tokens, dim] = q.shape as [number, number, number, number];
  const dropped = Float32Array.from({ length: batch * heads * tokens ** 2 }, (_, index) => {
    const [row, j] = [Math.floor(index / tokens), index % tokens];
    return sees(Math.floor(row / tokens), row % tokens, j) ? 0 : -1e30;
  });
  const scores = tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(dim));
  return tf.matMul(tf.softmax(tf.add(scores, tf.tensor4d(dropped, [batch, heads, tokens, tokens]))), v);
}

test("rivals: bad input is refused before any work", async () => {
  const [q, short, flat] = [draw("q", [1, 2, 64, 8]), draw("k", [1, 2, 32, 8]), tf.zeros([2, 64, 8])];
  const no3 = flat as unknown as tf.Tensor4D;
  const shape = { text: 4, frames: 3, frameTokens: 20 };
  const cases: [() => unknown, RegExp][] = [
    [
      () => rivals.minferenceBlocks(q, short, { top: 1 }),
      /'k' must be .* = \[1, 2, 64, 8\]: .* \[1, 2, 32, 8\]/,
    ],
    [() => rivals.minferenceBlocks(no3, q, { top: 1 }), /'q' must be \[batch, heads, tokens, dim\]/],
    [() => rivals.minferenceBlocks(q, q, { top: 0 }), /'top' must be a whole number/],
    [() => rivals.minferenceBlocks(q, q, { keep: 1.5 }), /'keep' must be above 0 and at most 1/],
    [
      () => rivals.minferenceBlocks(q, q, { top: 1, pooling: "mean" as "true_mean" }),
      /'pooling' must be one of/,
    ],
    [() => rivals.topBlocks(q, q, { mass: 0 }), /'mass' must be above 0/],
    [() => rivals.topBlocks(q, q, { mass: 0.5, rule: "over" as "reach" }), /'rule' must be one of/],
    [() => rivals.topBlocks(q, q, { top: 1, block: 0.5 }), /'block' must be a whole number/],
    [() => rivals.verticalSlash(q, q, { vertical: -1 }), /'vertical' must be a whole number/],
    [() => rivals.spargeAttention(q, q, { mass: 2 }), /'mass' must be above 0 and at most 1/],
    [() => rivals.spargeAttention(q, q, { mass: 0.5, similarity: NaN }), /'similarity' must be finite/],
    [() => rivals.xAttention(q, q, { stride: 7 }), /'stride' must divide the block of 128/],
    [() => rivals.xAttention(q, q, { zeroKeysTo: 100 }), /'zeroKeysTo' must be a multiple/],
    [() => rivals.chooseHeads(q, q, short, shape), /'v' must be/],
    [() => rivals.chooseHeads(q, q, q, { ...shape, frames: 4 }), /must be 64 tokens: current sum is 84/],
    [() => rivals.chooseHeads(q, q, q, { ...shape, rows: Int32Array.of(64) }), /'rows' must be some of 64/],
    [() => rivals.sparseVideoGen(q, q, q, { ...shape, density: 0.05 }), /'density' must be from 0.125/],
    [() => rivals.radialAttention({ frames: 0, frameTokens: 8 }), /'frames' must be a whole number/],
    [() => rivals.radialAttention({ frames: 2, frameTokens: 8, decay: 0 }), /'decay' must be above 0/],
    [
      () => rivals.slidingTiles({ canvas: [4, 6, 8], tile: [2, 4, 4], window: [1, 1, 1] }),
      /'tile' must divide/,
    ],
  ];
  const before = tf.memory().numTensors;
  for (const [call, message] of cases) {
    await assert.rejects(async () => await call(), (error: Error) => {
      assert.match(error.message, message);
      assert.ok(error instanceof TypeError || error instanceof RangeError);
      return true;
    });
  }
  assert.equal(tf.memory().numTensors, before);
  const selection = await rivals.minferenceBlocks(q, q, { top: 1, block: 32 });
  const other = draw("other", [2, 2, 64, 8]);
  assert.throws(() => rivals.attendSelection(other, other, other, selection), /batch x heads = 2 x 2/);
  const tiles = rivals.slidingTiles({ canvas: [2, 4, 4], tile: [2, 2, 2], window: [1, 1, 1] });
  assert.throws(() => rivals.attendSelection(q, q, q, tiles), /must be of 64 tokens.*32 in its layout/);
  tf.dispose([q, short, flat, other]);
});
