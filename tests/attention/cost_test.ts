import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import {
  type Cost,
  denseFlops,
  devices,
  estimateTime,
  modelShape,
  modelShapes,
  runCost,
  wholeModel,
} from "../../lib/attention/cost.ts";
import { padText, tokenMajorLayout } from "../../lib/attention/layouts.ts";
import { band, frameBand, full, maskOfRows, perHead } from "../../lib/attention/masks.ts";
import { rettention } from "../../lib/attention/methods/rettention.ts";
import { publishedSchedule } from "../../lib/attention/methods/schedule.ts";
import { fullAttention, outputSharing, windowOnly } from "../../lib/attention/methods/simple.ts";
import type { Mask } from "../../lib/attention/types.ts";

interface GoldenModel extends Record<string, unknown> {
  model: string;
  layers: number;
  heads: number;
  d: number;
  tokens: number;
  cfg_batch: number;
  dense_per_layer_per_row: number;
  dense_per_step: number;
  residual_cache_bytes_fp16: number;
  rho_cache_bytes_fp16: number;
}

interface GoldenRun {
  steps: number;
  full_calls: number;
  window_calls: number;
  flops: number;
  dense_run: number;
  ratio: number;
}

const golden: { models: GoldenModel[] } = JSON.parse(
  readFileSync(new URL("../golden/diffusion/flops.json", import.meta.url), "utf8"),
);

const scheduleOf = (model: string) =>
  publishedSchedule(
    model.startsWith("PixArt") ? "pixart" : model.startsWith("Hunyuan") ? "hunyuan" : "cogvideox",
  );

/** The published window of a model at share s. */
function windowOf(model: string, tokens: number, share: number): Mask {
  if (!model.startsWith("CogVideoX")) return band(tokens, Math.floor(Math.floor(tokens * share) / 2));
  const [frames, frameTokens] = model.startsWith("CogVideoX1.5") ? [11, 4080] as const : [13, 1350] as const;
  const half = Math.floor(Math.floor(frameTokens * share) / 2);
  return frameBand({ frames, frameTokens, text: 226, half });
}

Deno.test("operations and caches of the published models and schedules are those of flops.json, to the last one", () => {
  assert.deepEqual(
    modelShapes.map(({ name }) => name).sort(),
    golden.models.map(({ model }) => model).sort(),
  );
  let runs = 0;
  for (const reference of golden.models) {
    const model = modelShape(reference.model);
    assert.deepEqual(
      [model.layers, model.heads, model.dim, model.tokens, model.batch],
      [reference.layers, reference.heads, reference.d, reference.tokens, reference.cfg_batch],
    );
    assert.equal(denseFlops(model), reference.dense_per_layer_per_row);
    const one = runCost({ model, method: fullAttention(), mask: full(model.tokens), steps: 1 });
    assert.equal(one.run.flops, reference.dense_per_step);
    assert.deepEqual([one.share, one.floor, one.heldBytes], [1, 1, 0]);
    for (const share of [0.03125, 0.0625]) {
      const run = reference[`rettention_run_s${share}`] as GoldenRun | undefined;
      if (!run) continue;
      const schedule = scheduleOf(reference.model);
      const mask = windowOf(reference.model, model.tokens, share);
      const cost = runCost({ model, method: rettention({ mask, schedule }), mask, steps: run.steps });
      const last = cost.steps.at(-1)!;
      assert.equal(last.flops, reference[`window_per_step_s${share}`]);
      assert.equal(cost.run.flops, run.flops);
      assert.equal(cost.denseRun.flops, run.dense_run);
      assert.equal(cost.share, run.ratio);
      assert.equal(cost.floor, run.full_calls / run.steps);
      assert.equal(cost.heldBytes, reference.residual_cache_bytes_fp16 + reference.rho_cache_bytes_fp16);
      runs++;
    }
  }
  assert.equal(runs, 14);
});

/** Costs in published settings at share 1/32, tiles of `queries` x `keys`. */
function published(name: string, queries = 64, keys = queries) {
  const model = modelShape(name);
  const schedule = scheduleOf(name);
  const mask = windowOf(name, model.tokens, 0.03125);
  const method = rettention({ mask, schedule });
  const settings = { model, method, mask, steps: schedule.kinds.length, tile: { queries, keys } };
  return { ...settings, cost: runCost(settings) };
}

