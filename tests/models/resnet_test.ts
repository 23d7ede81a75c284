import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { parameterCount, resnet } from "../../lib/models/mod.ts";
import { stream, useBackend } from "../../lib/tensor/mod.ts";

await useBackend("wasm");

const build = (layer: string, extra: Partial<Parameters<typeof resnet>[0]> = {}) =>
  resnet({
    block: "basic",
    blocks: [3, 3, 3],
    width: 16,
    classes: 10,
    layer,
    norm: { groups: 8 },
    ...extra,
  }, stream(0).child("init"));

Deno.test("pre-activation ResNet-20 has He et al.'s parameters, and one v1 more per channel with S0", () => {
  // Convolutions: stem 432, stages 6*9*256, 9*16*32 + 5*9*1024, 9*32*64 + 5*9*4096, projections 16*32 + 32*64; classifier 650.
  const convolutions = 432 + 6 * 9 * 256 + (9 * 512 + 5 * 9 * 1024) + (9 * 2048 + 5 * 9 * 4096) + 512 + 2048;
  // Normalised channels: stage 1 6x16, stage 2 16 + 5x32, stage 3 32 + 5x64, last 64.
  const channels = 6 * 16 + 16 + 5 * 32 + 32 + 5 * 64 + 64;
  const bn = build("BN-ReLU");
  assert.equal(parameterCount(bn), convolutions + 650 + 2 * channels);
  const s0 = build("EvoNorm-S0");
  assert.equal(parameterCount(s0), convolutions + 650 + 3 * channels);
  assert.equal(s0.parameters.filter(({ kind }) => kind === "statistic").length, 0);
  assert.equal(bn.parameters.filter(({ kind }) => kind === "statistic").length, 2 * 19);
  bn.dispose();
  s0.dispose();
});

Deno.test("bottleneck blocks expand by four", () => {
  const net = build("GN-ReLU", { block: "bottleneck", blocks: [1, 1, 1], width: 8 });
  const last = net.parameters.find(({ name }) => name === "classifier.kernel")!;
  assert.deepEqual(last.variable.shape, [8 * 4 * 4, 10]);
  const logits = tf.tidy(() => net.forward(tf.ones([3, 20, 20, 3]), true));
  assert.deepEqual(logits.shape, [3, 10]);
  net.dispose();
  logits.dispose();
});

Deno.test("every parameter of a ResNet gets a finite gradient that is not zero everywhere", () => {
  const net = build("EvoNorm-B0", { blocks: [1, 1, 1], width: 8 });
  const trained = net.parameters.filter(({ kind }) => kind !== "statistic");
  const x = tf.tensor4d(stream(3).normal(4 * 9 * 9 * 3), [4, 9, 9, 3]);
  const { grads } = tf.variableGrads(
    () => tf.sum(tf.square(net.forward(x, true))) as tf.Scalar,
    trained.map(({ variable }) => variable),
  );
  for (const { name, variable } of trained) {
    const values = grads[variable.name]!.dataSync();
    assert.ok(values.every(Number.isFinite), `gradient of ${name} is not finite`);
    assert.ok(values.some((value) => value !== 0), `gradient of ${name} is zero`);
  }
  tf.dispose(grads);
  net.dispose();
});

Deno.test("the same stream gives the same network, another stream another", () => {
  const outputs = [0, 0, 1].map((seed) => {
    const net = resnet(
      { block: "basic", blocks: [1, 1, 1], width: 8, classes: 10, layer: "GN-ReLU", norm: { groups: 4 } },
      stream(seed),
    );
    const logits = tf.tidy(() => net.forward(tf.ones([1, 8, 8, 3]), false).dataSync());
    net.dispose();
    return [...logits];
  });
  assert.deepEqual(outputs[0], outputs[1]);
  assert.notDeepEqual(outputs[0], outputs[2]);
});

Deno.test("sizes that are not positive integers are refused", () => {
  assert.throws(() => build("BN-ReLU", { width: 0 }), {
    name: "RangeError",
    message: "Cannot build a ResNet as 'width' must be a positive integer: current value is 0",
  });
  assert.throws(() => build("no-such-layer"), RangeError);
});
