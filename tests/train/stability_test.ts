import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import type { LayerGraph } from "../../lib/graph/mod.ts";
import { stream, useBackend } from "../../lib/tensor/mod.ts";
import { anchor, type ImageModel } from "../../lib/models/mod.ts";
import {
  classifierStability,
  crossEntropy,
  gradientNorm,
  type LabelledBatch,
  stabilityTest,
} from "../../lib/train/mod.ts";

await useBackend("wasm");

const close = (a: number, b: number, tolerance: number) =>
  Math.abs(a - b) <= tolerance * Math.max(1, Math.abs(b));

Deno.test("a quadratic's gradient norm is climbed in closed form", async () => {
  // L = w' D w / 2 with D = diag(1, 3): g = D w, n = |D w|, dn/dw = D D w / n.
  const w = tf.variable(tf.tensor1d([0.6, -0.8]));
  const diagonal = tf.tensor1d([1, 3]);
  const { norms, losses, firstAboveLimit, rejected, seconds } = await stabilityTest(
    () => tf.sum(tf.mul(tf.square(w), tf.mul(diagonal, 0.5))),
    [w],
    { steps: 5, rate: 0.1 },
  );
  let [a, b] = [0.6, -0.8];
  norms.forEach((norm, step) => {
    const n = Math.hypot(a, 3 * b);
    // Float32 arithmetic on numbers of the size of 1.
    assert.ok(close(norm, n, 1e-5), `norm ${norm} at step ${step}, not ${n}`);
    assert.ok(close(losses[step]!, (a * a + 3 * b * b) / 2, 1e-5));
    [a, b] = [a + 0.1 * a / n, b + 0.1 * 9 * b / n];
  });
  assert.equal(norms.length, 6);
  assert.deepEqual([firstAboveLimit, rejected], [null, false]);
  assert.ok(seconds > 0);
  assert.deepEqual([...w.dataSync()], [...Float32Array.of(0.6, -0.8)], "the variable is as it was");
  tf.dispose([w, diagonal]);
});

Deno.test("a runaway slope is rejected at the step that passes the limit, and NaN is never within it", async () => {
  const w = tf.variable(tf.tensor1d([0.5, 2]));
  const { norms, firstAboveLimit, rejected } = await stabilityTest(() => tf.sum(tf.pow(w, 4)), [w]);
  assert.ok(rejected && firstAboveLimit === norms.length - 1);
  assert.ok(norms.at(-1)! > 1e8 && norms.slice(0, -1).every((norm) => norm <= 1e8));
  w.assign(tf.tensor1d([NaN, 1]));
  const broken = await stabilityTest(() => tf.sum(tf.square(w)), [w]);
  assert.deepEqual([broken.firstAboveLimit, broken.rejected, broken.norms.length], [0, true, 1]);
  w.dispose();
});

Deno.test("a norm that is 0 or constant has no direction; nothing is left behind", async () => {
  const w = tf.variable(tf.tensor1d([0, 0])), other = tf.variable(tf.scalar(3));
  const before = tf.memory().numTensors;
  const flat = await stabilityTest(() => tf.sum(tf.square(w)), [w, other], { steps: 4 });
  assert.deepEqual(flat.norms, [0]);
  const linear = await stabilityTest(() => tf.sum(w), [w, other], { steps: 4 });
  assert.deepEqual(linear.norms, Array(5).fill(Math.fround(Math.SQRT2)));
  const constant = await stabilityTest(() => tf.scalar(2), [w, other], { steps: 4 });
  assert.deepEqual([constant.norms, constant.losses], [[0], [2]]);
  assert.equal(tf.memory().numTensors, before);
  tf.dispose([w, other]);
});

Deno.test("an aborted or failing test puts the variables back", async () => {
  const w = tf.variable(tf.tensor1d([1]));
  const controller = new AbortController();
  let calls = 0;
  const loss = () => {
    if (++calls === 3) controller.abort(new Error("enough"));
    return tf.sum(tf.pow(w, 3)) as tf.Scalar;
  };
  await assert.rejects(stabilityTest(loss, [w], { signal: controller.signal }), /enough/);
  assert.equal(w.dataSync()[0], 1);
  w.dispose();
});

Deno.test("options out of range are refused", async () => {
  const w = tf.variable(tf.scalar(1));
  const run = (options: Parameters<typeof stabilityTest>[2]) =>
    stabilityTest(() => tf.square(w), [w], options);
  await assert.rejects(run({ steps: -1 }), {
    name: "RangeError",
    message: "Cannot test stability as 'steps' must be a whole number of at least 0: current value is -1",
  });
  await assert.rejects(run({ rate: 0 }), RangeError);
  await assert.rejects(run({ limit: 1e30 }), RangeError);
  w.dispose();
});

