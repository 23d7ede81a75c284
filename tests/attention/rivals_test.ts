import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { keepLargest, keepMass } from "../../lib/attention/selection/_rank.ts";
import * as rivals from "../../lib/attention/selection/mod.ts";
import type { BlockMap, BlockSelection, Selection } from "../../lib/attention/selection/mod.ts";
import { layout, tokenMajorLayout } from "../../lib/attention/layouts.ts";
import { keptShare } from "../../lib/attention/tiles.ts";
import { availableBackends, type BackendName, useBackend } from "../../lib/tensor/mod.ts";
import { checkRivals } from "../../tools/golden/rivals.ts";
import { draw, draws } from "./_random.ts";

const golden = fileURLToPath(new URL("../golden/diffusion/rivals", import.meta.url));

for (const [backend, reason] of await availableBackends({ allowSoftware: true })) {
  for (const [evaluation, compared] of [["compiled", 233], ["interpreted", 223]] as const) {
    Deno.test({
      name: `reference values: rivals on ${backend}, ${evaluation}${
        reason === null ? "" : ` (skipped: ${reason})`
      }`,
      ignore: reason !== null,
      sanitizeResources: false,
      async fn() {
        await useBackend(backend as BackendName, { allowSoftware: true });
        const { comparisons, skipped } = await checkRivals(golden, { evaluation });
        assert.deepEqual(comparisons.filter(({ passed }) => !passed), []);
        assert.equal(comparisons.length, compared);
        // No selection is so near to a threshold that rounding could change it.
        assert.deepEqual(skipped, ["ditfastattn_plan: its plan is made by running a model"]);
      },
    });
  }
}

/** A test on the wasm backend that leaves no tensor behind. */
function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test(name, async () => {
    await useBackend("wasm");
    const before = tf.memory().numTensors;
    await fn();
    assert.equal(tf.memory().numTensors, before);
  });
}

test("rivals: a wrong reference is a miss, and one on its threshold is left out", async () => {
  const folder = await mkdtemp(join(tmpdir(), "rivals-"));
  await cp(golden, folder, { recursive: true });
  const change = async (file: string, edit: (text: string) => string) =>
    await writeFile(join(folder, file), edit(await readFile(join(folder, file), "utf8")));
  await change("radial.json", (text) => text.replace("256.0", "255.0"));
  await change("svg.json", (text) => text.replace('"band": 4864', '"band": 4736'));
  await change("minference.json", (text) => text.replace(/(n448.*top3.*: )0\.0011\d+/, "$11e-9"));
  const { comparisons, skipped } = await checkRivals(folder, { evaluation: "interpreted" });
  assert.deepEqual(comparisons.filter(({ passed }) => !passed).map(({ name }) => name), [
    "rivals/svg cogvideox_v1 0.5/band",
    "rivals/radial p256_f6_b128_d1.0_wan_t0/window_width",
  ]);
  assert.equal(comparisons.length, 222);
  assert.match(skipped[1]!, /^minference n448.zero_padded_mean.top3: 1e-9 from its threshold/);
  await rm(folder, { recursive: true });
});

/** Whether head `head` (of batch x heads) lets query i see key j, tokens of the model. */
type Sees = (head: number, i: number, j: number) => boolean;

/** What a selection says of tokens in the order of the model. */
function seesOf({ mask, layout }: Selection, heads: number): Sees {
  const { queries } = mask;
  const flags = Array.from({ length: heads * queries }, (_, row) => {
    const kept = new Uint8Array(mask.keys);
    const bounds = mask.intervals(row % queries, Math.floor(row / queries));
    for (let i = 0; i < bounds.length; i += 2) {
      assert.ok(
        bounds[i]! < bounds[i + 1]! && bounds[i]! > (bounds[i - 1] ?? -1) && bounds[i + 1]! <= mask.keys,
      );
      kept.fill(1, bounds[i], bounds[i + 1]);
    }
    return kept;
  });
  const place = (head: number, token: number) => {
    if (!layout) return token;
    if (layout.tokens === queries) return layout.placeOf[token]!;
    return layout.placeOf[head * queries + token]! - head * queries;
  };
  return (head, i, j) => flags[head * queries + place(head, i)]![place(head, j)] === 1;
}

