import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import {
  fromLayout,
  hilbertLayout,
  type Layout,
  layout,
  padText,
  permuted,
  rasterLayout,
  textBefore,
  tileLayout,
  tokenMajorLayout,
  toLayout,
} from "../../lib/attention/layouts.ts";
import { band, tileWindow } from "../../lib/attention/masks.ts";
import { attend } from "../../lib/attention/mod.ts";
import { keptElements, occupancy } from "../../lib/attention/tiles.ts";
import { availableBackends, type BackendName, stream, useBackend } from "../../lib/tensor/mod.ts";
import { draw, randomMask } from "./_random.ts";

const draws = stream(8);

const layouts: readonly Layout[] = [
  rasterLayout(7),
  layout(draws.permutation(50)),
  tileLayout({ height: 12, width: 20, tileHeight: 4, tileWidth: 4 }),
  tileLayout({ height: 7, width: 5, tileHeight: 3, tileWidth: 4 }),
  hilbertLayout({ height: 8, width: 8 }),
  hilbertLayout({ height: 6, width: 11 }),
  hilbertLayout({ height: 1, width: 1 }),
  tokenMajorLayout({ frames: 3, frameTokens: 10, text: 5 }),
  tokenMajorLayout({ frames: 4, frameTokens: 6 }),
  textBefore(tileLayout({ height: 4, width: 4, tileHeight: 2, tileWidth: 2 }), 3),
  padText(tokenMajorLayout({ frames: 3, frameTokens: 10, text: 5 }), 5, 8),
  padText(padText(textBefore(hilbertLayout({ height: 4, width: 4 }), 9), 9, 16), 4, 3),
];

Deno.test("every layout has each token in one place, and the other way round", () => {
  for (const { label, tokens, places, tokenAt, placeOf } of layouts) {
    assert.equal(tokenAt.length, places, label);
    assert.equal(placeOf.length, tokens, label);
    assert.deepEqual([...tokenAt].filter((token) => token >= 0).sort((a, b) => a - b), [
      ...Array(tokens).keys(),
    ]);
    placeOf.forEach((place, token) => assert.equal(tokenAt[place], token, label));
  }
  assert.equal(new Set(layouts.map(({ label }) => label)).size, layouts.length);
});

Deno.test("token-major is text + position * frames + frame", () => {
  const { placeOf } = tokenMajorLayout({ frames: 3, frameTokens: 10, text: 5 });
  for (let token = 0; token < 35; token++) {
    const [frame, position] = [Math.floor((token - 5) / 10), (token - 5) % 10];
    assert.equal(placeOf[token], token < 5 ? token : 5 + position * 3 + frame);
  }
});

Deno.test("a tile is a run of places, in raster order within", () => {
  const { tokenAt } = tileLayout({ height: 12, width: 20, tileHeight: 4, tileWidth: 4 });
  tokenAt.forEach((token, place) => {
    const [tile, inside] = [Math.floor(place / 16), place % 16];
    const [y, x] = [Math.floor(tile / 5) * 4 + Math.floor(inside / 4), tile % 5 * 4 + inside % 4];
    assert.equal(token, y * 20 + x);
  });
});

Deno.test("Hilbert's curve goes from neighbour to neighbour, and each quarter is a square", () => {
  const { tokenAt } = hilbertLayout({ height: 16, width: 16 });
  const at = Array.from(tokenAt, (token) => [Math.floor(token / 16), token % 16] as const);
  for (let i = 1; i < 256; i++) {
    assert.equal(Math.abs(at[i]![0] - at[i - 1]![0]) + Math.abs(at[i]![1] - at[i - 1]![1]), 1);
  }
  for (const side of [2, 4, 8]) {
    for (let start = 0; start < 256; start += side * side) {
      const run = at.slice(start, start + side * side);
      for (const axis of [0, 1] as const) {
        const places = run.map((place) => place[axis]);
        assert.equal(Math.max(...places) - Math.min(...places), side - 1);
      }
    }
  }
});

Deno.test("text is padded to a multiple, and its tiles hold nothing else", () => {
  const { places, tokenAt } = padText(tokenMajorLayout({ frames: 3, frameTokens: 10, text: 5 }), 5, 8);
  assert.equal(places, 38);
  assert.deepEqual([...tokenAt.subarray(0, 11)], [0, 1, 2, 3, 4, -1, -1, -1, 5, 15, 25]);
  const raster = rasterLayout(16);
  assert.equal(padText(raster, 8, 8), raster);
  assert.equal(padText(raster, 0, 8), raster);
});

