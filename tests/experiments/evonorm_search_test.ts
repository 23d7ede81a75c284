import assert from "node:assert/strict";
import { join } from "node:path";
import {
  candidates,
  type FoundLayer,
  type LayerEntry,
  searchOptions,
  SETTINGS,
  taskOf,
} from "../../experiments/evonorm/search.ts";
import { candidateTrial, evaluationOf, type Task } from "../../experiments/evonorm/_search_candidate.ts";
import { searches } from "../../experiments/mod.ts";
import { isSearch } from "../../experiments/evonorm/_search_views.ts";
import { average, MemoryJournal, search } from "../../lib/evolution/mod.ts";
import {
  readTrialFile,
  runExperiment,
  type Scale,
  TrialsOnDemand,
  verifyResults,
} from "../../lib/experiment/mod.ts";
import { toSVG } from "../../lib/figures/mod.ts";
import { formula, fromJSON, type GraphNode } from "../../lib/graph/mod.ts";
import { temporaryFolder } from "../experiment/_helpers.ts";

const task: Task = taskOf("smoke");
const graph = (...nodes: GraphNode[]) => JSON.stringify({ nodes });

Deno.test("evonorm/search at smoke scale: searches real images, verifies bit for bit, draws and judges", async () => {
  using folder = temporaryFolder();
  const run = { experiment: searches, scale: "smoke", backend: "wasm", resultsDir: folder.path } as const;
  const { failed, results } = await runExperiment(run);
  assert.deepEqual(failed, []);
  assert.equal(results.trials.length, 21);

  const evaluated = new Set<string>();
  for (const entry of Deno.readDirSync(join(folder.path, "evonorm", "search", "candidates", "smoke"))) {
    const { provenance: { trial } } = readTrialFile(
      join(folder.path, "evonorm", "search", "candidates", "smoke", entry.name),
    );
    if (trial.seed < 1000) evaluated.add(`${trial.params["graph"]} ${trial.seed}`);
  }
  for (const { rows, provenance: { trial, notes } } of results.trials) {
    assert.ok(rows.some(({ metric }) => metric === "test accuracy"), trial.name);
    if (!["evolution", "random"].includes(String(trial.params["method"]))) continue;
    const costs = rows.filter(({ metric }) => metric === "cost").map(({ value }) => value);
    assert.ok(costs.every((cost, i) => cost >= (costs[i - 1] ?? 0)));
    assert.ok(costs.at(-1)! >= SETTINGS.smoke.work && costs.at(-2)! < SETTINGS.smoke.work);
    // Every candidate ends in one way.
    const ends = rows.filter(({ metric }) => /^(duplicate|rejected by .*|accuracy resnet)$/.test(metric));
    assert.equal(ends.length, costs.length);
    for (const { graph } of JSON.parse(String(notes["found layers"]))) {
      assert.ok(evaluated.has(`${JSON.stringify(fromJSON(JSON.stringify(graph)))} ${trial.seed}`));
    }
  }

  const [sampled] = await verifyResults({ experiment: searches, results, sample: 1, workers: 1 });
  assert.equal(sampled!.difference, "");

  const figures = searches.figures(results);
  assert.deepEqual(figures.map(({ name }) => name), ["best-over-cost", "outcomes", "test-accuracy"]);
  for (const figure of figures) assert.match(await toSVG(figure), /^<svg/);
  assert.equal(searches.tables(results)["searches"]!.numRows(), 9);
  const claims = searches.claims(results);
  assert.deepEqual(claims.map(({ id, seeds }) => `${id} ${seeds}`), [
    "evolution-beats-random-search 3",
    "evolution-beats-random-search-on-test-images 3",
    "found-layer-beats-bn-relu 3",
    "found-layer-without-batch-beats-gn-relu 1",
    "several-anchors-beat-one 1",
    "pareto-beats-average 1",
    "found-layer-transfers 0",
  ]);
  assert.ok(claims.slice(0, -1).every(({ estimate }) => Number.isFinite(estimate)));

  // Each search has a file of its layers, from which they can be built again.
  const files = Object.entries(searches.files!(results));
  assert.equal(files.length, 9);
  for (const [name, text] of files) {
    assert.match(name, /^layers\/(evolution|random)-[a-z0-9-]+\.json$/);
    for (const { graph, formula: written } of JSON.parse(text).layers as LayerEntry[]) {
      assert.equal(formula(fromJSON(JSON.stringify(graph))), written);
    }
  }

  // The layer that is measured on the test images is the best after it was trained again, not before.
  for (const { rows, provenance: { trial, notes } } of results.trials.filter(isSearch)) {
    const found: FoundLayer[] = JSON.parse(String(notes["found layers"]));
    const again = found.slice(0, trial.params["rerankLayers"] as number).map(({ again }) =>
      average(Object.values(again!))
    );
    assert.deepEqual(again, [...again].sort((a, b) => b - a));
    assert.equal(rows.find(({ metric }) => metric === "accuracy ranked again")!.value, again[0]);
  }
});