/** Attention as a plain loop in float64: output [batch x heads x tokens x dim] and log-sum-exp. */
function plain(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  sees: Sees,
): { output: number[]; lse: number[] } {
  const [batch, heads, tokens, dim] = q.shape;
  const [Q, K, V] = [q, k, v].map((x) => x.dataSync()) as [Float32Array, Float32Array, Float32Array];
  const [output, lse]: [number[], number[]] = [[], []];
  for (let row = 0; row < batch * heads * tokens; row++) {
    const [head, i] = [Math.floor(row / tokens), row % tokens];
    const sums = new Float64Array(dim);
    let total = 0;
    for (let j = 0; j < tokens; j++) {
      if (!sees(head, i, j)) continue;
      let score = 0;
      for (let c = 0; c < dim; c++) score += Q[row * dim + c]! * K[(head * tokens + j) * dim + c]!;
      const power = Math.exp(score / Math.sqrt(dim));
      total += power;
      for (let c = 0; c < dim; c++) sums[c]! += power * V[(head * tokens + j) * dim + c]!;
    }
    output.push(...sums.map((sum) => total > 0 ? sum / total : 0));
    lse.push(Math.log(total));
  }
  return { output, lse };
}

/** Float32 softmax and products of normal numbers over at most some hundred keys, against float64. */
const ROUNDING = 1e-5;

function assertNear(measured: ArrayLike<number>, expected: ArrayLike<number>, what: string): void {
  assert.equal(measured.length, expected.length);
  for (let i = 0; i < expected.length; i++) {
    const [a, b] = [measured[i]!, expected[i]!];
    assert.ok(a === b || Math.abs(a - b) <= ROUNDING * (1 + Math.abs(b)), `${what} ${i}: ${a}, not ${b}`);
  }
}

/** Attention by a selection, with statistics and with the epilogue, against plain loops. */
function assertAttends(selection: Selection, [q, k, v]: Triple, sees: Sees): void {
  const [batch, heads, tokens] = q.shape;
  const expected = plain(q, k, v, sees);
  tf.tidy(() => {
    const { output, lse } = rivals.attendSelection(q, k, v, selection, { lse: true });
    assert.deepEqual(output.shape, q.shape);
    assert.deepEqual(lse!.shape, [batch, heads, tokens]);
    assertNear(output.dataSync(), expected.output, "output");
    assertNear(lse!.dataSync(), expected.lse, "lse");
    const rho = tf.tensor3d(draws("rho").uniform(lse!.size), [batch, heads, tokens]);
    const epilogue = { rho, residual: k };
    const used = rivals.attendSelection(q, k, v, selection, { epilogue });
    assert.equal(used.lse, null);
    assertNear(
      used.output.dataSync(),
      tf.add(tf.mul(tf.tensor4d(expected.output, q.shape), tf.expandDims(rho, -1)), k).dataSync(),
      "with epilogue",
    );
  });
}

type Triple = [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D];

/** Inputs with structure: neighbouring tokens are alike, so that blocks differ. */
function structured(name: string, shape: [number, number, number, number]): Triple {
  const [, , tokens, dim] = shape;
  const wave = Float32Array.from({ length: tokens * dim }, (_, index) => {
    const [token, channel] = [Math.floor(index / dim), index % dim];
    return Math.cos(token * 0.11 / (1 + channel % 4) + 0.7 * channel);
  });
  return ["q", "k", "v"].map((part) =>
    tf.tidy(() => tf.add(draw(`${name} ${part}`, shape), tf.tensor4d(wave, [1, 1, tokens, dim])))
  ) as Triple;
}

test("keepLargest: the count largest, of equal ones the first, never -Infinity or NaN", () => {
  const random = draws("keepLargest");
  for (let trial = 0; trial < 200; trial++) {
    const size = 1 + random.integers(1, 20)[0]!;
    // Few different values, so that most of them tie.
    const scores = Float32Array.from(
      random.integers(size, 6),
      (value) => [-Infinity, -2, 0, 0.5, 1, NaN][value]!,
    );
    const count = random.integers(1, size + 3)[0]!;
    const kept = new Uint8Array(size);
    keepLargest(scores, count, kept);
    const ranked = [...scores.keys()].filter((index) => scores[index]! > -Infinity)
      .sort((a, b) => scores[b]! - scores[a]! || a - b).slice(0, count);
    assert.deepEqual([...kept.keys()].filter((index) => kept[index]), ranked.sort((a, b) => a - b));
  }
});

