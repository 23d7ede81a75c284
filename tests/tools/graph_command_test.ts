import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Experiment, runExperiment } from "../../lib/experiment/mod.ts";
import { publishedLayer, pytorchModule, toJSON, validate } from "../../lib/graph/mod.ts";
import { storedAccuracies } from "../../tools/_graph_accuracy.ts";
import { exportText, formatOf, FORMATS, layerText, simplifiedLayer } from "../../tools/_graph_export.ts";
import { layerFrom } from "../../tools/_graph_source.ts";
import { compareText, showText } from "../../tools/_graph_text.ts";
import { runCli, temporaryFolder } from "../experiment/_helpers.ts";
import { toy } from "../experiment/_toy.ts";

const s0 = publishedLayer("EvoNorm-S0");

/** EvoNorm-S0 as a search might leave it: a dead node, -(-x), and twice the output. */
const found = validate({
  nodes: [
    { op: "std", inputs: [0], axes: "bwh" },
    { op: "Neg", inputs: [0] },
    { op: "Neg", inputs: [5] },
    { op: "Mul", inputs: [3, 6] },
    { op: "Sigmoid", inputs: [7] },
    { op: "std", inputs: [0], axes: "whc/g" },
    { op: "Mul", inputs: [0, 8] },
    { op: "Div", inputs: [10, 9] },
    { op: "Add", inputs: [11, 11] },
  ],
});

Deno.test("graph, from the command line: show, compare, export, and what it refuses", async () => {
  using folder = temporaryFolder();
  const file = (name: string, text: string) => writeFileSync(join(folder.path, name), text);
  file("found.json", toJSON(found));
  file("broken.json", '{"nodes":[{"op":"Add"');
  file("wrong.json", '{"nodes":[{"op":"Add","inputs":[0,4]}]}');
  const graph = (line: string) => runCli(["graph", ...line.split(" ")], folder.path);
  const [show, compare, module, printed, ...refused] = await Promise.all([
    graph("show found.json --svg drawing.svg"),
    graph("compare found.json EvoNorm-S1"),
    graph("export BN-ReLU --out bn.py"),
    graph("export found.json --format formula --simplify"),
    graph("show nothing.json"),
    graph("show"),
    graph("frobnicate"),
    graph("compare EvoNorm-S0"),
    graph("export EvoNorm-S0"),
    graph("export EvoNorm-S0 --format onnx"),
    graph("show EvoNorm-S0 --svgs x"),
    graph("show broken.json"),
    graph("show wrong.json"),
    graph("export EvoNorm-S0 --out nowhere/s0.svg"),
  ]);
  assert.equal(show.code, 0, show.stderr);
  assert.match(show.stdout, /nodes +9 in the genotype, 8 active, 6 simplified/);
  assert.match(show.stdout, /equals +2 \* EvoNorm-S0\n +2 \* EvoNorm-S1 at the start/);
  assert.match(show.stdout, /batch +independent/);
  assert.match(show.stdout, /accuracy +nothing stored/);
  assert.match(readFileSync(join(folder.path, "drawing.svg"), "utf8"), /^<svg [^]*<\/svg>$/);
  assert.equal(compare.code, 0, compare.stderr);
  assert.match(compare.stdout, /same function +no: largest difference \d[^]*A equals +2 \* B at the start/);
  assert.equal(module.code, 0, module.stderr);
  assert.equal(readFileSync(join(folder.path, "bn.py"), "utf8"), pytorchModule(publishedLayer("BN-ReLU")));
  assert.match(printed.stdout, /^[^\n]*sigmoid\(v1\*x\)[^\n]*std\[whc\/g\]\(x\)[^\n]*\n$/);
  const expected: [number, RegExp][] = [
    [2, /There is no layer and no file 'nothing\.json'\. Published layers: EvoNorm-B0, /],
    [2, /A layer must be named/],
    [2, /There is no action 'frobnicate': show, compare, export/],
    [2, /A second layer must be named/],
    [2, /--format must be given where --out does not end/],
    [2, /There is no format 'onnx': there are json, formula, latex, pytorch, svg/],
    [2, /Unknown option '--svgs'\. Options of this command: --svg, --results/],
    [1, /Cannot read the file as it must be JSON: .* \(in broken\.json\)/],
    [1, /Cannot read the layer graph as node 4 .*must point backwards.* \(in wrong\.json\)/],
    [1, /Cannot write nowhere\/s0\.svg/],
  ];
  refused.forEach(({ code, stdout, stderr }, k) => {
    const [wanted, message] = expected[k]!;
    assert.match(stderr, message);
    assert.equal(code, wanted, stderr);
    assert.equal(stdout, "");
    assert.doesNotMatch(stderr, /\n\s+at /);
  });
  assert.equal(refused.length, expected.length);
  assert.ok(!existsSync(join(folder.path, "results")), "nothing else was written");
});

Deno.test("the help of graph names its actions, formats and layers", async () => {
  const { code, stdout } = await runCli(["graph", "--help"]);
  assert.equal(code, 0);
  assert.match(stdout, /show LAYER[^]*compare LAYER LAYER[^]*json\|formula\|latex\|pytorch\|svg[^]*FRN-TLU/);
});

