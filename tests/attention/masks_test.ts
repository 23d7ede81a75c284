import assert from "node:assert/strict";
import { intervalsOfBits, intervalsWhere, setBits, unionOf } from "../../lib/attention/_intervals.ts";
import { drawMask, maskGrid } from "../../lib/attention/draw.ts";
import {
  band,
  blockMask,
  denseTokens,
  elementMask,
  frameBand,
  full,
  joinText,
  maskOfRows,
  perHead,
  shiftedBand,
  tileWindow,
  union,
} from "../../lib/attention/masks.ts";
import { permuted, tokenMajorLayout } from "../../lib/attention/layouts.ts";
import { keptElements, keptShare, keysPerRow, occupancy, tileList } from "../../lib/attention/tiles.ts";
import type { Mask } from "../../lib/attention/types.ts";
import { stream } from "../../lib/tensor/mod.ts";
import { randomMask, slowTiles } from "./_random.ts";

type Keeps = (query: number, key: number, head: number) => boolean;

/** 1 where kept, [heads, queries, keys]; checks that rows are sorted, disjoint, not touching, inside. */
function elementsOf(mask: Mask): Uint8Array {
  const { queries, keys, heads } = mask;
  const elements = new Uint8Array((heads ?? 1) * queries * keys);
  for (let row = 0; row < (heads ?? 1) * queries; row++) {
    const bounds = mask.intervals(row % queries, Math.floor(row / queries));
    assert.equal(bounds.length % 2, 0);
    bounds.forEach((bound, i) => assert.ok(bound > (i > 0 ? bounds[i - 1]! : -1) && bound <= keys));
    for (let i = 0; i < bounds.length; i += 2) {
      elements.fill(1, row * keys + bounds[i]!, row * keys + bounds[i + 1]!);
    }
  }
  return elements;
}

/** The elements that a rule keeps, one by one. */
function elementsWhere({ queries, keys, heads }: Mask, keeps: Keeps): Uint8Array {
  return Uint8Array.from({ length: (heads ?? 1) * queries * keys }, (_, i) => {
    const row = Math.floor(i / keys);
    return keeps(row % queries, i % keys, Math.floor(row / queries)) ? 1 : 0;
  });
}

