import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { followAverage, stream, useBackend } from "../../lib/tensor/mod.ts";

await useBackend("wasm");

Deno.test("followAverage on wasm equals TensorFlow.js's operations bit for bit, in place", () => {
  for (const size of [1, 4, 7, 64]) {
    const draw = (name: string) => tf.tensor1d(stream(6).child(name).normal(size));
    const variable = tf.tidy(() => tf.variable(draw("average")));
    const value = draw("value");
    const expected = tf.tidy(() => tf.add(tf.mul(variable, 0.9), tf.mul(value, 1 - 0.9)).dataSync());
    const { dataId } = variable;
    followAverage(variable, value, 0.9);
    assert.equal(variable.dataId, dataId);
    assert.deepEqual(variable.dataSync(), expected);
    tf.dispose([variable, value]);
  }
});

Deno.test("followAverage leaves clones as they were, and no tensors", () => {
  const variable = tf.tidy(() => tf.variable(tf.tensor1d([1, 2])));
  const [clone, value] = [variable.clone(), tf.tensor1d([3, 4])];
  const before = tf.memory().numTensors;
  followAverage(variable, value, 0.5);
  assert.deepEqual([...variable.dataSync(), ...clone.dataSync()], [2, 3, 1, 2]);
  assert.equal(tf.memory().numTensors, before);
  assert.throws(() => followAverage(variable, tf.scalar(1), 0.5), TypeError);
  tf.dispose([variable, clone, value]);
});