Deno.test("layers come from names, graph files, layer files and lists", () => {
  using folder = temporaryFolder();
  const file = (name: string, value: unknown) => {
    const path = join(folder.path, name);
    writeFileSync(path, JSON.stringify(value));
    return path;
  };
  assert.equal(layerFrom("EvoNorm-S0"), s0);
  assert.deepEqual(layerFrom(file("mine.json", found)), { name: "mine", graph: found });
  const frn = publishedLayer("FRN-TLU"), s0a = publishedLayer("EvoNorm-S0a");
  for (const layer of [frn, s0a]) {
    assert.deepEqual(layerFrom(file("layer.json", JSON.parse(layerText(layer)))), layer);
  }
  const list = file("list.json", { layers: [{ name: "first", graph: s0.graph }, { graph: found }] });
  assert.deepEqual(layerFrom(`${list}#first`), { name: "first", graph: s0.graph });
  assert.deepEqual(layerFrom(`${list}#1`), { name: "list#1", graph: found });
  assert.throws(() => layerFrom(list), /^RangeError: .* one of first, 1: current name is missing/);
  assert.throws(() => layerFrom(`${list}#third`), /^RangeError: .*current name is third/);
  assert.throws(() => layerFrom(`${list}#2`), /^RangeError: .*current name is 2/);
  assert.throws(() => layerFrom(`${file("one.json", found)}#0`), /^TypeError: .*must hold a list/);
  const epsilon = file("epsilon.json", { graph: found, epsilon: "small" });
  assert.throws(() => layerFrom(epsilon), /^RangeError: .*'epsilon' is "small" \(in /);
  assert.throws(() => layerFrom(file("null.json", null)), /^TypeError: Cannot read the layer graph/);
});

Deno.test("every format is written, and known by the ending of its file", () => {
  for (const format of FORMATS) assert.ok(exportText(publishedLayer("FRN-TLU"), format).length > 10);
  const endings = ["a.json", "a.txt", "a.tex", "a.py", "a.svg", "a.doc"].map((file) =>
    formatOf(undefined, file)
  );
  assert.deepEqual(endings, [...FORMATS, undefined]);
  assert.match(
    exportText(publishedLayer("FRN-TLU"), "latex"),
    /^z = .*f\(x\) = \\max\\left\(x, \\tau\\right\)$/,
  );
  assert.equal(simplifiedLayer({ name: "found", graph: found }).graph.nodes.length, 6);
});

Deno.test("show and compare of published layers", () => {
  const b0 = showText(publishedLayer("EvoNorm-B0"), [], true);
  assert.match(b0, /dependent: moving statistics of nodes 4\n/);
  assert.match(b0, /equals +none of the other published layers/);
  assert.match(b0, /\n\nDiv\n├─ x\n└─ Max\n/);
  assert.match(showText(publishedLayer("FRN-TLU"), [], false), /y +max\(t, tau\) with t = gamma\*z \+ beta/);
  const text = compareText([s0, publishedLayer("EvoNorm-S0a")], [["60% of A"], []]);
  assert.match(text, /same form +yes\n +same function +yes: no difference[^]*epsilon +0\.00001 and 0\.001;/);
  assert.match(text, /A: EvoNorm-S0\n[^]*60% of A[^]*B: EvoNorm-S0a/);
  const relus = compareText([publishedLayer("GN-ReLU"), publishedLayer("GN-SiLU")], [[], []]);
  assert.match(relus, /same function +yes[^]*after the affine +not the same/);
});

Deno.test("stored accuracies are found by what a layer computes, per experiment and setting", async () => {
  using folder = temporaryFolder();
  const trial = (layer: string, batch: number, seed: number) => ({
    name: `${layer.slice(0, 12).replace(/\W/g, "")}-${batch}-${seed}`,
    seed,
    params: { layer, batch },
  });
  const rewritten = toJSON(validate({ nodes: [...s0.graph.nodes, { op: "Add", inputs: [1, 8] }] }));
  const experiment: Experiment = {
    ...toy,
    id: "toy/layers",
    options: {},
    trials: () => [
      trial("EvoNorm-S0", 32, 1),
      trial("EvoNorm-S0", 32, 2),
      trial("EvoNorm-S0", 64, 1),
      trial("EvoNorm-S0a", 32, 1),
      trial("{not a graph", 32, 1),
      trial(rewritten, 128, 1),
      trial("search", 1, 1),
    ],
    run({ params, seed }, { report, note }) {
      if (params["layer"] === "search") {
        note("found layers", JSON.stringify([{ graph: found, scores: { resnet: 0.5, mobilenet: 0.25 } }]));
        report({ step: 9, metric: "test accuracy", value: 0.625 });
        return Promise.resolve();
      }
      report({ step: 1, metric: "test top-1", value: 0.1 });
      report({ step: 2, metric: "test top-1", value: (params["batch"] as number) / 128 - 0.01 * seed });
      return Promise.resolve();
    },
    tables: () => ({}),
    figures: () => [],
    claims: () => [],
  };
  await runExperiment({ experiment, scale: "smoke", workers: 0, resultsDir: folder.path });
  const lines = (name: string) => storedAccuracies(publishedLayer(name), [experiment, toy], folder.path);
  assert.deepEqual(lines("EvoNorm-S0"), [
    "23.5% test top-1 (2 seeds, 23.0% to 24.0%) in toy/layers, smoke, toy, batch 32",
    "49.0% test top-1 in toy/layers, smoke, toy, batch 64",
    "99.0% test top-1 in toy/layers, smoke, toy, batch 128",
  ]);
  assert.deepEqual(lines("EvoNorm-S0a"), ["24.0% test top-1 in toy/layers, smoke, toy"]);
  assert.deepEqual(lines("BN-ReLU"), []);
  assert.deepEqual(storedAccuracies({ name: "mine", graph: found }, [experiment], folder.path), [
    "held-out 50.0% on resnet, 25.0% on mobilenet; 62.5% test accuracy: number 1 of search-1-1 in toy/layers, smoke, toy",
  ]);
});
