import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { batchIndependent, type LayerGraph, published } from "../../lib/graph/mod.ts";
import {
  groupCount,
  interpret,
  NormActivation,
  normActivationLayer,
  Parameters,
} from "../../lib/layers/mod.ts";
import { stream, useBackend } from "../../lib/tensor/mod.ts";

await useBackend("wasm");

const noise = (seed: number, shape: [number, number, number, number]) =>
  tf.tensor4d(stream(seed).normal(shape.reduce((a, b) => a * b)), shape);

for (const { name, graph } of Object.values(published)) {
  Deno.test(`${name}: sample 0 ${batchIndependent(graph) ? "does not depend" : "depends"} on the rest of the batch`, () => {
    const norm = new NormActivation(name, 8, new Parameters(), { groups: 4 });
    const [first, others, different] = [
      noise(0, [1, 4, 4, 8]),
      noise(1, [3, 4, 4, 8]),
      noise(2, [3, 4, 4, 8]),
    ];
    const outputOfFirst = (rest: tf.Tensor4D) =>
      tf.tidy(() => norm.apply(tf.concat([first, rest]), true).slice(0, 1).dataSync());
    const same = outputOfFirst(others).every((value, i) => value === outputOfFirst(different)[i]);
    assert.equal(same, batchIndependent(graph));
  });
}

Deno.test("groups are lowered until they divide the channels", () => {
  assert.deepEqual([groupCount(64, 32), groupCount(144, 32), groupCount(16, 32), groupCount(7, 4)], [
    32,
    24,
    16,
    1,
  ]);
});

Deno.test("parameters exist only where the graph reads them, and a dead batch node keeps no moment", () => {
  const graph: LayerGraph = {
    nodes: [{ op: "std", inputs: [0], axes: "bwh" }, { op: "Sigmoid", inputs: [0] }],
  };
  const parameters = new Parameters();
  new NormActivation(graph, 8, parameters);
  assert.deepEqual(parameters.all.map(({ name }) => name), ["gamma", "beta"]);
  assert.throws(() => parameters.create("gamma", [8], 1, "norm"), RangeError);
});

Deno.test("moving moments follow the batch with decay, and inference uses them", () => {
  const parameters = new Parameters();
  const norm = new NormActivation("BN-ReLU", 2, parameters, { decay: 0.75 });
  const x = tf.tensor4d([1, 10, 3, 10, 5, 10, 7, 10], [2, 1, 2, 2]);
  tf.tidy(() => norm.apply(x, true));
  const moving = Object.fromEntries(
    parameters.all.map(({ name, variable }) => [name, [...variable.dataSync()]]),
  );
  const [mean] = Object.entries(moving).find(([name]) => name.startsWith("moving_mean"))!.slice(
    1,
  ) as number[][];
  const [variance] = Object.entries(moving).find(([name]) => name.startsWith("moving_variance"))!.slice(
    1,
  ) as number[][];
  assert.deepEqual(mean, [0.25 * 4, 0.25 * 10]);
  assert.deepEqual(variance, [0.75 + 0.25 * 5, 0.75]);
  const y = tf.tidy(() => norm.apply(x, false).dataSync());
  assert.ok(Math.abs(y[2]! - (3 - 1) / Math.sqrt(2 + 1e-5)) < 1e-6);
});

Deno.test("a graph that is constant over pixels still gives a full output", () => {
  const graph: LayerGraph = { nodes: [{ op: "mean", inputs: [0], axes: "wh" }] };
  const norm = new NormActivation(graph, 4, new Parameters());
  const x = tf.variable(noise(0, [2, 3, 3, 4]));
  const { grads } = tf.variableGrads(
    () => tf.sum(tf.square(norm.apply(x as unknown as tf.Tensor4D, true))) as tf.Scalar,
    [x],
  );
  assert.deepEqual(norm.apply(x as unknown as tf.Tensor4D, true).shape, [2, 3, 3, 4]);
  assert.deepEqual(grads[x.name]!.shape, [2, 3, 3, 4]);
});

Deno.test("inputs that do not fit are refused before any work", () => {
  const graph = published["EvoNorm-S0"]!.graph;
  const v = tf.ones<tf.Rank.R1>([8]);
  assert.throws(() => interpret(graph, { x: noise(0, [1, 2, 2, 4]), v0: v, v1: v }, { groups: 2 }), {
    name: "TypeError",
    message: "Cannot evaluate a layer graph as 'v0' must be [c] = [4]: current shape is [8]",
  });
  assert.throws(() => interpret(graph, { x: noise(0, [1, 2, 2, 8]), v0: v, v1: v }, { groups: 3 }), {
    name: "RangeError",
    message: "Cannot evaluate a layer graph as 'groups' must divide the 8 channels: current value is 3",
  });
  const norm = new NormActivation("BN-ReLU", 8, new Parameters());
  assert.throws(() => norm.apply(noise(0, [1, 2, 2, 4]), true), {
    name: "TypeError",
    message: "Cannot apply the layer BN-ReLU as 'x' must be [n, h, w, 8]: current shape is [1,2,2,4]",
  });
  assert.throws(() => new NormActivation("BN-RELU", 8, new Parameters()), RangeError);
});

Deno.test("in a tf.layers model: trains with fit, keeps moving moments, survives its own configuration", async () => {
  const build = () =>
    tf.sequential({
      layers: [
        tf.layers.conv2d({
          filters: 8,
          kernelSize: 3,
          inputShape: [6, 6, 3],
          useBias: false,
          kernelInitializer: tf.initializers.glorotNormal({ seed: 1 }),
        }),
        normActivationLayer({ layer: "EvoNorm-B0", name: "norm" }),
        tf.layers.flatten(),
        tf.layers.dense({
          units: 2,
          activation: "softmax",
          kernelInitializer: tf.initializers.glorotNormal({ seed: 2 }),
        }),
      ],
    });
  const model = build();
  const x = noise(5, [32, 6, 6, 3]);
  const labels = tf.oneHot(tf.tensor1d(stream(6).integers(32, 2), "int32"), 2);
  model.compile({ optimizer: tf.train.momentum(0.1, 0.9), loss: "categoricalCrossentropy" });
  const moment = () => [...model.getLayer("norm").getWeights().at(-1)!.dataSync()];
  const before = moment();
  const { history } = await model.fit(x, labels, { epochs: 12, batchSize: 16, shuffle: false });
  const losses = history.loss as number[];
  assert.ok(losses.at(-1)! < 0.5 * losses[0]!, `loss went from ${losses[0]} to ${losses.at(-1)}`);
  assert.notDeepEqual(moment(), before);

  const copy = await tf.models.modelFromJSON(JSON.parse(model.toJSON() as string));
  copy.setWeights(model.getWeights());
  const [a, b] = [model, copy].map((net) => [...(net.predict(x) as tf.Tensor).dataSync()]);
  assert.deepEqual(a, b);
  assert.equal(model.getLayer("norm").trainableWeights.length, 3);
});
