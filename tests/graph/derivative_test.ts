import assert from "node:assert/strict";
import {
  derivative,
  differentiate,
  evaluateExtended,
  type ExtendedGraph,
  maxNodes,
  publishedLayer,
  validate,
} from "../../lib/graph/mod.ts";
import { goldenGraph, goldenGraphs, numbers, readTensors } from "./_golden.ts";

const { shape_nhwc: shape, groups, graphs } = goldenGraphs;
const options = { shape, groups };
const tensors = readTensors("graphs/tensors.safetensors");
const generic = (name: string) => tensors.get(`generic/${name}`)!;
const point = { x: generic("x"), v0: generic("v0"), v1: generic("v1"), dz: generic("dy") };

type Point = Record<string, Float64Array>;

function dot(a: Point, b: Point): number {
  return Object.entries(a).reduce(
    (sum, [name, values]) => values.reduce((total, value, i) => total + value * b[name]![i]!, sum),
    0,
  );
}

function along(start: Point, direction: Point, step: number): Point {
  return Object.fromEntries(
    Object.entries(start).map((
      [name, values],
    ) => [name, values.map((value, i) => value + step * direction[name]![i]!)]),
  );
}

/** Random vectors of the sizes of `like`. */
function randomLike(like: Point, seed: number): Point {
  const draw = numbers(seed);
  return Object.fromEntries(Object.entries(like).map(([name, { length }]) => [name, draw(length)]));
}

/** The second derivative of a graph along a random direction, symbolically and by central differences. */
function secondDerivativeBothWays(id: number) {
  const gradient = derivative(goldenGraph(graphs[id]!));
  const second = differentiate(gradient, ["x", "v0", "v1", "dz"]);
  const direction = randomLike(point, id + 1);
  const { dz: _, ...outputs } = point;
  const weights = randomLike(outputs, id + 1001);
  const value = (step: number) =>
    dot(weights, evaluateExtended(gradient, along(point, direction, step), options));
  const step = 1e-5;
  const upstream = Object.fromEntries(Object.entries(weights).map(([name, values]) => [`dd${name}`, values]));
  const computed = evaluateExtended(second, { ...point, ...upstream }, options);
  const magnitudes = (values: Point) =>
    Object.fromEntries(Object.entries(values).map(([name, array]) => [name, array.map(Math.abs)]));
  return {
    symbolic: dot(computed, direction),
    numeric: (value(step) - value(-step)) / (2 * step),
    scale: dot(magnitudes(computed), magnitudes(direction)),
  };
}

Deno.test("second derivatives agree with central differences", () => {
  // Graphs without a pole or kink of x within reach of the difference quotient, with every operation among them.
  const smooth = graphs.filter(({ generic, nodes, active, class: kind }) =>
    generic.well_conditioned && kind !== null &&
    !active.some((index) => ["Log", "Sqrt", "Div", "Max", "Abs"].includes(nodes[index - 4]?.op ?? ""))
  ).map(({ id }) => id);
  const published = graphs.filter(({ source }) => source === "named").map(({ id }) => id);
  const tested = [...new Set([...published, ...smooth])];
  assert.ok(tested.length > 60);
  for (const id of tested) {
    const { symbolic, numeric, scale } = secondDerivativeBothWays(id);
    // Differences of step 1e-5 carry a truncation of 1e-10 times a third derivative and 1e-11 of rounding.
    assert.ok(
      Math.abs(symbolic - numeric) <= 1e-7 * Math.max(scale, 1e-3),
      `graph ${id}: ${symbolic} ${numeric}`,
    );
  }
});

/** One number through a graph: x [1, 1, 1, 1], upstream gradients 1. */
function scalarDerivatives(op: string, x: number, other?: number): { first: number; second: number } {
  const graph = validate({ nodes: [{ op, inputs: other === undefined ? [0] : [0, 2] }] });
  const gradient = derivative(graph);
  const second = differentiate(gradient, ["x"]);
  const at = { x: [x], v0: [other ?? 0], v1: [1], dz: [1] };
  const one = { shape: [1, 1, 1, 1] as const };
  return {
    first: evaluateExtended(gradient, at, one).x[0]!,
    second: evaluateExtended(second, { ...at, ddx: [1], ddv0: [0], ddv1: [0] }, one).x[0]!,
  };
}

