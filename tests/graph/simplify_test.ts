import assert from "node:assert/strict";
import {
  aggregations,
  arity,
  canonical,
  canonicalHash,
  derivative,
  evaluate,
  evaluateExtended,
  formula,
  functionalHash,
  type GraphNode,
  indexSets,
  type LayerGraph,
  maxNodes,
  primitives,
  published,
  simplify,
  validate,
} from "../../lib/graph/mod.ts";
import { numbers } from "./_golden.ts";

/** Node 4 is -x, 5 is |x|, 6 is exp(x), 7 is x*v0, 8 is std over wh, 9 is tanh(v1). */
const prelude: GraphNode[] = [
  { op: "Neg", inputs: [0] },
  { op: "Abs", inputs: [0] },
  { op: "Exp", inputs: [0] },
  { op: "Mul", inputs: [0, 2] },
  { op: "std", inputs: [0], axes: "wh" },
  { op: "Tanh", inputs: [3] },
];

const rules: [string, GraphNode[]][] = [
  ["max(x, x)", [{ op: "Neg", inputs: [4] }]],
  ["max(0, 0)", [{ op: "Neg", inputs: [1] }]],
  ["abs(x)", [{ op: "Abs", inputs: [5] }]],
  ["abs(x)", [{ op: "Abs", inputs: [4] }]],
  ["exp(x)", [{ op: "Abs", inputs: [6] }]],
  ["std[wh](x)", [{ op: "Max", inputs: [1, 8] }]],
  ["x^2", [{ op: "Square", inputs: [4] }]],
  ["x^2", [{ op: "Square", inputs: [5] }]],
  ["x^2", [{ op: "Mul", inputs: [0, 0] }]],
  ["x^2", [{ op: "Square", inputs: [0] }, { op: "Abs", inputs: [10] }]],
  ["x*v0", [{ op: "Add", inputs: [7, 1] }]],
  ["x*v0", [{ op: "Max", inputs: [7, 7] }]],
  ["abs(x)", [{ op: "Max", inputs: [4, 0] }]],
  ["max(0, 0)", [{ op: "Add", inputs: [0, 4] }]],
  ["max(0, 0)", [{ op: "Mul", inputs: [9, 1] }]],
  ["max(0, 0)", [{ op: "Div", inputs: [1, 9] }]],
  ["max(0, 0)", [{ op: "mean", inputs: [1], axes: "bwh" }]],
  ["x*v0", [{ op: "Neg", inputs: [2] }, { op: "Mul", inputs: [4, 10] }]],
  // Not simplified, as the two sides differ where a value overflows, is tied, or is zero.
  ["exp(x)*0", [{ op: "Mul", inputs: [6, 1] }]],
  ["x*v0 - x*v0", [{ op: "Neg", inputs: [7] }, { op: "Add", inputs: [7, 10] }]],
  ["0 / exp(x)", [{ op: "Div", inputs: [1, 6] }]],
  ["abs(max(x, 0))", [{ op: "Max", inputs: [0, 1] }, { op: "Abs", inputs: [10] }]],
  ["x / (-x)", [{ op: "Div", inputs: [0, 4] }]],
];

for (const [text, nodes] of rules) {
  Deno.test(`simplify turns ${nodes.map(({ op, inputs }) => `${op}(${inputs})`).join(" ")} into ${text}`, () => {
    assert.equal(formula(simplify({ nodes: [...prelude, ...nodes] })), text);
  });
}

/** Random graphs as the search draws them, but short, so that rules meet. */
function randomGraphs(count: number): LayerGraph[] {
  const draw = numbers(11)(count * 40);
  let at = 0;
  const below = (bound: number) => Math.floor((draw[at++ % draw.length]! + 2) / 4 * bound);
  // The rules are about signs, zero and Max: those primitives come often.
  const drawn = [...primitives, "Neg", "Abs", "Max", "Square", "Add", "Mul", "Neg", "Abs"] as const;
  return Array.from({ length: count }, () => ({
    nodes: Array.from({ length: 6 }, (_, k): GraphNode => {
      const op = drawn[below(drawn.length)]!;
      const inputs = Array.from({ length: arity(op) }, () => below(4 + k));
      const moment = (aggregations as readonly string[]).includes(op);
      return { op, inputs, ...(moment && { axes: indexSets[below(4)]! }) };
    }),
  }));
}

/** x with exact zeros and ties, v0 at 0: the points where a sloppy rule shows. */
const shape = [2, 2, 2, 4] as const;
const x = numbers(5)(32).map((value, i) => i % 5 === 0 ? 0 : i % 7 === 0 ? 1 : value);
const vectors = { v0: [0, 0, 0.5, -1], v1: [1, 1, 0.5, 2] };
const dz = numbers(6)(32);