Deno.test("a permuted mask keeps element (i, j) where the mask keeps their tokens; padding sees nothing", () => {
  for (const [seed, order] of layouts.entries()) {
    const { tokens, places, tokenAt, label } = order;
    const mask = randomMask(seed, [tokens, tokens], seed % 2 ? 2 : null, 0.3);
    const moved = permuted(mask, order);
    assert.deepEqual([moved.queries, moved.keys, moved.heads], [places, places, mask.heads]);
    assert.equal(keptElements(moved), keptElements(mask));
    for (let head = 0; head < (mask.heads ?? 1); head++) {
      const rows = Array.from({ length: tokens }, (_, token) => flags(mask.intervals(token, head), tokens));
      for (let place = 0; place < places; place++) {
        const expected = Array.from({ length: places }, (_, other) => {
          const [query, key] = [tokenAt[place]!, tokenAt[other]!];
          return query < 0 || key < 0 ? 0 : rows[query]![key]!;
        });
        const bounds = moved.intervals(place, head);
        bounds.forEach((bound, i) => assert.ok(i === 0 || bound > bounds[i - 1]!));
        assert.deepEqual([...flags(bounds, places)], expected, label);
      }
    }
  }
});

function flags(bounds: Int32Array, length: number): Uint8Array {
  const kept = new Uint8Array(length);
  for (let i = 0; i < bounds.length; i += 2) kept.fill(1, bounds[i]!, bounds[i + 1]!);
  return kept;
}

Deno.test("a mask of rows that change with time is not mistaken for its row before", () => {
  // Neighbouring places whose tokens see the same keys share a row: here they do and do not by turns.
  const mask = permuted(band(6, 1), layout([0, 1, 5, 4, 3, 2]));
  for (const place of [0, 0, 1, 0, 5, 5, 2]) {
    const token = [0, 1, 5, 4, 3, 2][place]!;
    const seen = [0, 1, 5, 4, 3, 2].map((other) => Math.abs(other - token) <= 1 ? 1 : 0);
    assert.deepEqual([...flags(mask.intervals(place, 0), 6)], seen);
  }
});

Deno.test("a window in two dimensions touches fewer tiles in tiles or on Hilbert's curve than in raster order", () => {
  const radius = { tileHeight: 1, tileWidth: 1, radiusHeight: 5, radiusWidth: 5 };
  const touched = (height: number, width: number, order?: Layout) => {
    const mask = tileWindow({ height, width, ...radius });
    return occupancy(order ? permuted(mask, order) : mask, 64, 64).touched;
  };
  // Squares of 8 x 8 tokens with their neighbours, 3 + 3 + ... less 1 at either end = 22 each way, in any order of the squares.
  const square = { height: 64, width: 64 };
  assert.equal(touched(64, 64, tileLayout({ ...square, tileHeight: 8, tileWidth: 8 })), 22 * 22);
  assert.equal(touched(64, 64, hilbertLayout(square)), 22 * 22);
  assert.ok(touched(64, 64) > 1.3 * 22 * 22);
  // Where 8 x 8 does not divide the image, tiles come apart; the curve does not.
  const oblong = { height: 48, width: 84 };
  const curve = touched(48, 84, hilbertLayout(oblong));
  assert.ok(curve < 0.8 * touched(48, 84, tileLayout({ ...oblong, tileHeight: 8, tileWidth: 8 })));
});

for (const [backend, reason] of await availableBackends({ allowSoftware: true })) {
  Deno.test({
    name: `${backend}: tokens go into a layout and back, gradients too${
      reason ? ` (skipped: ${reason})` : ""
    }`,
    ignore: reason !== null,
    // The device of TensorFlow.js lives as long as the process.
    sanitizeOps: false,
    sanitizeResources: false,
    fn: () => roundTrip(backend),
  });
}

