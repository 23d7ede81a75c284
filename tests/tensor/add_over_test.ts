import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { addOver, useBackend } from "../../lib/tensor/mod.ts";

await useBackend("wasm");

Deno.test("addOver is a sum in place, with the gradients of a sum", () => {
  tf.tidy(() => {
    const [a, b] = [tf.tensor1d([1, 2, 3, 4, 5]), tf.tensor1d([10, 20, 30, 40, 50])];
    const buffers = tf.memory().numDataBuffers;
    assert.deepEqual([...addOver(a, b).dataSync()], [11, 22, 33, 44, 55]);
    assert.equal(tf.memory().numDataBuffers, buffers);
    assert.deepEqual([...b.dataSync()], [10, 20, 30, 40, 50]);
    // d/da and d/db of sum((2 a + b)^2): 4 (2 a + b) and 2 (2 a + b), with a = 11 i now.
    const [da, db] = tf.grads((x, y) => tf.sum(tf.square(addOver(tf.mul(x, 2), y))))([a, b]);
    assert.deepEqual([...da!.dataSync()], [1, 2, 3, 4, 5].map((i) => 4 * 32 * i));
    assert.deepEqual([...db!.dataSync()], [1, 2, 3, 4, 5].map((i) => 2 * 32 * i));
  });
});

Deno.test("addOver spares data that are needed: clones, values saved for a gradient, either side twice", () => {
  tf.tidy(() => {
    const a = tf.tensor1d([1, 2, 3]);
    const clone = a.clone();
    assert.deepEqual([...addOver(a, a).dataSync()], [2, 4, 6]);
    assert.deepEqual([...clone.dataSync()], [1, 2, 3]);
    // d/dx of sum(e^2 + e) with e = exp x, saved by exp itself and by the square.
    const gradient = tf.grad((x) => {
      const e = tf.exp(x);
      return tf.sum(addOver(e, tf.square(e)));
    })(tf.tensor1d([0, 1]));
    [0, 1].forEach((x, i) => {
      const exact = 2 * Math.exp(2 * x) + Math.exp(x);
      assert.ok(Math.abs(gradient.dataSync()[i]! - exact) < 1e-6 * exact);
    });
    assert.throws(() => addOver<tf.Tensor>(a, tf.scalar(1)), TypeError);
  });
});