Deno.test("cross-entropy: value and gradient in closed form, and its second derivative", () => {
  const [images, classes, smoothing] = [3, 4, 0.1];
  const logits = stream(1).normal(images * classes);
  const labels = [2, 0, 3];
  const at = (values: ArrayLike<number>) => {
    const gradient: number[] = [];
    let loss = 0;
    for (const [image, label] of labels.entries()) {
      const row = Array.from({ length: classes }, (_, k) => values[image * classes + k]!);
      const sum = row.reduce((total, value) => total + Math.exp(value), 0);
      row.forEach((value, k) => {
        const target = (k === label ? 1 - smoothing : 0) + smoothing / classes;
        loss += target * (Math.log(sum) - value) / images;
        gradient.push((Math.exp(value) / sum - target) / images);
      });
    }
    return { loss, gradient };
  };
  const x = tf.variable(tf.tensor2d(logits, [images, classes]));
  const y = tf.tensor1d(labels, "int32");
  const found = gradientNorm(() => crossEntropy(x as tf.Tensor as tf.Tensor2D, y, smoothing), [x]);
  const { loss, gradient } = at(logits);
  assert.ok(close(found.loss.dataSync()[0]!, loss, 1e-6));
  found.gradients[0]!.dataSync().forEach((value, index) => assert.ok(close(value, gradient[index]!, 1e-6)));
  const norm = (values: number[]) => Math.hypot(...at(values).gradient);
  found.direction[0]!.dataSync().forEach((value, index) => {
    // Central differences in float64: their error is far below float32's.
    const shifted = (by: number) => norm([...logits].map((logit, k) => k === index ? logit + by : logit));
    assert.ok(close(value, (shifted(1e-4) - shifted(-1e-4)) / 2e-4, 1e-5), `direction ${index}`);
  });
  tf.dispose([x, y, found]);
});

const side = 8;
const batch: LabelledBatch = {
  images: stream(2).normal(12 * side * side * 3),
  labels: stream(3).integers(12, 10),
  size: 12,
  height: side,
  width: side,
  channels: 3,
};

/** x^3 * exp(|x|): nothing keeps its gradients small. */
const wild: LayerGraph = {
  nodes: [
    { op: "Square", inputs: [0] },
    { op: "Mul", inputs: [0, 4] },
    { op: "Abs", inputs: [0] },
    { op: "Exp", inputs: [6] },
    { op: "Mul", inputs: [5, 7] },
  ],
};

for (const name of ["resnet", "mobilenet", "efficientnet"] as const) {
  Deno.test(`${name}: BN-ReLU withstands some steps of ascent, a layer that explodes does not`, async () => {
    const test = async (layer: string | LayerGraph) => {
      const model = anchor(name, "smoke", layer, stream(4).child("init"));
      const before = values(model);
      const tensors = tf.memory().numTensors;
      const result = await classifierStability(model, batch, { steps: 3, rate: 0.01 });
      assert.equal(tf.memory().numTensors, tensors, "tensors are left behind");
      assert.deepEqual(values(model), before, "the model is as it was, moving statistics too");
      model.dispose();
      return result;
    };
    const sane = await test("BN-ReLU");
    assert.equal(sane.rejected, false);
    assert.equal(sane.norms.length, 4);
    assert.ok(sane.norms.at(-1)! > sane.norms[0]!, `the norm climbs: ${sane.norms}`);
    assert.equal((await test(wild)).rejected, true);
  });
}

function values(model: ImageModel): number[][] {
  return model.parameters.map(({ variable }) => [...variable.dataSync()]);
}

Deno.test("a classifier's test takes the first images of the batch, as many as asked for", async () => {
  const model = anchor("resnet", "smoke", "EvoNorm-S0", stream(4).child("init"));
  const options = { steps: 0, batchSize: 5 };
  const whole = await classifierStability(model, batch, options);
  const part = {
    ...batch,
    size: 5,
    images: batch.images.slice(0, 5 * side * side * 3),
    labels: batch.labels.slice(0, 5),
  };
  assert.deepEqual((await classifierStability(model, part, options)).norms, whole.norms);
  await assert.rejects(classifierStability(model, batch, { batchSize: 13 }), {
    name: "RangeError",
    message: "Cannot test stability as 'batchSize' must be a whole number in [1, 12]: current value is 13",
  });
  model.dispose();
});
