import assert from "node:assert/strict";
import {
  formula,
  type GraphNode,
  latex,
  maxNodes,
  published,
  publishedLayer,
  validate,
} from "../../lib/graph/mod.ts";

Deno.test("published layers read as in the literature", () => {
  const formulas = Object.fromEntries(
    Object.values(published).map(({ name, graph, post }) => [
      name,
      [formula(graph), ...(post ? [formula(post)] : [])].join(" then "),
    ]),
  );
  assert.deepEqual(formulas, {
    "EvoNorm-B0": "x / max(std[bwh](x), v1*x + std[wh](x))",
    "EvoNorm-B1": "x / max(std[bwh](x), x*rms[wh](x) + rms[wh](x))",
    "EvoNorm-B2": "x / max(std[bwh](x), rms[wh](x) - x)",
    "EvoNorm-S0": "x*sigmoid(v1*x) / std[whc/g](x)",
    "EvoNorm-S1": "x*sigmoid(x) / std[whc/g](x)",
    "EvoNorm-S2": "x*sigmoid(x) / rms[whc/g](x)",
    "EvoNorm-S0a": "x*sigmoid(v1*x) / std[whc/g](x)",
    "EvoNorm-S1a": "x*sigmoid(x) / std[whc/g](x)",
    "EvoNorm-S2a": "x*sigmoid(x) / rms[whc/g](x)",
    "BN-ReLU": "(x - mean[bwh](x)) / std[bwh](x) then max(x, 0)",
    "BN-SiLU": "(x - mean[bwh](x)) / std[bwh](x) then x*sigmoid(x)",
    "GN-ReLU": "(x - mean[whc/g](x)) / std[whc/g](x) then max(x, 0)",
    "GN-SiLU": "(x - mean[whc/g](x)) / std[whc/g](x) then x*sigmoid(x)",
    "IN-ReLU": "(x - mean[wh](x)) / std[wh](x) then max(x, 0)",
    "LN": "(x - mean[whc](x)) / std[whc](x)",
    "LN-ReLU": "(x - mean[whc](x)) / std[whc](x) then max(x, 0)",
    "FRN-TLU": "x / rms[wh](x) then max(x, v0)",
  });
});

Deno.test("an unknown layer's error lists the known ones", () => {
  assert.throws(
    () => publishedLayer("EvoNorm-B9"),
    /^RangeError: .*EvoNorm-B0, .*FRN-TLU: current name is "EvoNorm-B9"/,
  );
  assert.throws(() => publishedLayer("toString"), RangeError);
  assert.equal(publishedLayer("EvoNorm-S1a").epsilon, 1e-3);
});

/** Node 4 is -x, node 5 is x + v0, node 6 is x / v1, node 7 is x*v0; what is tested comes after them. */
const prelude: GraphNode[] = [
  { op: "Neg", inputs: [0] },
  { op: "Add", inputs: [0, 2] },
  { op: "Div", inputs: [0, 3] },
  { op: "Mul", inputs: [0, 2] },
];

const written: [string, GraphNode[]][] = [
  ["v1 - x", [{ op: "Add", inputs: [3, 4] }]],
  ["v1 - x", [{ op: "Add", inputs: [4, 3] }]],
  ["-x - x", [{ op: "Add", inputs: [4, 4] }]],
  ["v1 - (x + v0)", [{ op: "Neg", inputs: [5] }, { op: "Add", inputs: [3, 8] }]],
  ["v1 + x + v0", [{ op: "Add", inputs: [3, 5] }]],
  ["v1 - x*v1", [{ op: "Mul", inputs: [4, 3] }, { op: "Add", inputs: [3, 8] }]],
  ["v1 - x - v0", [{ op: "Add", inputs: [4, 3] }, { op: "Neg", inputs: [2] }, { op: "Add", inputs: [8, 9] }]],
  ["(x + v0)*v1", [{ op: "Mul", inputs: [5, 3] }]],
  ["v1*x*v0", [{ op: "Mul", inputs: [3, 7] }]],
  ["v1*(x / v1)", [{ op: "Mul", inputs: [3, 6] }]],
  ["-x*v1", [{ op: "Mul", inputs: [4, 3] }]],
  ["v1*(-x)", [{ op: "Mul", inputs: [3, 4] }]],
  ["x / v1 / v0", [{ op: "Div", inputs: [6, 2] }]],
  ["v0 / (x / v1)", [{ op: "Div", inputs: [2, 6] }]],
  ["x*v0 / (x*v0)", [{ op: "Div", inputs: [7, 7] }]],
  ["-x / (-x)", [{ op: "Div", inputs: [4, 4] }]],
  ["(x + v0) / (x + v0)", [{ op: "Div", inputs: [5, 5] }]],
  ["-(x + v0)", [{ op: "Neg", inputs: [5] }]],
  ["-(-x)", [{ op: "Neg", inputs: [4] }]],
  ["-x*v0", [{ op: "Neg", inputs: [7] }]],
  ["-x / v1", [{ op: "Neg", inputs: [6] }]],
  ["(-x)^2", [{ op: "Square", inputs: [4] }]],
  ["(x^2)^2", [{ op: "Square", inputs: [0] }, { op: "Square", inputs: [8] }]],
  ["-x^2", [{ op: "Square", inputs: [0] }, { op: "Neg", inputs: [8] }]],
  ["tanh(x)^2", [{ op: "Tanh", inputs: [0] }, { op: "Square", inputs: [8] }]],
  ["max(x + v0, 0)", [{ op: "Max", inputs: [5, 1] }]],
  ["log(exp(abs(sqrt(x))))", [
    { op: "Sqrt", inputs: [0] },
    { op: "Abs", inputs: [8] },
    { op: "Exp", inputs: [9] },
    { op: "Log", inputs: [10] },
  ]],
];

for (const [text, nodes] of written) {
  const shown = nodes.map(({ op, inputs }) => `${op}(${inputs})`).join(" ");
  Deno.test(`formula writes ${shown} as ${text}`, () => {
    assert.equal(formula({ nodes: [...prelude, ...nodes] }), text);
  });
}

Deno.test("latex writes the paper's symbols", () => {
  assert.equal(
    latex(publishedLayer("EvoNorm-B0").graph),
    String
      .raw`\frac{x}{\max\left(\sqrt{s^2_{b,w,h}\left(x\right)}, v_1 x + \sqrt{s^2_{w,h}\left(x\right)}\right)}`,
  );
  assert.equal(
    latex(publishedLayer("EvoNorm-S2").graph),
    String.raw`\frac{x \sigma\left(x\right)}{\sqrt{\mu_{w,h,c/g}\left(x^2\right)}}`,
  );
  assert.equal(
    latex({
      nodes: [...prelude, { op: "rms", inputs: [5], axes: "whc" }, { op: "Exp", inputs: [8] }, {
        op: "Square",
        inputs: [9],
      }],
    }),
    String.raw`\left(e^{\sqrt{\mu_{w,h,c}\left(\left(x + v_0\right)^2\right)}}\right)^2`,
  );
});

Deno.test("a formula that would be gigabytes long is cut", () => {
  const doubling = validate({
    nodes: Array.from({ length: maxNodes }, (_, k) => ({ op: "Add", inputs: [k && 3 + k, k && 3 + k] })),
  });
  for (const text of [formula(doubling), latex(doubling)]) {
    assert.ok(text.length < 11_000);
    assert.match(text, /\.\.\.$/);
  }
});
