import assert from "node:assert/strict";
import { type LayerGraph, published, publishedLayer } from "../../lib/graph/mod.ts";
import { stream } from "../../lib/tensor/mod.ts";
import {
  type CaseShape,
  expected,
  type Layer,
  layerData,
  mistake,
  movingMoments,
  oddShapes,
  randomGraph,
} from "./_random_graphs.ts";
import { runLayer } from "./_run_wasm.ts";

const shapes: readonly CaseShape[] = [
  ...oddShapes,
  { shape: [5, 1, 1, 6], groups: 2 },
  { shape: [1, 7, 2, 3], groups: 1 },
];

/** How many outputs had values to compare, and how many had not (they amplify rounding, or are not finite). */
const outputs = { compared: 0, left: 0 };

/** Everything that is wrong with the compiled form of a layer at a shape. */
function mistakes(layer: Layer, options: CaseShape, seed: string, relaxed: boolean): string[] {
  const draws = stream(1).child(seed);
  const data = layerData(draws.child("data"), options);
  const moving = movingMoments(layer, draws.child("moving"), options);
  const [samples, height, width, channels] = options.shape;
  const shape = { samples, pixels: height * width, channels, groups: options.groups };
  const statistics = Object.fromEntries([...moving].map(([node, values]) => [`statistic${node}`, values]));
  return (["training", "inference"] as const).flatMap((mode) => {
    const measured = runLayer(layer, { ...data, ...statistics }, shape, mode, { relaxed });
    return [...expected(layer, mode, data, moving, options)].flatMap(([name, reference]) => {
      // Gradients of vectors that the layer does not read are not computed: they are zero.
      const values = measured[name] ?? new Float32Array(reference.values.length);
      outputs[reference.tolerance === null ? "left" : "compared"]++;
      const wrong = mistake(values, reference);
      return wrong === null ? [] : [`${name} in ${mode}, [${options.shape}]: ${wrong}`];
    });
  });
}

for (const name of Object.keys(published)) {
  Deno.test(`wasm: ${name} at odd shapes, with fused multiply-adds and without`, () => {
    // ReLU's gradient at 0 differs from the graph's, but no value is exactly 0 here.
    const { graph, post } = publishedLayer(name);
    const layer = post === undefined ? { graph } : { graph, post };
    for (const relaxed of [true, false]) {
      for (const shape of shapes) assert.deepEqual(mistakes(layer, shape, name, relaxed), []);
    }
  });
}

const COUNT = 560, PARTS = 8;
for (let part = 0; part < PARTS; part++) {
  Deno.test(`wasm: random graphs, part ${part + 1} of ${PARTS} of ${COUNT}`, () => {
    const wrong: Record<string, string[]> = {};
    for (let index = part; index < COUNT; index += PARTS) {
      const graph = randomGraph(stream(5).child(String(index)), 4 + index % 9);
      const shape = shapes[Math.floor(index / PARTS) % shapes.length]!;
      const found = mistakes({ graph }, shape, String(index), index % 3 !== 0);
      if (found.length > 0) wrong[`${index} ${JSON.stringify(graph.nodes)}`] = found;
    }
    assert.deepEqual(wrong, {});
  });
}

Deno.test("wasm: most outputs of the random graphs were compared", () => {
  const { compared, left } = outputs;
  assert.ok(compared > 3 * left, `${compared} outputs compared, ${left} not`);
});

/** Runs a graph on one sample of one channel. */
function onPixels(nodes: LayerGraph["nodes"], x: number[], dy: number[], post?: LayerGraph) {
  const vectors = { v0: [0], v1: [1], gamma: [1], beta: [0], tau: [0] };
  const layer = post === undefined ? { graph: { nodes } } : { graph: { nodes }, post };
  return runLayer(layer, { x, dy, ...vectors }, { samples: 1, pixels: x.length, channels: 1, groups: 1 });
}

Deno.test("wasm: a tie of Max shares the gradient, the ReLU after the affine has none at 0", () => {
  assert.deepEqual([...onPixels([{ op: "Max", inputs: [0, 1] }], [-1, 0, 2], [1, 1, 1]).dx!], [0, 0.5, 1]);
  const { post } = publishedLayer("BN-ReLU");
  const identity: LayerGraph["nodes"] = [{ op: "Max", inputs: [0, 0] }];
  assert.deepEqual([...onPixels(identity, [-1, 0, 2], [1, 1, 1], post).dx!], [0, 0, 1]);
});

Deno.test("wasm: not-a-number and infinity go where they belong", () => {
  const values = [NaN, Infinity, -Infinity, 1e30, -0, 0];
  const one = (
    op: "Neg" | "Sigmoid" | "Tanh" | "Exp" | "Log" | "Abs" | "Square" | "Sqrt",
  ) => [...onPixels([{ op, inputs: [0] }], values, values).y!];
  assert.deepEqual(one("Sigmoid"), [NaN, 1, one("Sigmoid")[2]!, 1, 0.5, 0.5]);
  assert.ok(Math.abs(one("Sigmoid")[2]!) < 1e-38);
  assert.deepEqual(
    one("Tanh"),
    [NaN, 1, -1, 1, 0, 0].map((value, index) => index === 4 ? one("Tanh")[4]! : value),
  );
  assert.deepEqual(one("Exp"), [NaN, Infinity, 0, Infinity, 1, 1]);
  assert.deepEqual(one("Abs"), [NaN, Infinity, Infinity, Math.fround(1e30), 0, 0]);
  assert.deepEqual(one("Square"), [NaN, Infinity, Infinity, Infinity, 0, 0]);
  const log = one("Log");
  assert.deepEqual([log[0], log[1], log[2], Math.abs(log[4]!), log[5]], [NaN, Infinity, -Infinity, 0, 0]);
  for (const order of [[0, 2], [2, 0]]) {
    assert.deepEqual([...onPixels([{ op: "Max", inputs: order }], [NaN, 1, -1], [1, 1, 1]).y!], [NaN, 1, 0]);
  }
  // Div takes -0 as positive.
  assert.deepEqual([...onPixels([{ op: "Div", inputs: [3, 0] }], [-0, 0], [1, 1]).y!].map(Math.sign), [1, 1]);
});

Deno.test("wasm: the variance does not cancel where the mean is large", () => {
  const x = Array.from({ length: 64 }, (_, index) => 1e4 + index % 2);
  const { y } = onPixels([{ op: "std", inputs: [0], axes: "wh" }], x, x);
  const deviation = Math.sqrt(0.25 + 1e-5);
  assert.ok(Math.abs(y![0]! - deviation) < 1e-6 * deviation, `std is ${y![0]}`);
});