/** Each mask with the rule of its definition, at many sizes. */
function examples(): [Mask, Keeps][] {
  const all: [Mask, Keeps][] = [];
  const draws = stream(6).child("sizes");
  const size = (least: number, most: number) => least + draws.integers(1, most - least + 1)[0]!;
  for (let i = 0; i < 25; i++) {
    const tokens = size(1, 70);
    const half = size(0, 40);
    all.push([band(tokens, half), (q, k) => Math.abs(q - k) <= half]);

    const width = size(1, tokens);
    all.push([shiftedBand(tokens, width), (q, k) => {
      const from = Math.max(0, Math.min(q - Math.floor(width / 2), tokens - width));
      return k >= from && k < from + width;
    }]);

    const [frames, frameTokens, text, near] = [size(1, 5), size(1, 12), size(0, 1) * size(1, 9), size(0, 12)];
    all.push([
      frameBand({ frames, frameTokens, text, half: near }),
      (q, k) => q < text || k < text || Math.abs((q - text) % frameTokens - (k - text) % frameTokens) <= near,
    ]);

    const shape = { height: size(1, 9), width: size(1, 9), tileHeight: size(1, 4), tileWidth: size(1, 4) };
    const [radiusHeight, radiusWidth] = [size(0, 2), size(0, 2)];
    const tileOf = (token: number) =>
      [
        Math.floor(Math.floor(token / shape.width) / shape.tileHeight),
        Math.floor((token % shape.width) / shape.tileWidth),
      ] as const;
    all.push([tileWindow({ ...shape, radiusHeight, radiusWidth }), (q, k) => {
      const [[y, x], [v, u]] = [tileOf(q), tileOf(k)];
      return Math.abs(y - v) <= radiusHeight && Math.abs(x - u) <= radiusWidth;
    }]);

    const [queries, keys, heads] = [size(1, 40), size(1, 40), size(1, 3)];
    const own = i % 2 === 0 ? heads : null;
    const [blockQueries, blockKeys] = [size(1, 9), size(1, 9)];
    const [rows, columns] = [Math.ceil(queries / blockQueries), Math.ceil(keys / blockKeys)];
    const blocks = Uint8Array.from(draws.integers((own ?? 1) * rows * columns, 2));
    const grid = { queries, keys, heads: own, blockQueries, blockKeys };
    const keepsBlock: Keeps = (q, k, head) =>
      blocks[
        ((own ? head : 0) * rows + Math.floor(q / blockQueries)) * columns + Math.floor(k / blockKeys)
      ] === 1;
    all.push([blockMask({ ...grid, blocks }), keepsBlock]);
    const lists = Array.from(
      { length: (own ?? 1) * rows },
      (_, row) =>
        Array.from({ length: columns }, (_, column) => columns - 1 - column)
          .filter((column) => blocks[row * columns + column] === 1),
    );
    all.push([blockMask({ ...grid, blocks: lists }), keepsBlock]);

    const elements = Uint8Array.from(draws.integers((own ?? 1) * queries * keys, 2));
    const keepsElement: Keeps = (q, k, head) => elements[((own ? head : 0) * queries + q) * keys + k] === 1;
    const sizes = { queries, keys, heads: own };
    const single = elementMask({ ...sizes, elements });
    all.push([single, keepsElement]);
    const stride = Math.ceil(keys / 8);
    const packed = new Uint8Array((own ?? 1) * queries * stride);
    elements.forEach((bit, at) => {
      const [row, key] = [Math.floor(at / keys), at % keys];
      packed[row * stride + (key >> 3)]! |= bit << (key & 7);
    });
    all.push([elementMask({ ...sizes, elements: packed, packed: true }), keepsElement]);

    const narrow = maskOfRows(
      { label: "first key", queries, keys },
      () => Int32Array.of(0, 1),
    );
    all.push([union(narrow, single), (q, k, head) => k === 0 || keepsElement(q, k, head)]);
    all.push([union(single, narrow), (q, k, head) => k === 0 || keepsElement(q, k, head)]);
    all.push([
      perHead([band(tokens, half), full(tokens), band(tokens, 0)]),
      (q, k, head) => head === 1 || Math.abs(q - k) <= (head === 0 ? half : 0),
    ]);
    const from = size(0, tokens - 1);
    const to = size(from + 1, tokens);
    all.push([
      denseTokens(band(tokens, half), from, to),
      (q, k) => Math.abs(q - k) <= half || (q >= from && q < to) || (k >= from && k < to),
    ]);
    const last = i % 2 === 0;
    const shift = last ? 0 : text;
    all.push([joinText(band(tokens, half), text, last ? "last" : "first"), (q, k) => {
      const [a, b] = [q - shift, k - shift];
      return a < 0 || b < 0 || a >= tokens || b >= tokens || Math.abs(a - b) <= half;
    }]);
    all.push([full(queries, keys), () => true]);
  }
  return all;
}

Deno.test("masks keep what their definitions say, element by element, at random sizes", () => {
  for (const [mask, keeps] of examples()) {
    assert.deepEqual(elementsOf(mask), elementsWhere(mask, keeps), mask.label);
  }
});

Deno.test("keys per row, kept elements and share, and occupancy are those of the elements", () => {
  for (const [mask] of examples()) {
    const { queries, keys, heads, label } = mask;
    const elements = elementsOf(mask);
    const counts = Array.from(
      { length: elements.length / keys },
      (_, row) => elements.subarray(row * keys, (row + 1) * keys).reduce((sum, bit) => sum + bit, 0),
    );
    assert.deepEqual([...keysPerRow(mask)], counts, label);
    const kept = counts.reduce((sum, count) => sum + count, 0);
    assert.equal(keptElements(mask), kept);
    assert.equal(keptShare(mask), kept / elements.length);
    for (const [tileQueries, tileKeys] of [[1, 1], [3, 7], [16, 8], [64, 64]] as const) {
      const met = new Set<number>();
      const [rows, columns] = [Math.ceil(queries / tileQueries), Math.ceil(keys / tileKeys)];
      elements.forEach((bit, at) => {
        const row = Math.floor(at / keys);
        const tileRow = Math.floor(row / queries) * rows + Math.floor((row % queries) / tileQueries);
        if (bit) met.add(tileRow * columns + Math.floor((at % keys) / tileKeys));
      });
      const total = (heads ?? 1) * rows * columns;
      const expected = { touched: met.size, total, share: met.size / total };
      assert.deepEqual(occupancy(mask, tileQueries, tileKeys), expected, label);
    }
  }
});

Deno.test("tile lists are those that a look at every element gives, for odd sizes and all tiles", () => {
  const masks = [
    ...[[1, 1], [37, 61], [64, 64], [129, 97], [131, 257]].map(([queries, keys], seed) =>
      randomMask(seed, [queries!, keys!], seed % 2 ? 2 : null, 0.05)
    ),
    band(150, 9),
    frameBand({ frames: 3, frameTokens: 45, half: 4, text: 10 }),
    full(99, 70),
    elementMask({ queries: 5, keys: 40, elements: new Uint8Array(200) }),
  ];
  for (const mask of masks) {
    for (const tileQueries of [1, 5, 8, 32, 64]) {
      for (const tileKeys of [1, 2, 4, 8, 16, 32, 64, 96, 128]) {
        assert.deepEqual(tileList(mask, tileQueries, tileKeys), slowTiles(mask, tileQueries, tileKeys));
      }
    }
  }
});