Deno.test("no run can cost less than its schedule lets it: 42.3%, 38.5%, 47.9% of full attention", () => {
  const rounded = (name: string) => {
    const { share, floor } = published(name).cost;
    return [(100 * share).toFixed(1), (100 * floor).toFixed(1)];
  };
  // facts: (8 + 15 p) / 20, (18 + 40 p) / 50, (22 + 35 p) / 50 at the exact kept shares.
  assert.deepEqual(rounded("PixArt-1024"), ["42.3", "40.0"]);
  assert.deepEqual(rounded("Hunyuan-DiT-1024"), ["38.5", "36.0"]);
  assert.deepEqual(rounded("CogVideoX-2B"), ["47.9", "44.0"]);
});

Deno.test("tiles are counted in the layout, for all layers, heads and rows; the published counts", () => {
  const raster = published("CogVideoX-2B", 128);
  const { frames, frameTokens, text } = { frames: 13, frameTokens: 1350, text: 226 };
  const layout = padText(tokenMajorLayout({ frames, frameTokens, text }), text, 128);
  const moved = runCost({ ...raster, layout });
  const times = 30 * 30 * 2;
  // 4597 and 1510 of mask_stats.json.
  assert.equal(raster.cost.steps.at(-1)!.tiles, 4597 * times);
  assert.equal(moved.steps.at(-1)!.tiles, 1510 * times);
  assert.equal(moved.steps.at(-1)!.flops, raster.cost.steps.at(-1)!.flops);
  assert.equal(raster.cost.steps[0]!.tiles, 139 * 139 * times);
  const call = 4 * 64 * 128 * 128 * times;
  assert.equal(moved.steps.at(-1)!.sparseTileFlops, 1510 * call);
  assert.equal(moved.steps[15]!.sparseTileFlops, 1510 * call);
  assert.equal(moved.steps[0]!.sparseTileFlops, 0);
  assert.ok(moved.tileShare < raster.cost.tileShare && moved.tileShare > moved.share);
});

Deno.test("bytes: q, k, v and the output in each call, and what is remembered", () => {
  const model = { ...modelShape("PixArt-512"), layers: 3 };
  const mask = band(1024, 16);
  const schedule = publishedSchedule("pixart");
  const call = 3 * 4 * (2 * 16 * 1024 * 72) * 2;
  const [residual, rho] = [call / 4, 3 * 2 * 16 * 1024 * 2];
  const bytes = (method: Parameters<typeof runCost>[0]["method"]) => {
    const { steps } = runCost({ model, method, mask, steps: 20 });
    return [steps[0]!, steps[5]!, steps[6]!].map((cost) => cost.bytes);
  };
  assert.deepEqual(bytes(fullAttention()), [call, call, call]);
  assert.deepEqual(bytes(windowOnly({ mask, schedule })), [call, call, call]);
  assert.deepEqual(bytes(outputSharing({ schedule })), [call, call + residual, residual]);
  const kept = residual + rho;
  assert.deepEqual(bytes(rettention({ mask, schedule })), [call, 2 * call + kept, call + kept]);
});

Deno.test("half of the batch costs half; heads of their own are counted each", () => {
  const model = { ...modelShape("DiT-XL/2-256"), layers: 1, heads: 2 };
  const mask = band(256, 4);
  const settings = { model, mask, steps: 1 };
  const calls = (share: number) => ({
    label: "half",
    calls: () => ({ dense: 0, sparse: 1, share }),
    holds: () => ({}),
  });
  const [whole, half] = [1, 0.5].map((share) => runCost({ ...settings, method: calls(share) }).run) as [
    Cost,
    Cost,
  ];
  assert.deepEqual(Object.values(half).map((value) => 2 * value), Object.values(whole));
  const two = runCost({ ...settings, mask: perHead([mask, full(256)]), method: calls(1) }).run;
  // One of two heads sees all keys, in two rows of the batch.
  assert.equal(two.flops, whole.flops / 2 + denseFlops(model));
  const four = runCost({ ...settings, mask: perHead([mask, mask, mask, mask]), method: calls(1) }).run;
  assert.deepEqual(four, whole);
});

