import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { useBackend } from "../../lib/tensor/mod.ts";
import { constant, cosine, crossEntropy, Sgd, type Trainable } from "../../lib/train/mod.ts";

await useBackend("wasm");

function near(measured: ArrayLike<number>, expected: number[], tolerance = 1e-6) {
  assert.equal(measured.length, expected.length);
  expected.forEach((value, i) =>
    assert.ok(Math.abs(measured[i]! - value) <= tolerance, `${measured[i]} is not ${value}`)
  );
}

// torch.optim.SGD 2.13 in float64: lr 0.1 halved after each of 3 steps, momentum 0.9, weight decay 0.1 on w, 0 on g;
// loss = sum(w^2) * prod(g) + sum(g^3), w = [1, -2, 0.5], g = [1, 1].
const torch = {
  nesterov: {
    w: [0.38816515241798955, -0.7763303048359791, 0.19408257620899477],
    g: [-1.1026597209008986, -1.1026597209008986],
  },
  heavyBall: {
    w: [0.6402015345275779, -1.2804030690551558, 0.32010076726378894],
    g: [-0.40118933572239357, -0.40118933572239357],
  },
};

for (const [name, expected] of Object.entries(torch)) {
  Deno.test(`Sgd matches torch.optim.SGD: ${name}`, () => {
    const w = tf.variable(tf.tensor1d([1, -2, 0.5]));
    const g = tf.variable(tf.tensor1d([1, 1]));
    const moving = tf.variable(tf.tensor1d([7]), false);
    const parameters: Trainable[] = [
      { name: "w", kind: "weight", variable: w },
      { name: "g", kind: "norm", variable: g },
      { name: "moving", kind: "statistic", variable: moving },
    ];
    const sgd = new Sgd(parameters, { momentum: 0.9, nesterov: name === "nesterov", weightDecay: 0.1 });
    const before = tf.memory().numTensors;
    for (let step = 0; step < 3; step++) {
      tf.tidy(() => {
        const { grads } = tf.variableGrads(
          () =>
            tf.add(tf.mul(tf.sum(tf.square(w)), tf.prod(g)), tf.sum(tf.mul(tf.square(g), g))) as tf.Scalar,
          sgd.variables,
        );
        sgd.step(grads, 0.1 / 2 ** step);
      });
    }
    assert.equal(tf.memory().numTensors, before);
    near(w.dataSync(), expected.w);
    near(g.dataSync(), expected.g);
    near(moving.dataSync(), [7]);
    sgd.dispose();
    tf.dispose([w, g, moving]);
  });
}

Deno.test("cross-entropy with label smoothing matches torch.nn.functional.cross_entropy", () => {
  // torch 2.13: logits [[1, 2, -1], [0.5, 0, 3]], labels [0, 2], label_smoothing 0.1
  const expected = [-0.3369184364954571, 0.33602558968245394, 0.0008928468130031987]
    .concat([0.01959405617370721, 0.005326573479362256, -0.024920629653069515]);
  tf.tidy(() => {
    const logits = tf.tensor2d([[1, 2, -1], [0.5, 0, 3]]);
    const labels = tf.tensor1d([0, 2], "int32");
    near(crossEntropy(logits, labels, 0.1).dataSync(), [0.8447759209021104]);
    near(tf.grad((x) => crossEntropy(x as tf.Tensor2D, labels, 0.1))(logits).dataSync(), expected);
  });
});

Deno.test("schedules", () => {
  const schedule = cosine(0.4, 110, 10);
  near(
    [schedule(0), schedule(9), schedule(10), schedule(60), schedule(110)],
    [0.04, 0.4, 0.4, 0.2, 0],
    1e-12,
  );
  assert.equal(constant(0.1)(12345), 0.1);
  assert.throws(() => cosine(0.1, 10, 10), {
    name: "RangeError",
    message: /'warmup' must be in \[0, 10\): current value is 10|current value is 10/,
  });
  assert.throws(() => constant(NaN), RangeError);
});