/** Equal but for the sign of zero and rounding, within `slack` of the largest finite value. */
function assertSame(a: Float64Array, b: Float64Array, slack: (scale: number) => number, what: string): void {
  const scale = a.reduce((most, value) => Number.isFinite(value) ? Math.max(most, Math.abs(value)) : most, 0);
  a.forEach((value, i) => {
    const other = b[i]!;
    const same = value === other || (Number.isNaN(value) && Number.isNaN(other)) ||
      Math.abs(value - other) <= slack(scale);
    assert.ok(same, `${what}: ${value} became ${other}`);
  });
}

/** The last bits of sums in moments. */
const valueSlack = (scale: number) => 1e-13 * scale;
/** Gradients may be what is left of terms near 1 that cancel; a wrong rule is off by a half or more. */
const gradientSlack = (scale: number) => 1e-9 * Math.max(1, scale);

Deno.test("canonical keeps values, first derivatives and inference of random graphs, zeros and ties included", () => {
  let smaller = 0;
  for (const graph of randomGraphs(3000)) {
    const reduced = canonical(graph);
    if (reduced.nodes.length < graph.nodes.length) smaller++;
    const what = `${formula(graph)} -> ${formula(reduced)}`;
    for (const mode of ["training", "inference"] as const) {
      const [a, b] = [graph, reduced].map((one) =>
        evaluate(one, { x, ...vectors, shape, groups: 2, mode }).z
      );
      assertSame(a!, b!, valueSlack, `${mode} of ${what}`);
    }
    // Gradients of unsimplified graphs can be 0 * infinity where the simple form has a number; compare finite ones.
    const [a, b] = [graph, reduced].map((one) =>
      evaluateExtended(derivative(one), { x, ...vectors, dz }, { shape, groups: 2 })
    );
    for (const name of ["x", "v0", "v1"] as const) {
      if (a![name].every(Number.isFinite)) {
        assertSame(a![name], b![name], gradientSlack, `gradient to ${name} of ${what}`);
      }
    }
  }
  assert.ok(smaller > 2000);
});

Deno.test("canonical is idempotent and returns valid graphs", () => {
  for (const graph of randomGraphs(500)) {
    const once = canonical(graph);
    assert.deepEqual(canonical(once), once);
    assert.deepEqual(validate(once), once);
  }
});

Deno.test("canonical does not see argument order, node order, repetition or dead nodes", () => {
  const one: LayerGraph = {
    nodes: [
      { op: "std", inputs: [0], axes: "bwh" },
      { op: "Mul", inputs: [3, 0] },
      { op: "std", inputs: [0], axes: "wh" },
      { op: "Add", inputs: [5, 6] },
      { op: "Max", inputs: [4, 7] },
      { op: "Div", inputs: [0, 8] },
    ],
  };
  const other: LayerGraph = {
    nodes: [
      { op: "Exp", inputs: [0] },
      { op: "std", inputs: [0], axes: "wh" },
      { op: "Mul", inputs: [0, 3] },
      { op: "std", inputs: [0], axes: "wh" },
      { op: "Add", inputs: [7, 6] },
      { op: "Neg", inputs: [0] },
      { op: "std", inputs: [0], axes: "bwh" },
      { op: "Max", inputs: [8, 10] },
      { op: "Div", inputs: [0, 11] },
    ],
  };
  assert.deepEqual(canonical(other), canonical(one));
  assert.equal(canonicalHash(other), canonicalHash(one));
  const swapped = { nodes: [...one.nodes.slice(0, 5), { op: "Div", inputs: [8, 0] } as const] };
  assert.notEqual(canonicalHash(swapped), canonicalHash(one));
});

Deno.test("hashes are 16 hexadecimal digits and tell the published layers apart", () => {
  const distinct = Object.values(published).filter(({ post, epsilon }) =>
    epsilon === undefined && post === undefined
  );
  for (const hash of [canonicalHash, functionalHash]) {
    const hashes = distinct.map(({ graph }) => hash(graph));
    hashes.forEach((value) => assert.match(value, /^[0-9a-f]{16}$/));
    assert.equal(new Set(hashes).size, distinct.length);
  }
});

Deno.test("the functional hash sees through what rules do not, and tells multiples apart", () => {
  const hash = (...nodes: GraphNode[]) => functionalHash({ nodes });
  // x/v1*v1 is x to rounding; log(exp(x)) is x to epsilon only.
  const identity = hash({ op: "Max", inputs: [0, 0] });
  assert.equal(hash({ op: "Div", inputs: [0, 3] }, { op: "Mul", inputs: [4, 3] }), identity);
  assert.notEqual(hash({ op: "Exp", inputs: [0] }, { op: "Log", inputs: [4] }), identity);
  assert.notEqual(hash({ op: "Add", inputs: [0, 0] }), identity);
});

Deno.test("hashes of the largest graphs take no time", () => {
  const wide = validate({
    nodes: Array.from(
      { length: maxNodes },
      (_, k) => ({ op: "Max", inputs: [Math.max(0, 2 + k), k && 3 + k] }),
    ),
  });
  const start = performance.now();
  assert.match(canonicalHash(wide) + functionalHash(wide), /^[0-9a-f]{32}$/);
  assert.ok(performance.now() - start < 5000);
});