async function roundTrip(backend: BackendName): Promise<void> {
  await useBackend(backend, { allowSoftware: true });
  for (const order of [layouts[3]!, layouts[7]!, layouts[10]!]) {
    const { tokens, places, tokenAt } = order;
    for (const shape of [[2, tokens, 3], [2, 2, tokens, 3], [2, 2, tokens]]) {
      const axis = shape.lastIndexOf(tokens);
      const values = stream(9).normal(shape.reduce((a, b) => a * b));
      const wanted = tf.buffer(shape.with(axis, places));
      const given = tf.buffer(shape, "float32", values);
      const tensors = tf.memory().numTensors;
      const x = tf.tensor(values, shape);
      const there = toLayout(x, order, axis);
      const back = fromLayout(there, order, axis);
      assert.deepEqual(await back.data(), values);
      assert.deepEqual(there.shape, wanted.shape);
      for (let i = 0; i < wanted.size; i++) {
        const place = wanted.indexToLoc(i);
        const token = tokenAt[place[axis]!]!;
        wanted.values[i] = token < 0 ? 0 : given.get(...place.with(axis, token));
      }
      assert.deepEqual(await there.data(), wanted.values);
      // d/dx of sum(w toLayout(x)) is w taken out of the layout; and of sum(w fromLayout(y)), w put in it.
      const [gradient, inverse] = tf.tidy(() => [
        tf.grad((y: tf.Tensor) => tf.sum(tf.mul(toLayout(y, order, axis), there)))(tf.zerosLike(x)),
        tf.grad((y: tf.Tensor) => tf.sum(tf.mul(fromLayout(y, order, axis), x)))(tf.zerosLike(there)),
      ]);
      assert.deepEqual(await gradient!.data(), values);
      assert.deepEqual(await inverse!.data(), wanted.values);
      tf.dispose([x, there, back, gradient!, inverse!]);
      assert.equal(tf.memory().numTensors, tensors);
    }
  }
}

Deno.test("attention in a layout is attention, token for token", async () => {
  await useBackend("wasm");
  for (const [seed, order] of layouts.entries()) {
    const mask = randomMask(seed, [order.tokens, order.tokens], 2, 0.3);
    tf.tidy(() => {
      const [q, k, v] = ["q", "k", "v"].map((name) => draw(name, [1, 2, order.tokens, 8])) as [
        tf.Tensor4D,
        tf.Tensor4D,
        tf.Tensor4D,
      ];
      const options = { lse: true, implementation: "reference" } as const;
      const plain = attend(q, k, v, { ...options, mask });
      const [a, b, c] = [q, k, v].map((x) => toLayout(x, order)) as [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D];
      const moved = attend(a, b, c, { ...options, mask: permuted(mask, order) });
      // Sums of the same numbers in another order: some roundings of float32.
      for (
        const [got, want] of [
          [fromLayout(moved.output, order), plain.output],
          [fromLayout(moved.lse!, order, 2), plain.lse!],
        ] as const
      ) {
        const expected = want.dataSync();
        got.dataSync().forEach((value, i) => {
          assert.ok(
            value === expected[i] || Math.abs(value - expected[i]!) < 1e-5,
            `${order.label} ${value} ${expected[i]}`,
          );
        });
      }
    });
  }
});

Deno.test("layouts of bad input are refused", () => {
  const order = rasterLayout(4);
  const refused: [() => unknown, typeof TypeError | typeof RangeError, RegExp][] = [
    [
      () => layout([0, 0]),
      RangeError,
      /each of 2 tokens must be in one place: current token in place 1 is 0/,
    ],
    [() => layout([0, 2]), RangeError, /current token in place 1 is 2/],
    [() => layout([0, 1.5]), RangeError, /current token in place 1 is 1.5/],
    [() => layout([0, -2]), RangeError, /current token in place 1 is -2/],
    [() => layout([-1]), RangeError, /there must be tokens/],
    [() => rasterLayout(0), RangeError, /'tokens'/],
    [() => tileLayout({ height: 4, width: 4, tileHeight: 2.5, tileWidth: 2 }), RangeError, /'tileHeight'/],
    [() => hilbertLayout({ height: 0, width: 4 }), RangeError, /'height'/],
    [() => tokenMajorLayout({ frames: 2, frameTokens: 2, text: -1 }), RangeError, /'text'/],
    [() => padText(order, 5, 8), RangeError, /at most the 4 places: current text is 5/],
    [() => padText(order, 2, 0), RangeError, /'multiple'/],
    [
      () => permuted(band(5, 1), order),
      TypeError,
      /the layout's 4 tokens: current mask is band\(1\) of \[5, 5\]/,
    ],
    [
      () => toLayout(tf.zeros([1, 5, 2]), order),
      TypeError,
      /axis 1 must have 4: current shape is \[1, 5, 2\]/,
    ],
    [() => fromLayout(tf.zeros([4]), order), TypeError, /axis -1/],
  ];
  for (const [make, type, message] of refused) {
    assert.throws(make, (error) => error instanceof type && message.test(error.message), `${make}`);
  }
});