const epsilon = 1e-5;
const conventions: [string, number, number | undefined, number, number][] = [
  // op, x, v0, first and second derivative to x
  ["Abs", -2, undefined, -1, 0],
  ["Abs", 0, undefined, 0, 0],
  ["Max", 1, 0, 1, 0],
  ["Max", -1, 0, 0, 0],
  ["Max", 1, 1, 0.5, 0],
  ["Log", 0, undefined, 0, 0],
  ["Log", -2, undefined, 1 / (2 + epsilon), 1 / (2 + epsilon) ** 2],
  ["Sqrt", 0, undefined, 0, 0],
  ["Sqrt", -4, undefined, 0.5 / Math.sqrt(4 + epsilon), 0.25 * (4 + epsilon) ** -1.5],
  ["Div", 3, 0, 1 / epsilon, 0],
  ["Div", 3, -1e-6, -1 / epsilon, 0],
  ["Div", 3, -2, -0.5, 0],
  ["Square", 3, undefined, 6, 2],
];

for (const [op, x, other, first, second] of conventions) {
  Deno.test(`derivatives of ${op} at ${x}${other === undefined ? "" : ` with ${other}`}`, () => {
    const actual = scalarDerivatives(op, x, other);
    assert.ok(
      Math.abs(actual.first - first) <= 1e-12 * Math.max(1, Math.abs(first)),
      `first: ${actual.first}`,
    );
    assert.ok(Math.abs(actual.second - second) <= 1e-12, `second: ${actual.second}`);
  });
}

Deno.test("Div's gradient to its denominator stops at the clamp", () => {
  const gradient = derivative(validate({ nodes: [{ op: "Div", inputs: [2, 0] }] }));
  const toDenominator = (x: number) =>
    evaluateExtended(gradient, { x: [x], v0: [3], v1: [1], dz: [1] }, { shape: [1, 1, 1, 1] }).x[0]!;
  assert.equal(toDenominator(9e-6), 0);
  assert.equal(toDenominator(-9e-6), 0);
  assert.equal(toDenominator(2), -0.75);
  assert.equal(toDenominator(-2), -0.75);
});

Deno.test("an input that does not matter has gradient zero", () => {
  const gradient = derivative(publishedLayer("EvoNorm-S1").graph);
  const zero = gradient.inputs.findIndex(({ name }) => name === "zero");
  assert.equal(gradient.outputs.v0, zero);
  assert.equal(gradient.outputs.v1, zero);
  assert.notEqual(gradient.outputs.x, zero);
});

Deno.test("gradients reduce as few full tensors as the formulas need", () => {
  const reductions = (graph: ExtendedGraph) =>
    graph.nodes.filter(({ axes, op }) => axes !== undefined || op === "sum").map(({ op, axes }) =>
      `${op} ${axes ?? "bwh"}`
    );
  // Batch norm: mean and std of x, and the two means of the backward pass.
  const batchNorm = derivative(publishedLayer("BN-ReLU").graph);
  assert.deepEqual(reductions(batchNorm).sort(), ["mean bwh", "mean bwh", "mean bwh", "std bwh"]);
  const s0 = derivative(publishedLayer("EvoNorm-S0").graph);
  assert.deepEqual(reductions(s0).sort(), ["mean whc/g", "mean whc/g", "std whc/g", "sum bwh"]);
});

Deno.test("in inference mode moments over the batch are inputs", () => {
  const gradient = derivative(publishedLayer("BN-ReLU").graph, "inference");
  assert.deepEqual(gradient.inputs.map(({ name }) => name), [
    "x",
    "zero",
    "v0",
    "v1",
    "statistic4",
    "statistic7",
    "dz",
  ]);
  assert.deepEqual(gradient.nodes.map(({ op }) => op), ["Div"]);
});

Deno.test("the largest graphs are differentiated in no time", () => {
  const deep = validate({
    nodes: Array.from(
      { length: maxNodes },
      (_, k) => ({ op: "Max", inputs: [Math.max(0, 2 + k), k === 0 ? 0 : 3 + k] }),
    ),
  });
  const start = performance.now();
  assert.ok(derivative(deep).nodes.length > maxNodes);
  assert.ok(performance.now() - start < 5000);
});
