import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { useBackend } from "../../lib/tensor/mod.ts";

await useBackend("wasm");

/** The kernel itself: `tf.cast` does not reach it where the types agree, the gradient of a clone does. */
const cast = (x: tf.Tensor, dtype: tf.DataType): tf.Tensor =>
  tf.engine().runKernel("Cast", { x }, { dtype }) as tf.Tensor;

Deno.test("a cast to the same type shares the data, which live as long as either tensor", () => {
  const x = tf.tensor1d([1.5, -2, 3]);
  const buffers = tf.memory().numDataBuffers;
  const y = cast(x, "float32");
  assert.equal(tf.memory().numDataBuffers, buffers);
  x.dispose();
  tf.tidy(() => void tf.fill([3], 9));
  assert.deepEqual([...y.dataSync()], [1.5, -2, 3]);
  y.dispose();
  assert.ok(tf.memory().numDataBuffers < buffers);
});

Deno.test("a cast to another type converts", () => {
  tf.tidy(() => {
    const y = cast(tf.tensor1d([1.5, -2, 3]), "int32");
    assert.equal(y.dtype, "int32");
    assert.deepEqual([...y.dataSync()], [1, -2, 3]);
  });
});