Deno.test("evonorm/search: the trials of every scale can be stored, and searches of a seed share their task", () => {
  for (const scale of ["smoke", "laptop", "paper"] as Scale[]) {
    const trials = searches.trials(scale, { data: "" });
    assert.equal(new Set(trials.map(({ name }) => name)).size, trials.length);
    const of = (method: string) =>
      trials.find(({ params, seed }) =>
        params["method"] === method && params["constraint"] === "none" && seed === 0
      )!.params;
    assert.deepEqual({ ...of("random"), method: "evolution" }, of("evolution"));
  }
});

Deno.test("a candidate is rejected by the test that is meant for it, and its cost ends there", async () => {
  using folder = temporaryFolder();
  const settings = {
    experiment: candidates,
    scale: "smoke",
    backend: "wasm",
    resultsDir: folder.path,
  } as const;
  using trials = new TrialsOnDemand({ ...settings, workers: 1 });
  const evaluate = async (layer: string, changes: Partial<Task> = {}) => {
    const changed = { ...task, ...changes };
    return evaluationOf(await trials.run(candidateTrial(layer, changed, 0)), changed);
  };
  const passed = await evaluate("BN-ReLU", { threshold: 0 });
  assert.ok("scores" in passed && passed.scores.every((score) => score >= 0 && score <= 1));
  assert.deepEqual(passed.stages.map(({ name }) => name), ["quality", "stability", "training"]);
  assert.ok(passed.stages.every(({ work, seconds }) => work! > 0 && seconds > 0));

  // exp(exp(x)) explodes in training; asked for more than it can reach, any layer fails.
  const exploding = graph({ op: "Exp", inputs: [0] }, { op: "Exp", inputs: [4] });
  for (const rejected of [await evaluate(exploding), await evaluate("BN-ReLU", { threshold: 1 })]) {
    assert.ok("rejectedBy" in rejected && rejected.rejectedBy === "quality");
    assert.equal(rejected.stages.length, 1);
    assert.ok(rejected.stages[0]!.work! < passed.stages.reduce((sum, { work }) => sum + work!, 0));
  }
  // Measured only, it is trained in every anchor, as far as that goes, and its tests are noted.
  const measured = await evaluate(exploding, { threshold: 1, tests: "measure" });
  assert.ok("scores" in measured);
  assert.deepEqual(measured.scores, [NaN, NaN]);
  assert.deepEqual(measured.stages.map(({ name }) => name), ["quality", "stability", "training"]);
  // Without the quality test the same layer is left to the stability test: its gradients are beyond any limit.
  const unstable = await evaluate(exploding, { quality: 0, stability: 5 });
  assert.ok("rejectedBy" in unstable && unstable.rejectedBy === "stability");
});

Deno.test("a search goes on when candidates take too long, and records them as such", async () => {
  using folder = temporaryFolder();
  const settings = {
    experiment: candidates,
    scale: "smoke",
    backend: "wasm",
    resultsDir: folder.path,
  } as const;
  // Less than one step of training takes.
  using trials = new TrialsOnDemand({ ...settings, workers: 1, limits: { seconds: 0.002 } });
  const journal = new MemoryJournal();
  const setting = {
    method: "random",
    constraint: "none",
    criterion: "average",
    ...SETTINGS.smoke.moves,
  } as const;
  await search({
    ...searchOptions({ seed: 0, setting, task, backend: "wasm", run: (trial) => trials.run(trial) }),
    workers: 1,
    budget: { evaluations: 3 },
    journal,
  });
  const ended = journal.records.filter(({ rejectedBy }) => rejectedBy === "time limit");
  assert.equal(ended.length, 3);
  assert.ok(ended.every(({ stages }) => stages.at(-1)!.name === "limit" && stages.at(-1)!.seconds >= 0.002));
});