Deno.test("the whole model gains what attention's part lets it: PixArt-1024 1.2x, CogVideoX-2B 1.4x, never 1.8x", () => {
  // facts count the parameters of whole models (AdaLN included, which is no work per token): bounds within 5% of these.
  for (
    const [name, speedup] of [["PixArt-1024", 1.22], ["CogVideoX-2B", 1.4], ["PixArt-2K", 1.59]] as const
  ) {
    const found = wholeModel(modelShape(name), published(name).cost.share);
    assert.ok(Math.abs(found.speedup / speedup - 1) < 0.05, `${name} ${found.speedup}`);
  }
  assert.equal(wholeModel(modelShape("PixArt-2K"), 1).speedup, 1);
});

Deno.test("estimates say so, and follow from rates and bytes", () => {
  const { model, cost } = published("CogVideoX-2B", 128);
  const dense = estimateTime(cost.steps[0]!, model, "H100");
  assert.equal(dense.kind, "estimate, not measured");
  assert.equal(dense.bound, "compute");
  // facts: 145.6e12 operations at about 490e12 a second are about 0.30 s.
  assert.ok(Math.abs(dense.seconds - 0.3) < 0.01);
  assert.equal(dense.seconds, cost.steps[0]!.flops / 497e12);
  // facts: PixArt-1024 0.155e12 a layer and step are about 0.35 ms; heads of 72 padded to 96 cost a quarter more.
  const image = published("PixArt-1024");
  const layer = estimateTime(image.cost.steps[0]!, image.model, "H100").seconds / 28;
  assert.ok(layer > 0.35e-3 && layer < 0.45e-3);
  // facts: the sparse step of CogVideoX-2B, token-major, at 80% of the dense efficiency is about 10 times faster.
  const layout = padText(tokenMajorLayout({ frames: 13, frameTokens: 1350, text: 226 }), 226, 128);
  const moved = runCost({ ...published("CogVideoX-2B", 128), layout });
  const sparse = estimateTime(moved.steps.at(-1)!, model, "H200");
  assert.ok(Math.abs(estimateTime(moved.steps[0]!, model, "H200").seconds / sparse.seconds - 10) < 0.5);
  const slower = estimateTime(moved.steps.at(-1)!, model, "H200", { sparseEfficiency: 0.4 });
  assert.ok(Math.abs(slower.seconds / sparse.seconds - 2) < 1e-9);
  // Sharing outputs computes nothing: the bytes are all.
  const schedule = publishedSchedule("cogvideox");
  const { mask } = published("CogVideoX-2B");
  const shared = runCost({ model, method: outputSharing({ schedule }), mask, steps: 50 }).steps[16]!;
  const read = estimateTime(shared, model, "H200");
  assert.deepEqual([read.bound, read.seconds], ["memory", shared.bytes / 4.8e12]);
  assert.deepEqual(devices.map(({ name }) => name), ["H100", "H200"]);
});

Deno.test("costs of bad input are refused", () => {
  const model = modelShape("PixArt-512");
  const settings = { model, method: fullAttention(), mask: band(1024, 1), steps: 20 };
  const { run } = runCost({ ...settings, steps: 1 });
  const refused: [() => unknown, typeof TypeError | typeof RangeError, RegExp][] = [
    [() => modelShape("GPT-2"), RangeError, /must be one of PixArt-512, .*: current name is GPT-2/],
    [
      () => runCost({ ...settings, mask: band(1000, 1) }),
      TypeError,
      /1024 tokens of PixArt-512: current mask is band\(1\)/,
    ],
    [
      () =>
        runCost({
          ...settings,
          mask: maskOfRows({ label: "a", queries: 1024, keys: 1024, heads: 3 }, () => Int32Array.of()),
        }),
      TypeError,
      /16 or 32 heads: current mask is a of 3 heads/,
    ],
    [() => runCost({ ...settings, steps: 0 }), RangeError, /'steps'/],
    [() => runCost({ ...settings, model: { ...model, layers: 1.5 } }), RangeError, /'layers'/],
    [() => runCost({ ...settings, tile: { queries: 0, keys: 64 } }), RangeError, /'tileQueries'/],
    [() => estimateTime(run, model, "TPU"), RangeError, /one of H100, H200: current device is TPU/],
    [() => estimateTime(run, { ...model, dim: 256 }, "H100"), RangeError, /'dim' must be at most 128/],
    [() => estimateTime(run, model, "H100", { sparseEfficiency: 0 }), RangeError, /'sparseEfficiency'/],
  ];
  for (const [make, type, message] of refused) {
    assert.throws(make, (error) => error instanceof type && message.test(error.message), `${make}`);
  }
});
