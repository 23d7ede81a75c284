import assert from "node:assert/strict";
import {
  compareGraphs,
  describeEquivalence,
  drawText,
  type GraphNode,
  type LayerGraph,
  published,
  publishedLayer,
  simplification,
  validate,
} from "../../lib/graph/mod.ts";
import { type GoldenGraph, goldenGraph, goldenGraphs } from "./_golden.ts";

const layers = Object.values(published);
const { graph: s0 } = publishedLayer("EvoNorm-S0");

/** A graph with more nodes on top; `z` stands for its output. */
function onTop(graph: LayerGraph, more: (z: number) => readonly GraphNode[]): LayerGraph {
  return validate({ nodes: [...graph.nodes, ...more(3 + graph.nodes.length)] });
}

function sentences(graph: LayerGraph, names: readonly string[], epsilon?: number): string[] {
  return simplification(graph, names.map(publishedLayer), epsilon).equivalences.map(describeEquivalence);
}

Deno.test("planted rewrites equal their originals, and what computes something else does not", () => {
  const planted = goldenGraphs.graphs.filter((golden): golden is GoldenGraph & { of: number } =>
    golden.source === "planted_duplicate"
  );
  assert.equal(planted.length, 20);
  for (const golden of planted) {
    const original = { name: "original", graph: goldenGraph(goldenGraphs.graphs[golden.of]!) };
    const { equivalences } = simplification(goldenGraph(golden), [original]);
    assert.deepEqual(equivalences.map(describeEquivalence), ["original"], `graph ${golden.id}`);
    assert.ok(compareGraphs(goldenGraph(golden), original.graph).sameFunction);
  }
  const classed = goldenGraphs.graphs.filter((golden) => golden.class !== null);
  const named = classed.filter((golden) => golden.source === "named");
  const others = named.map((golden) => ({ name: String(golden.class), graph: goldenGraph(golden) }));
  for (const golden of classed) {
    const equal = simplification(goldenGraph(golden), others).equivalences
      .filter(({ condition, scale, shift }) => condition === "always" && scale === 1 && shift === 0)
      .map(({ name }) => name);
    const expected = named.filter((one) => one.class === golden.class).map((one) => String(one.class));
    assert.deepEqual(equal, expected, `graph ${golden.id}`);
  }
});

Deno.test("the report names what a layer equals, when, and up to which factor and offset", () => {
  assert.deepEqual(sentences(s0, ["EvoNorm-S0", "EvoNorm-S1", "EvoNorm-S2", "EvoNorm-S0a"]), [
    "EvoNorm-S0",
    "EvoNorm-S1 at the start (v0 = 0, v1 = 1)",
    "EvoNorm-S0a but for its epsilon of 0.001",
  ]);
  assert.deepEqual(sentences(s0, ["EvoNorm-S0", "EvoNorm-S0a"], 1e-3), [
    "EvoNorm-S0 but for its epsilon of 0.00001",
    "EvoNorm-S0a",
  ]);
  const twice = onTop(s0, (z) => [{ op: "Add", inputs: [z, z] }]);
  assert.deepEqual(sentences(twice, ["EvoNorm-S0"]), ["2 * EvoNorm-S0"]);
  const less = onTop(s0, (z) => [{ op: "Neg", inputs: [z] }, { op: "Sigmoid", inputs: [1] }, {
    op: "Add",
    inputs: [z + 1, z + 2],
  }]);
  assert.deepEqual(sentences(less, ["EvoNorm-S0"]), ["-1 * EvoNorm-S0 + 0.5"]);
  assert.deepEqual(sentences(publishedLayer("IN-ReLU").graph, ["BN-ReLU", "GN-ReLU", "LN"]), [
    "BN-ReLU without its activation for batches of one sample",
    "GN-ReLU without its activation where each channel is a group",
  ]);
  assert.deepEqual(sentences(publishedLayer("LN").graph, ["GN-SiLU"]), [
    "GN-SiLU without its activation where there is one group",
  ]);
  const whole = goldenGraphs.graphs.filter((golden) => /^(BN|GN|LN)-ReLU$/.test(golden.name ?? ""));
  assert.equal(whole.length, 3);
  for (const golden of whole) {
    assert.deepEqual(sentences(goldenGraph(golden), [golden.name!]), [
      `${golden.name} where gamma = 1 and beta = 0`,
    ]);
  }
  // A constant and an output that is not finite are like nothing else.
  const constant = validate({ nodes: [{ op: "Sigmoid", inputs: [3] }] });
  assert.deepEqual(simplification(constant, layers).equivalences, []);
  const square = { op: "Square" } as const;
  const wild = validate({
    nodes: Array.from({ length: 12 }, (_, k) => ({ ...square, inputs: [k && k + 3] })),
  });
  assert.deepEqual(simplification(wild, layers).equivalences, []);
});

Deno.test("the report counts nodes before and after", () => {
  const padded = validate({
    nodes: [
      { op: "Exp", inputs: [0] }, // dead
      { op: "Neg", inputs: [0] },
      { op: "Neg", inputs: [5] },
      { op: "Add", inputs: [6, 1] },
      { op: "rms", inputs: [7], axes: "wh" },
      { op: "Div", inputs: [7, 8] },
    ],
  });
  const report = simplification(padded, [publishedLayer("FRN-TLU")]);
  assert.deepEqual(report.nodes, { genotype: 6, active: 5, simplified: 2 });
  assert.equal(describeEquivalence(report.equivalences[0]!), "FRN-TLU without its activation");
});

Deno.test("a comparison sees where only the moving statistics part", () => {
  const rms = validate({ nodes: [{ op: "rms", inputs: [0], axes: "bwh" }, { op: "Div", inputs: [0, 4] }] });
  const root = validate({
    nodes: [
      { op: "Square", inputs: [0] },
      { op: "mean", inputs: [4], axes: "bwh" }, // its moving statistic starts at 0, that of rms at 1
      { op: "Sqrt", inputs: [5] },
      { op: "Div", inputs: [0, 6] },
    ],
  });
  const found = compareGraphs(rms, root);
  assert.equal(found.sameForm, false);
  assert.equal(found.sameFunction, true);
  assert.ok(found.training.largest < 1e-12 * found.training.scale);
  assert.ok(found.inference.largest > 0.01 * found.inference.scale);
  const same = compareGraphs(s0, onTop(s0, (z) => [{ op: "Add", inputs: [1, z] }]));
  assert.deepEqual([same.sameForm, same.training.largest, same.inference.largest], [true, 0, 0]);
  assert.equal(compareGraphs(s0, publishedLayer("EvoNorm-S1").graph).sameFunction, false);
});

Deno.test("a graph as a tree of text: shared nodes once, dead ones never", () => {
  const graph = validate({
    nodes: [
      { op: "Tanh", inputs: [2] }, // dead
      { op: "std", inputs: [0], axes: "wh" },
      { op: "Max", inputs: [5, 1] },
      { op: "Mul", inputs: [6, 5] },
      { op: "Div", inputs: [0, 7] },
    ],
  });
  const text = [
    "Div",
    "├─ x",
    "└─ Mul",
    "   ├─ Max",
    "   │  ├─ std[wh]  (5)",
    "   │  │  └─ x",
    "   │  └─ zero",
    "   └─ (5: std[wh], above)",
  ];
  assert.equal(drawText(graph), text.join("\n"));
  const deep = Array.from({ length: 1000 }, (_, k) => ({ op: "Add", inputs: [k && k + 3, k && k + 3] }));
  assert.equal(drawText(validate({ nodes: deep })).split("\n").length, 2 * 1000 + 1);
});
