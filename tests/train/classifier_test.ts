import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { resnet } from "../../lib/models/mod.ts";
import { stream, useBackend } from "../../lib/tensor/mod.ts";
import {
  type Classifier,
  constant,
  evaluateClassifier,
  type LabelledBatch,
  trainClassifier,
} from "../../lib/train/mod.ts";

await useBackend("wasm");

function batchOf(seed: number, size: number, side: number): LabelledBatch {
  const draws = stream(seed).child("batch");
  return {
    images: draws.child("images").normal(size * side * side * 3),
    labels: draws.child("labels").integers(size, 10),
    size,
    height: side,
    width: side,
    channels: 3,
  };
}

const model = (layer: string) =>
  resnet(
    { block: "basic", blocks: [1, 1, 1], width: 8, classes: 10, layer, norm: { groups: 4 } },
    stream(1).child("init"),
  );

for (const layer of ["BN-ReLU", "EvoNorm-B0", "EvoNorm-S0"]) {
  Deno.test(`a ResNet with ${layer} fits a batch that it sees often, without leaking tensors`, async () => {
    const net = model(layer);
    const batch = batchOf(0, 16, 8);
    const counts = new Set<number>();
    const losses: number[] = [];
    const result = await trainClassifier(net, Array(30).fill(batch), {
      schedule: constant(0.05),
      onStep: (_, loss) => {
        losses.push(loss);
        counts.add(tf.memory().numTensors);
      },
    });
    assert.equal(result.steps, 30);
    assert.equal(result.divergedAt, null);
    assert.ok(Math.abs(losses[0]! - Math.log(10)) < 1.5, `first loss ${losses[0]} is far from ln 10`);
    assert.ok(result.loss < 0.3 * losses[0]!, `loss only fell from ${losses[0]} to ${result.loss}`);
    assert.equal(counts.size, 1, `tensors grow: ${[...counts]}`);
    net.dispose();
  });
}

Deno.test("a training that diverges is a result, and leaves finite parameters", async () => {
  const net = model("EvoNorm-B0");
  const batch = { ...batchOf(0, 4, 8) };
  const broken = { ...batch, images: batch.images.map((value, i) => i === 5 ? NaN : value) };
  const result = await trainClassifier(net, [batch, broken, batch], { schedule: constant(0.01) });
  assert.equal(result.divergedAt, 1);
  assert.equal(result.steps, 2);
  for (const { name, kind, variable } of net.parameters) {
    if (kind !== "statistic") assert.ok(variable.dataSync().every(Number.isFinite), `${name} is not finite`);
  }
  net.dispose();
});

Deno.test("an aborted training stops with the signal's reason", async () => {
  const net = model("EvoNorm-S0");
  const controller = new AbortController();
  const training = trainClassifier(net, Array(5).fill(batchOf(0, 4, 8)), {
    schedule: constant(0.01),
    signal: controller.signal,
    onStep: () => controller.abort(new Error("enough")),
  });
  await assert.rejects(training, /enough/);
  net.dispose();
});

Deno.test("top-1 counts the first largest logit, and nothing for NaN", async () => {
  const rows = [[1, 3, 2], [5, 5, 0], [5, 5, 0], [NaN, NaN, NaN]];
  const fixed: Classifier = {
    parameters: [],
    forward: () => tf.tensor2d(rows),
  };
  const batch = {
    images: new Float32Array(4),
    labels: Int32Array.of(1, 0, 1, 2),
    size: 4,
    height: 1,
    width: 1,
    channels: 1,
  };
  assert.equal((await evaluateClassifier(fixed, [batch])).top1, 0.5);
});