test("keepMass: the fewest that reach the share, or the most that do not exceed it", () => {
  const random = draws("keepMass");
  for (let trial = 0; trial < 200; trial++) {
    const scores = random.uniform(1 + random.integers(1, 20)[0]!, 0, 1);
    const share = random.uniform(1, 0.05, 0.99)[0]!;
    const total = scores.reduce((a, b) => a + b, 0);
    for (const rule of ["reach", "below"] as const) {
      const kept = new Uint8Array(scores.length);
      keepMass(scores, share, rule, kept);
      const inside = [...scores].filter((_, index) => kept[index]);
      const outside = [...scores].filter((_, index) => !kept[index]);
      const mass = inside.reduce((a, b) => a + b, 0);
      const least = Math.min(...inside);
      assert.ok(inside.length > 0 && least >= Math.max(0, ...outside));
      if (rule === "reach") assert.ok(mass >= share * total - 1e-9 && mass - least < share * total);
      else {
        assert.ok(inside.length === 1 || mass <= share * total + 1e-9);
        assert.ok(outside.length === 0 || mass + Math.max(...outside) > share * total - 1e-9);
      }
    }
  }
  const kept = new Uint8Array(3);
  keepMass(new Float32Array(3), 0.5, "reach", kept);
  assert.deepEqual([...kept], [0, 0, 0]);
});

/** Means over blocks of tokens, in float64: [batch x heads][block][channel]. */
function means(x: tf.Tensor4D, block: number): number[][][] {
  const [batch, heads, tokens, dim] = x.shape;
  const data = x.dataSync();
  return Array.from(
    { length: batch * heads },
    (_, head) =>
      Array.from({ length: Math.ceil(tokens / block) }, (_, index) => {
        const end = Math.min(tokens, (index + 1) * block);
        return Array.from({ length: dim }, (_, channel) => {
          let sum = 0;
          for (let t = index * block; t < end; t++) sum += data[(head * tokens + t) * dim + channel]!;
          return sum / (end - index * block);
        });
      }),
  );
}

/** Mean q . mean k: [batch x heads][row][column]. */
function pooledScores(q: tf.Tensor4D, k: tf.Tensor4D, block: number): number[][][] {
  const [Q, K] = [means(q, block), means(k, block)];
  return Q.map((rows, head) =>
    rows.map((row) => K[head]!.map((column) => row.reduce((sum, value, c) => sum + value * column[c]!, 0)))
  );
}

/** A row of flags for each row of blocks, head after head. */
function rowsOf({ kept, keys, blockKeys }: BlockMap): boolean[][] {
  const columns = Math.ceil(keys / blockKeys);
  return Array.from(
    { length: kept.length / columns },
    (_, row) => Array.from(kept.subarray(row * columns, (row + 1) * columns), Boolean),
  );
}

/** Tokens see each other where their blocks are kept. */
function seesBlocks(map: BlockMap): Sees {
  const [rows, columns] = [Math.ceil(map.queries / map.blockQueries), Math.ceil(map.keys / map.blockKeys)];
  return (head, i, j) =>
    map.kept[(head * rows + Math.floor(i / map.blockQueries)) * columns + Math.floor(j / map.blockKeys)] ===
      1;
}

test("top blocks: the number or share of blocks asked for, and those are the best", async () => {
  const [q, k, v] = structured("top blocks", [2, 2, 224, 8]);
  const scores = pooledScores(q, k, 32).flat();
  for (const rule of [{ top: 1 }, { top: 3 }, { keep: 0.43 }, { top: 9 }] as const) {
    const count = "top" in rule ? Math.min(7, rule.top) : 3;
    for (const select of [rivals.topBlocks, rivals.minferenceBlocks]) {
      const selection: BlockSelection = await select(q, k, { block: 32, ...rule });
      assert.equal(keptShare(selection.mask), count / 7);
      rowsOf(selection.blocks).forEach((kept, row) => {
        const [inside, outside] = [true, false].map((side) =>
          scores[row]!.filter((_, j) => kept[j] === side)
        );
        assert.equal(inside!.length, count);
        assert.ok(Math.min(...inside!) > Math.max(-Infinity, ...outside!));
      });
      if (count === 3) assertAttends(selection, [q, k, v], seesBlocks(selection.blocks));
    }
  }
  for (const mass of [0.3, 0.8]) {
    const { blocks } = await rivals.topBlocks(q, k, { block: 32, mass });
    rowsOf(blocks).forEach((kept, row) => {
      const powers = scores[row]!.map((score) => Math.exp(score / Math.sqrt(8)));
      const total = powers.reduce((a, b) => a + b, 0);
      const inside = powers.filter((_, j) => kept[j]).map((power) => power / total);
      const sum = inside.reduce((a, b) => a + b, 0);
      assert.ok(sum >= mass && sum - Math.min(...inside) < mass);
    });
  }
  tf.dispose([q, k, v]);
});

