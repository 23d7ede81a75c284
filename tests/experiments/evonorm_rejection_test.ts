import assert from "node:assert/strict";
import { measuredLayers } from "../../experiments/evonorm/_random_layers_views.ts";
import type { MeasuredLayer } from "../../experiments/evonorm/_random_layers_views.ts";
import { accountOf } from "../../experiments/evonorm/_rejection_account.ts";
import { SETTINGS } from "../../experiments/evonorm/_search_settings.ts";
import { isSearch, labelsOf } from "../../experiments/evonorm/_search_views.ts";
import { randomLayers, rejection, searches } from "../../experiments/mod.ts";
import { readTrialFile, runExperiment, type Scale, verifyResults } from "../../lib/experiment/mod.ts";
import { toSVG } from "../../lib/figures/mod.ts";
import { fromJSON, functionalHash, usesX } from "../../lib/graph/mod.ts";
import { temporaryFolder } from "../experiment/_helpers.ts";

Deno.test("evonorm/random-layers and evonorm/rejection at smoke scale: layers trained whatever the tests say", async () => {
  using folder = temporaryFolder();
  const where = { scale: "smoke", backend: "wasm", resultsDir: folder.path } as const;
  const first = await runExperiment({ ...where, experiment: randomLayers });
  assert.deepEqual(first.failed, []);
  const { seeds, layers, anchors } = SETTINGS.smoke.randomLayers;
  const random = first.results.trials.filter(({ provenance }) =>
    provenance.trial.params["layer"] === "random"
  );
  assert.equal(random.length, seeds);
  for (const stored of random) {
    const measured = measuredLayers(stored);
    assert.equal(measured.length, layers);
    assert.ok(measured.every((layer) => layer.anchors.map(({ anchor }) => anchor).join("+") === anchors));
    // All of them use their input and compute different things.
    const drawn: { graph: string }[] = JSON.parse(String(stored.provenance.notes["layers"]));
    const graphs = drawn.map(({ graph }) => fromJSON(graph));
    assert.ok(graphs.every(usesX));
    assert.equal(new Set(graphs.map(functionalHash)).size, layers);
  }
  const [sampled] = await verifyResults({
    experiment: randomLayers,
    results: first.results,
    sample: 1,
    workers: 1,
  });
  assert.equal(sampled!.difference, "");

  const folderOfParts = `${folder.path}/evonorm/search/candidates/smoke`;
  const parts = () => [...Deno.readDirSync(folderOfParts)].map(({ name }) => name);
  const before = new Set(parts());
  const second = await runExperiment({ ...where, experiment: rejection });
  assert.deepEqual(second.failed, []);
  // Its random layers are those of the other experiment: none is trained again.
  for (const name of parts().filter((name) => !before.has(name))) {
    assert.notEqual(readTrialFile(`${folderOfParts}/${name}`).provenance.trial.params["tests"], "measure");
  }
  const searched = second.results.trials.filter(isSearch);
  assert.deepEqual(labelsOf(searched), ["evolution", "random", "evolution, no tests", "random, no tests"]);
  for (const { rows, provenance: { trial } } of searched) {
    const byTest = rows.filter(({ metric }) => /^rejected by (quality|stability)$/.test(metric)).length;
    if (trial.params["quality"] === 0) assert.equal(byTest, 0);
  }

  for (const [experiment, { results }] of [[randomLayers, first], [rejection, second]] as const) {
    const figures = experiment.figures(results);
    assert.ok(figures.length >= 2);
    for (const figure of figures) assert.match(await toSVG(figure), /^<svg/);
    for (const table of Object.values(experiment.tables(results))) assert.ok(table.numCols() > 0);
    assert.equal(
      new Set(experiment.claims(results).map(({ id }) => id)).size,
      experiment.claims(results).length,
    );
  }
  const [saving] = rejection.claims(second.results);
  assert.equal(saving!.seeds, seeds);
  assert.ok(saving!.estimate > 0);
});

Deno.test("the searches of evonorm/rejection with tests are beginnings of those of evonorm/search", () => {
  for (const scale of ["smoke", "laptop", "paper"] as Scale[]) {
    const options = { data: "" };
    const long = searches.trials(scale, options);
    for (const { params, seed } of rejection.trials(scale, options)) {
      if (params["method"] === undefined || params["quality"] === 0) continue;
      const { work } = params;
      const same = long.find((other) =>
        other.seed === seed && JSON.stringify({ ...other.params, work }) === JSON.stringify(params)
      );
      assert.ok(same !== undefined && Number(work) <= Number(same.params["work"]));
    }
  }
});

Deno.test("what tests save and miss, layer by layer", () => {
  const inAnchor = (anchor: string, quality: number, accuracy: number) => ({
    anchor,
    accuracy,
    diverged: false,
    quality,
    qualityWork: 10,
    measurementWork: 1,
    trainingWork: 90,
  });
  const layer = (resnet: [number, number], mobilenet: [number, number], stability = 5): MeasuredLayer => ({
    seed: 0,
    index: 0,
    formula: "x",
    anchors: [inAnchor("resnet", ...resnet), inAnchor("mobilenet", ...mobilenet)],
    stability,
    stabilityWork: 4,
  });
  // To the end without tests: 2 x (10 - 1 + 90) = 198.
  const good = layer([0.2, 0.3], [0.2, 0.3]);
  const bad = layer([0.1, 0.1], [0.1, 0.1]);
  const late = layer([0.2, 0.3], [0.1, 0.4]);
  const unstable = layer([0.2, 0.3], [0.2, 0.1], Infinity);
  const broken: MeasuredLayer = {
    ...bad,
    anchors: bad.anchors.map((one) => ({
      ...one,
      quality: NaN,
      accuracy: 0.1,
      diverged: true,
      qualityWork: 2,
      measurementWork: 0,
      trainingWork: 0,
    })),
  };
  const account = accountOf([good, bad, late, unstable, broken], 0.15);
  assert.deepEqual(account, {
    layers: 5,
    rejected: { "quality in resnet": 2, "quality in mobilenet": 1, "stability": 1 },
    // The one that starts slowly in the second anchor.
    wrongly: 1,
    costWithout: 4 * 198 + 4,
    // 20 + 4 + 180, 10, 20, 24, 2.
    costWith: 204 + 10 + 20 + 24 + 2,
    testsOfAccepted: 2 + 4,
    largestSaving: 19.8,
  });
  assert.deepEqual(accountOf([good], 0.15).costWith - accountOf([good], 0.15).costWithout, 6);
});
