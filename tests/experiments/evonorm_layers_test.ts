import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { layers } from "../../experiments/mod.ts";
import { loadResults, runExperiment, verifyResults } from "../../lib/experiment/mod.ts";
import { toSVG } from "../../lib/figures/mod.ts";

// The whole test run hands over a folder, so that the notebooks after it find these trials instead of training them again.
const given = process.env["NORMLAB_TEST_RESULTS"];

Deno.test("evonorm/layers at smoke scale: trains on real images, verifies bit for bit, draws and judges", async () => {
  const resultsDir = given ?? await mkdtemp(join(tmpdir(), "layers-"));
  const outcome = await runExperiment({ experiment: layers, scale: "smoke", backend: "wasm", resultsDir });
  assert.deepEqual(outcome.failed, []);
  const results = loadResults({ experiment: layers, scale: "smoke", backend: "wasm", resultsDir });
  assert.equal(results.trials.length, 12);
  assert.equal(results.missing.length, 0);

  for (const { rows, provenance } of results.trials) {
    const loss = rows.filter(({ metric }) => metric === "train loss").map(({ value }) => value);
    const top1 = rows.filter(({ metric }) => metric === "test top-1").map(({ value }) => value);
    assert.equal(loss.length, 3, provenance.trial.name);
    assert.equal(top1.length, 3, provenance.trial.name);
    assert.ok(
      loss.at(-1)! < loss[0]!,
      `${provenance.trial.name}: loss rose from ${loss[0]} to ${loss.at(-1)}`,
    );
  }
  // 1,000 test images: the standard error of chance accuracy is 1%, so a mean of 12 trainings above 15% has learnt.
  const final = results.final("test top-1").array("value") as number[];
  const mean = final.reduce((sum, value) => sum + value, 0) / final.length;
  assert.ok(mean > 0.15, `mean accuracy is ${mean}, chance is 0.1`);

  const verified = await verifyResults({ experiment: layers, results, sample: 1 });
  assert.deepEqual(verified.map(({ equal, difference }) => [equal, difference]), [[true, ""]]);

  assert.equal(layers.tables(results)["accuracy"]!.numRows(), 4);
  for (const figure of layers.figures(results)) {
    const svg = await toSVG(figure);
    for (const layer of ["BN-ReLU", "GN-ReLU", "EvoNorm-B0", "EvoNorm-S0"]) {
      assert.ok(svg.includes(layer), figure.name);
    }
  }
  for (const { id, estimate, interval: [lo, hi], seeds } of layers.claims(results)) {
    assert.equal(seeds, 3, id);
    assert.ok(lo <= estimate && estimate <= hi, id);
  }
  if (given === undefined) await rm(resultsDir, { recursive: true });
});

Deno.test("evonorm/layers: the trials of a scale are pure, paired and named after what decides them", () => {
  const trials = layers.trials("laptop", { data: "some/folder/cifar10-15k" });
  assert.equal(trials.length, 12);
  assert.deepEqual(trials, layers.trials("laptop", { data: "some/folder/cifar10-15k" }));
  assert.equal(new Set(trials.map(({ name }) => name)).size, 12);
  assert.ok(trials.every(({ params }) => params["data"] === "cifar10-15k"));
  assert.deepEqual([...new Set(trials.map(({ seed }) => seed))], [0, 1, 2]);
  assert.equal(
    layers.claims(
      loadResults({ experiment: layers, scale: "smoke", backend: "wasm", resultsDir: "no-such-folder" }),
    )[0]!.verdict,
    "not run at this scale",
  );
});