Deno.test("the tile list of a whole video has each pattern once", () => {
  const { columns, patterns } = tileList(
    frameBand({ frames: 13, frameTokens: 1350, half: 21, text: 226 }),
    64,
    64,
  );
  // The count of mask_stats.json.
  assert.equal(columns.length, 11586);
  const distinct = new Set<string>();
  for (let i = 0; i < patterns.length; i += 128) distinct.add(patterns.subarray(i, i + 128).join());
  assert.equal(distinct.size, patterns.length / 128);
  assert.ok(distinct.size < columns.length / 20);
});

Deno.test("intervals: bits there and back, and unions, at random", () => {
  const draws = stream(7).child("bits");
  for (let round = 0; round < 200; round++) {
    const length = 1 + draws.integers(1, 200)[0]!;
    const wanted = new Uint8Array(length);
    const words = new Uint32Array(Math.ceil(length / 32));
    for (let i = 0; i < 4; i++) {
      const [from, to] = [...draws.integers(2, length + 1)].sort((a, b) => a - b) as [number, number];
      if (to - from > 60 && round % 3) continue;
      wanted.fill(1, from, to);
      setBits(words, 0, from, to);
    }
    const bounds = intervalsWhere(length, (x) => wanted[x] === 1);
    assert.deepEqual(intervalsOfBits(words, length), bounds);
    const other = intervalsWhere(length, (x) => draws.integers(1, 3)[0] === 0 && x % 5 > 0);
    const isIn = (list: Int32Array, x: number) =>
      Array.from({ length: list.length / 2 }, (_, i) => x >= list[2 * i]! && x < list[2 * i + 1]!).includes(
        true,
      );
    assert.deepEqual(
      unionOf(bounds, other),
      intervalsWhere(length, (x) => isIn(bounds, x) || isIn(other, x)),
    );
  }
});

Deno.test("masks label themselves, and different ones differently", () => {
  assert.equal(band(4096, 64).label, "band(64)");
  assert.equal(
    frameBand({ frames: 13, frameTokens: 1350, half: 21, text: 226 }).label,
    "frameBand(21, 13 frames x 1350, text 226)",
  );
  const rows = new Map<string, string>();
  for (const [mask] of examples()) {
    const { label, queries, keys, heads } = mask;
    const content = elementsOf(mask).join("");
    const key = [label, queries, keys, heads].join("|");
    assert.equal(rows.get(key) ?? content, content, label);
    rows.set(key, content);
  }
  const blocks = { queries: 8, keys: 8, blockQueries: 4, blockKeys: 4 };
  assert.equal(
    blockMask({ ...blocks, blocks: Uint8Array.of(1, 0, 1, 1) }).label,
    blockMask({ ...blocks, blocks: [[0], [1, 0]] }).label,
  );
  assert.notEqual(
    blockMask({ ...blocks, blocks: Uint8Array.of(1, 0, 1, 1) }).label,
    blockMask({ ...blocks, blocks: Uint8Array.of(1, 1, 0, 1) }).label,
  );
});

Deno.test("a mask of elements does not change with the array that it was made of", () => {
  const elements = new Uint8Array(4).fill(1);
  const mask = elementMask({ queries: 2, keys: 2, elements });
  elements.fill(0);
  assert.equal(keptElements(mask), 4);
});

