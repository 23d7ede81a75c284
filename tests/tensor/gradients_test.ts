/**
 * The gradients that the kit relies on, of odd shapes and broadcast: a backend against TensorFlow.js's
 * kernels in JavaScript.
 */
import assert from "node:assert/strict";
import * as tf from "@tensorflow/tfjs";
import { availableBackends, type BackendName, stream, useBackend } from "../../lib/tensor/mod.ts";

type Operation = (...inputs: tf.Tensor[]) => tf.Tensor;
type Shape = number[];

interface Case {
  name: string;
  operation: Operation;
  shapes: Shape[];
}

const image: Shape = [2, 3, 5, 7];
const pairs: [Shape, Shape][] = [
  [image, image],
  [image, [7]],
  [image, []],
  [image, [1, 1, 1, 7]],
  [image, [2, 1, 1, 7]],
  [image, [2, 1, 1, 1]],
  [image, [1, 3, 5, 1]],
  [[2, 3, 1, 7], [1, 1, 5, 7]],
  [[7], image],
  [[], [3]],
  [[1, 1, 1, 1], image],
];
const positive = (x: tf.Tensor) => tf.add(tf.abs(x), 0.3);
const binary: Record<string, Operation> = {
  add: (a, b) => tf.add(a!, b!),
  sub: (a, b) => tf.sub(a!, b!),
  mul: (a, b) => tf.mul(a!, b!),
  div: (a, b) => tf.div(a!, positive(b!)),
  maximum: (a, b) => tf.maximum(a!, b!),
  minimum: (a, b) => tf.minimum(a!, b!),
};
const unary: Record<string, (x: tf.Tensor) => tf.Tensor> = {
  neg: tf.neg,
  sigmoid: tf.sigmoid,
  tanh: tf.tanh,
  exp: tf.exp,
  log: (x) => tf.log(positive(x)),
  abs: tf.abs,
  square: tf.square,
  sqrt: (x) => tf.sqrt(positive(x)),
  rsqrt: (x) => tf.rsqrt(positive(x)),
  relu: tf.relu,
  softmax: (x) => tf.softmax(x),
  logSoftmax: (x) => tf.logSoftmax(x),
  clip: (x) => tf.clipByValue(x, -0.5, 0.5),
  transpose: (x) => tf.transpose(x),
};
type Reduction = (x: tf.Tensor, axes?: number[], keepDims?: boolean) => tf.Tensor;
const reductions: Record<string, Reduction> = { sum: tf.sum, mean: tf.mean, max: tf.max, min: tf.min };
const axes = [undefined, [0], [1], [2], [3], [1, 2], [0, 1, 2], [1, 2, 3], [0, 3], [0, 1, 2, 3]];
const labels = () => tf.oneHot(tf.tensor1d([0, 2, 6], "int32"), 7);

const cases: Case[] = [
  ...Object.entries(binary).flatMap(([name, operation]) =>
    pairs.map((shapes) => ({ name, operation, shapes }))
  ),
  ...Object.entries(unary).flatMap(([name, operation]) =>
    [image, [7], [1], [3, 1], [13, 5]].map((shape) => ({
      name,
      operation: operation as Operation,
      shapes: [shape],
    }))
  ),
  ...Object.entries(reductions).flatMap(([name, reduce]) =>
    axes.flatMap((axes) =>
      [true, false].map((keep) => ({
        name: `${name} over ${axes ?? "all"}, ${keep ? "kept" : "dropped"}`,
        operation: ((x) => reduce(x!, axes, keep)) as Operation,
        shapes: [image],
      }))
    )
  ),
  { name: "broadcastTo", operation: (x) => tf.broadcastTo(x!, image), shapes: [[1, 3, 1, 7]] },
  { name: "pad", operation: (x) => tf.pad(x!, [[1, 0], [1, 2], [0, 3], [2, 0]]), shapes: [image] },
  { name: "slice", operation: (x) => tf.slice(x!, [0, 1, 2, 3], [2, 2, 1, 3]), shapes: [image] },
  { name: "concat", operation: (a, b) => tf.concat([a!, b!], 3), shapes: [image, [2, 3, 5, 2]] },
  { name: "stack", operation: (a, b) => tf.stack([a!, b!], 1), shapes: [image, image] },
  { name: "reverse", operation: (x) => tf.reverse(x!, [1, 2]), shapes: [image] },
  { name: "matMul", operation: (a, b) => tf.matMul(a!, b!), shapes: [[3, 5], [5, 7]] },
  { name: "matMul, a transposed", operation: (a, b) => tf.matMul(a!, b!, true), shapes: [[5, 3], [5, 7]] },
  {
    name: "matMul, b transposed",
    operation: (a, b) => tf.matMul(a!, b!, false, true),
    shapes: [[3, 5], [7, 5]],
  },
  { name: "matMul of batches", operation: (a, b) => tf.matMul(a!, b!), shapes: [[2, 3, 4, 5], [2, 3, 5, 7]] },
  {
    name: "softmax cross entropy",
    operation: (x) => tf.losses.softmaxCrossEntropy(labels(), x!, undefined, 0.1),
    shapes: [[3, 7]],
  },
];

/** The value and the gradients of sum(y * dy). */
function differentiate({ operation, shapes }: Case, index: number): Float32Array[] {
  const draws = stream("gradients").child(index);
  const draw = (name: string | number, shape: Shape) =>
    tf.tensor(draws.child(name).normal(shape.reduce((product, size) => product * size, 1)), shape);
  return tf.tidy(() => {
    const inputs = shapes.map((shape, i) => draw(i, shape));
    const y = operation(...inputs);
    const dy = draw("dy", y.shape);
    const gradients = tf.grads((...inputs) => tf.sum(tf.mul(operation(...inputs), dy)))(inputs);
    gradients.forEach((gradient, i) => assert.deepEqual(gradient.shape, shapes[i]));
    return [y, ...gradients].map((tensor) => tensor.dataSync() as Float32Array);
  });
}

const available = await availableBackends();
for (const name of ["wasm", "tensorflow"] as BackendName[]) {
  const reason = available.get(name) ?? null;
  if (reason !== null) console.log(`skipped on ${name}: ${reason}`);
  Deno.test({
    name: `${name}: the gradients of ${cases.length} operations and shapes`,
    ignore: reason !== null,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      await useBackend(name); // registers what both sides of the comparison use
      await tf.setBackend("cpu");
      const expected = cases.map(differentiate);
      await useBackend(name);
      for (const [i, example] of cases.entries()) {
        const title = `${example.name} of ${JSON.stringify(example.shapes)}`;
        const found = differentiate(example, i);
        found.forEach((values, j) => {
          const peer = expected[i]![j]!;
          const scale = peer.reduce((largest, value) => Math.max(largest, Math.abs(value)), 1);
          assert.equal(values.length, peer.length);
          for (const [k, value] of values.entries()) {
            // Float32 sums of 210 terms in another order, and other approximations of exp and tanh.
            assert.ok(Math.abs(value - peer[k]!) <= 1e-5 * scale, `${title}: ${value} instead of ${peer[k]}`);
          }
        });
      }
    },
  });
}
