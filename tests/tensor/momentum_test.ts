import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { momentumUpdate, stream, useBackend } from "../../lib/tensor/mod.ts";
import { updateByOperations } from "../../lib/tensor/momentum.ts";

await useBackend("wasm");

/** A variable, its velocity and two gradients; the same numbers at every call. */
function start(size: number) {
  const draw = (name: string) => tf.tensor1d(stream(5).child(name).normal(size));
  const [variable, velocity] = ["variable", "velocity"].map((name) => tf.tidy(() => tf.variable(draw(name))));
  return { variable: variable!, velocity: velocity!, gradients: [draw("first"), draw("second")] };
}

for (const nesterov of [true, false]) {
  for (const decay of [0, 1e-2]) {
    Deno.test(`momentumUpdate on wasm equals TensorFlow.js's operations bit for bit: nesterov ${nesterov}, decay ${decay}`, () => {
      const settings = { rate: 0.3, momentum: 0.9, decay, nesterov };
      for (const size of [1, 3, 4, 6, 257]) {
        const results = [momentumUpdate, updateByOperations].map((update) => {
          const { variable, velocity, gradients } = start(size);
          for (const gradient of gradients) update(variable, velocity, gradient, settings);
          const numbers = [variable.dataSync(), velocity.dataSync()];
          tf.dispose([variable, velocity, gradients]);
          return numbers;
        });
        assert.deepEqual(results[0], results[1]);
      }
    });
  }
}

Deno.test("momentumUpdate makes no tensor, and leaves clones as they were", () => {
  const { variable, velocity, gradients: [gradient, other] } = start(9);
  const settings = { rate: 0.3, momentum: 0.9, decay: 0, nesterov: true };
  const [data, before] = [variable.dataId, tf.memory().numTensors];
  momentumUpdate(variable, velocity, gradient!, settings);
  assert.equal(variable.dataId, data);
  assert.equal(tf.memory().numTensors, before);

  const clones = [variable.clone(), velocity.reshape([3, 3])];
  const values = clones.map((clone) => clone.dataSync());
  momentumUpdate(variable, velocity, other!, settings);
  assert.deepEqual(clones.map((clone) => clone.dataSync()), values);
  assert.notDeepEqual(variable.dataSync(), values[0]);
  tf.dispose(clones);
  assert.equal(tf.memory().numTensors, before);
  tf.dispose([variable, velocity, gradient!, other!]);
});

Deno.test("products with an updated variable are those with its new values", () => {
  const settings = { rate: 0.3, momentum: 0.9, decay: 0, nesterov: true };
  const { variable: vector, velocity: slow, gradients } = start(64);
  const [variable, velocity] = [vector, slow].map((tensor) =>
    tf.tidy(() => tf.variable(tensor.reshape([8, 8])))
  );
  const product = () => tf.tidy(() => tf.matMul(tf.ones([2, 8]), variable as tf.Tensor2D).dataSync());
  const before = product();
  momentumUpdate(variable!, velocity!, tf.tidy(() => gradients[0]!.reshape([8, 8])), settings);
  const expected = tf.tidy(() =>
    tf.matMul(tf.ones([2, 8]), tf.tensor2d(variable!.dataSync(), [8, 8])).dataSync()
  );
  assert.notDeepEqual(expected, before);
  assert.deepEqual(product(), expected);
  tf.dispose([variable!, velocity!, vector, slow, gradients]);
});

Deno.test("momentumUpdate refuses a gradient of another shape", () => {
  const { variable, velocity, gradients } = start(4);
  const settings = { rate: 0.3, momentum: 0.9, decay: 0, nesterov: true };
  assert.throws(() => momentumUpdate(variable, velocity, tf.ones([3]), settings), {
    name: "TypeError",
    message: "Cannot update a variable as 'gradient' must be float32 [4]: it is float32 [3]",
  });
  tf.dispose([variable, velocity, gradients]);
});