test("MInference blocks: causal rows see nothing later, and as many earlier blocks as there are", async () => {
  const inputs = structured("causal", [1, 3, 150, 8]);
  const [q, k] = inputs;
  const selection = await rivals.minferenceBlocks(q, k, { block: 32, top: 3, causal: true });
  rowsOf(selection.blocks).forEach((kept, row) =>
    assert.equal(kept.filter(Boolean).length, Math.min(3, row % 5 + 1))
  );
  const sees = seesBlocks(selection.blocks);
  assertAttends(selection, inputs, (head, i, j) => j <= i && sees(head, i, j));
  // What zeros behind the last token do: the partial block's mean is smaller.
  const [padded, exact] = [
    await rivals.minferenceBlocks(q, k, { block: 32, top: 2, pooling: "zero_padded_mean" }),
    await rivals.minferenceBlocks(q, k, { block: 32, top: 2 }),
  ];
  assertNear([padded.scores[4]! * 32 / 22], [exact.scores[4]!], "score of the partial block");
  tf.dispose(inputs);
});

test("each batch row has a selection of its own, as if it came alone", async () => {
  const inputs = ["q", "k"].map((part) => draw(`batch ${part}`, [2, 2, 192, 8])) as [
    tf.Tensor4D,
    tf.Tensor4D,
  ];
  const [q, k] = inputs;
  const both = await rivals.minferenceBlocks(q, k, { top: 1 });
  const rows = [0, 1].map((row) => [q, k].map((x) => tf.slice(x, [row, 0, 0, 0], [1, -1, -1, -1])));
  const alone = await Promise.all(
    rows.map(([q, k]) => rivals.minferenceBlocks(q as tf.Tensor4D, k as tf.Tensor4D, { top: 1 })),
  );
  assert.deepEqual([...both.blocks.kept], alone.flatMap(({ blocks }) => [...blocks.kept]));
  assert.notDeepEqual([...alone[0]!.blocks.kept], [...alone[1]!.blocks.kept]);
  assert.notEqual(alone[0]!.mask.label, alone[1]!.mask.label);
  tf.dispose([...inputs, ...rows.flat()]);
});

test("vertical-slash: kept columns and diagonals are seen whole, in both forms", async () => {
  const inputs = structured("slash", [1, 2, 300, 8]);
  const [q, k] = inputs;
  for (const causal of [true, false]) {
    const settings = { vertical: 9, slash: 7, sampled: 40, firstColumns: 4, nearDiagonals: 3, causal };
    const selection = await rivals.verticalSlash(q, k, settings);
    const sees = seesOf(selection, 2);
    selection.heads.forEach(({ columns, distances, columnScores, distanceScores }, head) => {
      assert.equal(columns.length, 9);
      assert.equal(distances.length, 7);
      for (const column of [0, 1, 2, 3]) assert.ok(columns.includes(column));
      for (const near of causal ? [0, 1, 2] : [0, 1, -1]) assert.ok(distances.includes(near));
      // The attention of 40 queries, by column and by diagonal.
      for (const scores of [columnScores, distanceScores]) {
        assertNear([scores.reduce((a, b) => a + b)], [40], "mass");
      }
      const least = Math.min(...[...columns].slice(4).map((column) => columnScores[column]!));
      assert.ok(columnScores.every((score, column) => columns.includes(column) || score <= least));
      for (let i = 0; i < 300; i++) {
        for (const j of [...columns, ...[...distances].map((distance) => i - distance)]) {
          if (j >= 0 && j < 300) assert.equal(sees(head, i, j), !causal || j <= i);
        }
      }
    });
    // Blocks of 64 around each diagonal and single columns, and nothing else.
    const most = 7 * 128 + 9;
    for (let i = 0; i < 300; i++) {
      const seen = Array.from({ length: 300 }, (_, j) => sees(0, i, j)).filter(Boolean).length;
      assert.ok(seen <= Math.min(most, causal ? i + 1 : 300));
    }
    assertAttends(selection, inputs, sees);
  }
  // All diagonals: everything.
  const all = await rivals.verticalSlash(q, k, {});
  assert.equal(keptShare(all.mask), 1);
  tf.dispose(inputs);
});

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

