import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { availableBackends, useBackend } from "../../lib/tensor/mod.ts";

/** Operations whose gradient reads their saved output, and their second derivatives in closed form. */
const cases: Record<string, [(x: tf.Tensor) => tf.Tensor, (x: number) => number]> = {
  exp: [tf.exp, (x) => Math.exp(x)],
  sigmoid: [tf.sigmoid, (x) => {
    const s = 1 / (1 + Math.exp(-x));
    return s * (1 - s) * (1 - 2 * s);
  }],
  tanh: [tf.tanh, (x) => -2 * Math.tanh(x) * (1 - Math.tanh(x) ** 2)],
  // The first of two: s1 = sigmoid(2x) of the logits (x, -x).
  softmax: [(x) => tf.softmax(tf.stack([x, tf.neg(x)], 1)).slice([0, 0], [-1, 1]), (x) => {
    const s = 1 / (1 + Math.exp(-2 * x));
    return 4 * s * (1 - s) * (1 - 2 * s);
  }],
};

const points = [-1.5, -0.4, 0.3, 1.2];

for (const [backend, reason] of await availableBackends({ allowSoftware: true })) {
  Deno.test({
    name: `second derivatives through saved outputs on ${backend}${
      reason === null ? "" : ` (skipped: ${reason})`
    }`,
    ignore: reason !== null,
    async fn() {
      await useBackend(backend, { allowSoftware: true });
      for (const [name, [operation, second]] of Object.entries(cases)) {
        const tensor = tf.tidy(() => {
          const first = tf.grad((x) => tf.sum(operation(x)));
          return tf.grad((x) => tf.sum(first(x)))(tf.tensor1d(points));
        });
        const values = await tensor.data();
        tensor.dispose();
        points.forEach((x, index) => {
          // Float32, and the approximations of GPUs.
          assert.ok(
            Math.abs(values[index]! - second(x)) < 1e-5,
            `${name} at ${x}: ${values[index]}, not ${second(x)}`,
          );
        });
      }
    },
  });
}
