import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { efficientNet, type ImageModel, mobileNet, parameterCount } from "../../lib/models/mod.ts";
import { stream, useBackend } from "../../lib/tensor/mod.ts";

await useBackend("wasm");

const builders = { mobileNet, efficientNet };
const small = { width: 0.25, blocks: [1, 2, 1, 1], head: 32, classes: 5 };
const init = () => stream(0).child("init");

/** The shapes that a network's stages give. */
function stageShapes(model: ImageModel, size: number): Record<string, number[]> {
  const shapes: Record<string, number[]> = {};
  tf.tidy(() =>
    model.forward(tf.ones([1, size, size, 3]), false, (name, output) => shapes[name] = output.shape.slice(1))
  );
  return shapes;
}

Deno.test("the first two of five reductions have stride 1 for small images; widths are rounded to multiples of 8", () => {
  const model = mobileNet({ width: 0.5, classes: 10, layer: "EvoNorm-S0" }, init());
  assert.deepEqual(stageShapes(model, 32), {
    stem: [32, 32, 16],
    stage1: [32, 32, 8],
    stage2: [32, 32, 16],
    stage3: [16, 16, 16],
    stage4: [8, 8, 32],
    stage5: [8, 8, 48],
    stage6: [4, 4, 80],
    stage7: [4, 4, 160],
    norm: [4, 4, 1280],
  });
  model.dispose();
  const efficient = efficientNet({ width: 0.5, classes: 10, layer: "EvoNorm-S0", blocks: [1, 0, 1] }, init());
  assert.deepEqual(stageShapes(efficient, 9), {
    stem: [9, 9, 16],
    stage1: [9, 9, 8],
    stage3: [5, 5, 24],
    norm: [5, 5, 640],
  });
  efficient.dispose();
});

Deno.test("a bottleneck ends in the affine alone where norm and activation are one, else in the norm", () => {
  const ends = (layer: string) => {
    const model = mobileNet({ ...small, layer }, init());
    const names = model.parameters.map(({ name }) => name).filter((name) =>
      name.startsWith("stage2.block1.norm3")
    );
    model.dispose();
    return names.map((name) => name.split(".").at(-1));
  };
  assert.deepEqual(ends("EvoNorm-B0"), ["gamma", "beta"]);
  assert.deepEqual(ends("EvoNorm-S0"), ["gamma", "beta"]);
  assert.deepEqual(ends("BN-ReLU"), ["gamma", "beta", "moving_mean_4", "moving_variance_7"]);
  assert.deepEqual(ends("FRN-TLU"), ["gamma", "beta"]);
});

for (const [name, build] of Object.entries(builders)) {
  Deno.test(`${name}: every parameter gets a finite gradient that is not zero everywhere`, () => {
    const model = build({ ...small, layer: "EvoNorm-B0" }, init());
    const trained = model.parameters.filter(({ kind }) => kind !== "statistic");
    const x = tf.tensor4d(stream(3).normal(4 * 9 * 9 * 3), [4, 9, 9, 3]);
    const { grads, value } = tf.variableGrads(
      () => tf.sum(tf.square(model.forward(x, true))) as tf.Scalar,
      trained.map(({ variable }) => variable),
    );
    for (const { name, variable } of trained) {
      const values = grads[variable.name]!.dataSync();
      assert.ok(values.every(Number.isFinite), `gradient of ${name} is not finite`);
      assert.ok(values.some((value) => value !== 0), `gradient of ${name} is zero`);
    }
    tf.dispose([grads, value, x]);
    model.dispose();
  });

  Deno.test(`${name}: an image's logits do not depend on its batch if the layer has no batch statistics`, () => {
    const images = tf.tensor4d(stream(4).normal(3 * 8 * 8 * 3), [3, 8, 8, 3]);
    const furthest = (layer: string) => {
      const model = build({ ...small, layer }, init());
      const distance = tf.tidy(() => {
        const alone = tf.concat([0, 1, 2].map((n) => model.forward(images.slice(n, 1), true)));
        return tf.max(tf.abs(tf.sub(model.forward(images, true), alone))).dataSync()[0]!;
      });
      model.dispose();
      return distance;
    };
    // Sums over other batches are ordered otherwise: the last bits of logits of the size of 1.
    assert.ok(furthest("EvoNorm-S0") < 1e-5);
    assert.ok(furthest("EvoNorm-B0") > 1e-2);
    images.dispose();
  });
}

Deno.test("squeeze-excite: the gradient of an EfficientNet is that of finite differences", () => {
  const model = efficientNet({ ...small, blocks: [1, 1], layer: "EvoNorm-S0" }, init());
  const x = tf.tensor4d(stream(5).normal(2 * 6 * 6 * 3), [2, 6, 6, 3]);
  const reduce =
    model.parameters.find(({ name }) => name === "stage2.block1.squeeze.reduce.kernel")!.variable;
  const loss = () => tf.sum(tf.square(model.forward(x, true))) as tf.Scalar;
  const { grads, value } = tf.variableGrads(loss, [reduce]);
  const gradient = grads[reduce.name]!.dataSync();
  const base = reduce.dataSync().slice();
  const at = (index: number, by: number) => {
    const values = base.slice();
    values[index]! += by;
    tf.tidy(() => reduce.assign(tf.tensor(values, reduce.shape)));
    return tf.tidy(() => loss().dataSync()[0]!);
  };
  const scale = Math.max(...gradient.map(Math.abs));
  for (let index = 0; index < gradient.length; index += 7) {
    // A step of 0.05 leaves 24 bits of the loss some 12 for the difference.
    const estimate = (at(index, 0.05) - at(index, -0.05)) / 0.1;
    assert.ok(
      Math.abs(estimate - gradient[index]!) < 0.02 * scale,
      `at ${index}: ${gradient[index]}, not ${estimate}`,
    );
  }
  tf.dispose([x, grads, value]);
  model.dispose();
});

Deno.test("the head and the width can be chosen; what is out of range is refused", () => {
  const model = mobileNet({ ...small, layer: "GN-ReLU", head: 24 }, init());
  assert.deepEqual(stageShapes(model, 8).norm, [2, 2, 24]);
  assert.ok(parameterCount(model) > 0);
  model.dispose();
  const refused = (options: Partial<Parameters<typeof mobileNet>[0]>) => () =>
    mobileNet({ ...small, layer: "GN-ReLU", ...options }, init());
  assert.throws(refused({ width: 0 }), {
    name: "RangeError",
    message: "Cannot build a MobileNetV2 as 'width' must be a number above 0: current value is 0",
  });
  assert.throws(refused({ blocks: [] }), RangeError);
  assert.throws(refused({ blocks: [1, 1, 1, 1, 1, 1, 1, 1] }), RangeError);
  assert.throws(refused({ blocks: [1, -1] }), RangeError);
  assert.throws(refused({ classes: 1.5 }), RangeError);
  assert.throws(refused({ head: 0 }), RangeError);
});