Deno.test("drawings have the kept share of each cell, and say what they show", () => {
  const mask = band(100, 7);
  const { cellQueries, cellKeys, rows, columns, shares } = maskGrid(mask, { cells: 9 });
  assert.deepEqual([cellQueries, cellKeys, rows, columns], [12, 12, 9, 9]);
  const expected = Array.from(shares, (_, i) => {
    const [top, left] = [Math.floor(i / 9) * 12, i % 9 * 12];
    const [height, width] = [Math.min(12, 100 - top), Math.min(12, 100 - left)];
    let kept = 0;
    for (let q = top; q < top + height; q++) {
      for (let k = left; k < left + width; k++) kept += Math.abs(q - k) <= 7 ? 1 : 0;
    }
    return kept / (height * width);
  });
  assert.deepEqual([...shares], expected);
  const { name, title, caption, spec } = drawMask(mask, { cells: 9, tile: 32 });
  assert.equal(name, "mask-band-7");
  assert.equal(title, "band(7)");
  assert.deepEqual((spec as { title: unknown }).title, {
    text: ["band(7)"],
    subtitle: "keeps 14.4%, touches 62.5% of 32 x 32 tiles",
  });
  // 100 + 2 (99 + ... + 93) = 1444 elements; all but (0, 2), (0, 3), (1, 3) and their mirror images of 4 x 4 tiles.
  assert.match(caption, /^Keeps 14.4% of 100 x 100 elements and touches 62.5% of its 32 x 32 tiles\./);
  const { values } = (spec as { data: { values: { kept: number }[] } }).data;
  assert.equal(values.length, expected.filter((share) => share > 0).length);
  const moved = drawMask(permuted(band(6, 1), tokenMajorLayout({ frames: 2, frameTokens: 3 })));
  assert.deepEqual((moved.spec as { title: { text: unknown } }).title.text, [
    "band(1)",
    "in tokenMajor(2 frames x 3)",
  ]);
  const heads = perHead([band(10, 1), full(10)]);
  assert.deepEqual([...maskGrid(heads, { cells: 1, head: 1 }).shares], [1]);
  assert.match(drawMask(heads, { head: 1 }).title, /, head 1 of 2$/);
  assert.throws(() => drawMask(heads, { head: 2 }), RangeError);
});

Deno.test("masks of bad input are refused", () => {
  const grid = { queries: 8, keys: 8, blockQueries: 4, blockKeys: 4 };
  const refused: [() => unknown, typeof TypeError | typeof RangeError, RegExp][] = [
    [
      () => band(0, 1),
      RangeError,
      /^Cannot make a band as 'tokens' must be a whole number of at least 1: current/,
    ],
    [() => band(8, -1), RangeError, /'half' must be a whole number of at least 0: current half is -1/],
    [() => band(8, 1.5), RangeError, /current half is 1.5/],
    [() => band("8" as unknown as number, 1), TypeError, /'tokens'/],
    [() => shiftedBand(8, 9), RangeError, /'width' must be at most the 8 tokens: current width is 9/],
    [() => frameBand({ frames: 0, frameTokens: 4, half: 1 }), RangeError, /'frames'/],
    [() => frameBand({ frames: 2, frameTokens: 4, half: 1, text: NaN }), RangeError, /'text'/],
    [
      () => tileWindow({ height: 8, width: 8, tileHeight: 0, tileWidth: 4, radiusHeight: 1, radiusWidth: 1 }),
      RangeError,
      /'tileHeight'/,
    ],
    [
      () => blockMask({ ...grid, blocks: new Uint8Array(5) }),
      TypeError,
      /must be \[1, 2, 2\] flags or 2 lists/,
    ],
    [() => blockMask({ ...grid, heads: 3, blocks: [[0], [1]] }), TypeError, /\[3, 2, 2\]/],
    [
      () => blockMask({ ...grid, blocks: [[0], [2]] }),
      RangeError,
      /whole numbers below 2: current row of blocks 1 has 2/,
    ],
    [
      () => elementMask({ queries: 3, keys: 9, elements: new Uint8Array(6) }),
      TypeError,
      /must be \[1, 3, 9\]/,
    ],
    [
      () => union(band(4, 1), band(5, 1)),
      TypeError,
      /\[4, 4\] and any heads: current mask is band\(1\) of \[5, 5\]/,
    ],
    [() => perHead([perHead([band(4, 1)])]), TypeError, /must serve any head/],
    [() => denseTokens(full(4, 5), 0, 1), TypeError, /tokens that see tokens/],
    [() => denseTokens(band(4, 1), 3, 5), RangeError, /some of 4: current interval is \[3, 5\)/],
    [() => joinText(band(4, 1), 1.5), RangeError, /'text'/],
    [() => band(4, 1).intervals(4, 0), RangeError, /^Cannot give a row of band\(1\)/],
    [() => perHead([band(4, 1)]).intervals(0, 1), RangeError, /1 heads: current query is 0, head 1/],
    [
      () => tileList(band(4, 1), 64, 48),
      RangeError,
      /'tileKeys' must be a multiple of 32 or 1, 2, 4, 8 or 16/,
    ],
    [() => tileList(band(4, 1), 0, 64), RangeError, /'tileQueries'/],
    [() => occupancy(band(4, 1), 4, 0), RangeError, /'tileKeys'/],
    [() => drawMask(band(4, 1), { cells: 0 }), RangeError, /'cells'/],
  ];
  for (const [make, type, message] of refused) {
    assert.throws(make, (error) => error instanceof type && message.test(error.message), `${make}`);
  }
});