test("SpargeAttn: unlike blocks are kept whole; the rest holds the mass asked for", async () => {
  const inputs = structured("sparge", [2, 1, 300, 8]);
  const [q, k] = inputs;
  const sizes = { blockQueries: 64, blockKeys: 32 };
  const { similarQueries } = await rivals.spargeAttention(q, k, { ...sizes, keep: 0.5 });
  const [lower, upper] = similarQueries.slice().sort().subarray(4, 6);
  const similarity = (lower! + upper!) / 2;
  const settings = { ...sizes, similarity };
  let unlike = 0;
  for (const [rule, mass] of [["official", 0.8], ["inclusive", 0.8]] as const) {
    const selection = await rivals.spargeAttention(q, k, { ...settings, mass, rule });
    rowsOf(selection.blocks).forEach((kept, row) => {
      const head = Math.floor(row / 5);
      const safeKey = (column: number) => selection.similarKeys[head * 10 + column]! > similarity;
      const shares = selection.scores.subarray(row * 10, (row + 1) * 10);
      if (!(selection.similarQueries[row]! > similarity)) {
        unlike++;
        assert.ok(kept.every(Boolean));
        return;
      }
      kept.forEach((flag, column) => assert.ok(flag || safeKey(column)));
      const inside = [...shares].filter((_, column) => kept[column] && safeKey(column));
      const sum = inside.reduce((a, b) => a + b, 0);
      if (rule === "inclusive") assert.ok(sum >= 0.8 - 1e-6 && sum - Math.min(...inside) < 0.8);
      else assert.ok(sum <= 0.8 || inside.length === 1);
    });
    assertAttends(selection, inputs, seesBlocks(selection.blocks));
  }
  assert.equal(unlike, 2 * 5);
  const half = await rivals.spargeAttention(q, k, { ...settings, similarity: -1, keep: 0.5 });
  assert.ok(rowsOf(half.blocks).every((kept) => kept.filter(Boolean).length === 5));
  const sink = await rivals.spargeAttention(q, k, { ...settings, similarity: -1, keep: 0.1, sink: true });
  assert.ok(rowsOf(sink.blocks).every((kept) => kept[0]));
  // A partial last block is unlike by the official rule: its keys are seen by all, its queries see all.
  const partial = await rivals.spargeAttention(q, k, {
    ...settings,
    similarity: -1,
    keep: 0.1,
    partialBlocks: "unsafe",
  });
  rowsOf(partial.blocks).forEach((kept, row) => assert.ok(row % 5 === 4 ? kept.every(Boolean) : kept[9]));
  tf.dispose(inputs);
});

test("XAttention: sums of every few anti-diagonals, cut into rows of blocks or not", async () => {
  const inputs = structured("xattention", [1, 2, 300, 8]);
  const [q, k] = inputs;
  const settings = { block: 64, stride: 8, mass: 0.7 };
  const selection = await rivals.xAttention(q, k, settings);
  // By definition: places of 8 tokens; a product of two of them sums q and k along the anti-diagonal.
  const [Q, K] = [q.dataSync(), k.dataSync()];
  for (const head of [0, 1]) {
    for (const row of [0, 3, 4]) {
      const sums = new Float64Array(5);
      for (let a = row * 8; a < Math.min(row * 8 + 8, 38); a++) {
        const powers = Array.from({ length: 38 }, (_, b) => {
          let score = 0;
          for (let i = 0; i < 8; i++) {
            const [x, y] = [a * 8 + 7 - i, b * 8 + i];
            if (x >= 300 || y >= 300) continue;
            for (let c = 0; c < 8; c++) score += Q[(head * 300 + x) * 8 + c]! * K[(head * 300 + y) * 8 + c]!;
          }
          return Math.exp(score / (8 * Math.sqrt(8)));
        });
        const total = powers.reduce((x, y) => x + y, 0);
        powers.forEach((power, b) => sums[Math.floor(b / 8)]! += power / total);
      }
      assertNear(selection.scores.subarray((head * 5 + row) * 5, (head * 5 + row + 1) * 5), sums, "sum");
    }
  }
  rowsOf(selection.blocks).forEach((kept, row) => {
    const sums = [...selection.scores.subarray(row * 5, row * 5 + 5)];
    const total = sums.reduce((a, b) => a + b, 0);
    const inside = sums.filter((_, column) => kept[column]);
    const sum = inside.reduce((a, b) => a + b, 0);
    assert.ok(sum >= 0.7 * total - 1e-6 && sum - Math.min(...inside) < 0.7 * total);
  });
  assertAttends(selection, inputs, seesBlocks(selection.blocks));
  const filled = await rivals.xAttention(q, k, { ...settings, filler: true });
  rowsOf(filled.blocks).forEach((kept, row) => {
    assert.ok(kept[0]);
    assert.deepEqual(kept.slice(1), rowsOf(selection.blocks)[row]!.slice(1));
  });
  // Zero keys take part of every row's mass.
  const zeros = await rivals.xAttention(q, k, { ...settings, zeroKeysTo: 512 });
  for (let row = 0; row < 4; row++) {
    const sum = zeros.scores.subarray(row * 5, row * 5 + 5).reduce((a, b) => a + b, 0);
    assert.ok(sum < 7.9 && sum > 1, `${sum} of 8`);
  }
  tf.dispose(inputs);
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
