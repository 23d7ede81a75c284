import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { type LayerGraph, published } from "../../lib/graph/mod.ts";
import { NormActivation, Parameters } from "../../lib/layers/mod.ts";
import { stream, useBackend, variableGradients } from "../../lib/tensor/mod.ts";
import { randomGraph } from "../compile/_random_graphs.ts";

await useBackend("wasm");

const shape: [number, number, number, number] = [3, 3, 4, 6];
const draws = stream(21);
const evaluations = ["compiled", "interpreted"] as const;
type Evaluation = typeof evaluations[number];

/** A layer with parameters that are not where they start, an input and an upstream gradient. */
function setUp(layer: string | LayerGraph, evaluation: Evaluation, nudge = 0) {
  const parameters = new Parameters();
  const norm = new NormActivation(layer, 6, parameters, { groups: 3, evaluation });
  for (const { name, variable, kind } of parameters.all) {
    const noise = draws.child(name).normal(6, 0, 0.2);
    const moved = kind === "statistic" ? noise.map(Math.abs) : noise;
    variable.assign(tf.tidy(() => tf.add(variable, tf.tensor1d(moved))));
  }
  const numbers = (name: string) => draws.child(name).normal(3 * 3 * 4 * 6);
  const nudges = numbers("nudge");
  const x = tf.tensor4d(numbers("x").map((value, at) => value * (1 + nudge * nudges[at]!)), shape);
  const dy = tf.tensor4d(numbers("dy"), shape);
  const trained = parameters.all.filter(({ kind }) => kind !== "statistic").map(({ variable }) => variable);
  const dispose = () => {
    parameters.dispose();
    tf.dispose([x, dy]);
  };
  return { norm, x, dy, trained, dispose };
}

/** The gradients of `f`, zeros where nothing depends on an input. */
function gradients(f: () => tf.Tensor, inputs: tf.Tensor[], dy?: tf.Tensor): tf.Tensor[] {
  const { grads } = tf.engine().gradients(f, inputs, dy, true);
  return inputs.map((input, index) => (grads[index] as tf.Tensor | undefined) ?? tf.zerosLike(input));
}

/** A weighted sum of all numbers of some gradients: its own gradients are one order higher. */
function weighted(all: readonly tf.Tensor[]): tf.Scalar {
  return tf.addN(all.map((gradient, index) => {
    const weights = draws.child(`weights ${index}`).normal(gradient.size);
    return tf.sum(tf.mul(gradient, tf.tensor(weights, gradient.shape)));
  }));
}

/** Gradients of order 2 or 3 to x, dy and the parameters; numbers of x may be moved by about `nudge` times themselves. */
function higher(
  layer: string | LayerGraph,
  evaluation: Evaluation,
  { training = true, order = 2, nudge = 0 }: { training?: boolean; order?: 2 | 3; nudge?: number } = {},
): number[][] {
  const { norm, x, dy, trained, dispose } = setUp(layer, evaluation, nudge);
  const results = tf.tidy(() => {
    const first = () => weighted(gradients(() => norm.apply(x, training), [x, ...trained], dy));
    const inputs = [x, dy, ...trained];
    const second = () => weighted(gradients(first, inputs));
    return gradients(order === 2 ? first : second, inputs).map((tensor) => [...tensor.dataSync()]);
  });
  dispose();
  return results;
}

/** By how much gradients differ at most, relative to the largest number of each; NaN where one is not finite. */
function difference(actual: number[][], reference: number[][]): number {
  return Math.max(...reference.map((values, index) => {
    const errors = values.map((value, at) => Math.abs(actual[index]![at]! - value));
    return Math.max(...errors) / Math.max(1e-3, ...values.map(Math.abs));
  }));
}

for (const name of Object.keys(published)) {
  Deno.test(`${name}: compiled gradients of gradients are the interpreter's`, () => {
    for (const training of [true, false]) {
      const [compiled, interpreted] = evaluations.map((evaluation) => higher(name, evaluation, { training }));
      // Float32 both, with operations in different orders through two derivatives.
      const error = difference(compiled!, interpreted!);
      assert.ok(error <= 1e-4, `${training ? "training" : "inference"}: ${error}`);
    }
  });
}

Deno.test("random graphs: compiled gradients of gradients are the interpreter's", () => {
  let compared = 0;
  for (let index = 0; index < 80; index++) {
    const graph = randomGraph(draws.child(`graph ${index}`));
    const [compiled, interpreted] = evaluations.map((evaluation) => higher(graph, evaluation));
    // Poles and differences amplify the last bits without bound: what they do to the reference, they may do to both.
    const sensitivity = difference(higher(graph, "interpreted", { nudge: 1e-7 }), interpreted!);
    if (!(sensitivity < 1e-4)) continue;
    compared++;
    const error = difference(compiled!, interpreted!);
    // A missing term would be of the size of the rest; tests/compile has tolerances for each output.
    assert.ok(error <= 1e-3 + 20 * sensitivity, `graph ${index}: ${error}, sensitivity ${sensitivity}`);
  }
  assert.ok(compared >= 40, `${compared} graphs compared`);
});

for (const name of ["EvoNorm-S0", "GN-SiLU"]) {
  Deno.test(`${name}: third derivatives are the interpreter's`, () => {
    const [compiled, interpreted] = evaluations.map((evaluation) => higher(name, evaluation, { order: 3 }));
    // Three derivatives in float32.
    const error = difference(compiled!, interpreted!);
    assert.ok(error <= 5e-4, String(error));
  });
}

Deno.test("a gradient of a gradient is made of three kernels, and leaves nothing behind", async () => {
  const { norm, x, dy, trained, dispose } = setUp("EvoNorm-S0", "compiled");
  const { numTensors } = tf.memory();
  const { kernelNames } = await tf.profile(() => {
    const first = () => tf.sum(gradients(() => norm.apply(x, true), [x], dy)[0]!);
    tf.tidy(() => void gradients(first, [x, dy, ...trained]));
  });
  const layers = kernelNames.filter((name) => name.startsWith("LayerGraph"));
  assert.deepEqual(layers.sort(), ["LayerGraph", "LayerGraphGradient", "LayerGraphSecondGradient"]);
  assert.ok(!kernelNames.includes("Sigmoid"), "nothing is interpreted");
  assert.equal(tf.memory().numTensors, numTensors);
  dispose();
});

Deno.test("gradients of gradients are the same where what was recorded goes as they are computed", () => {
  for (const name of ["EvoNorm-S0", "EvoNorm-B0"]) {
    const { norm, x, dy, trained, dispose } = setUp(name, "compiled");
    // Linear in y, so that the forward kernel is of no use to the outer gradient but for what it has saved.
    const first = () => tf.sum(gradients(() => norm.apply(x, true), [x], dy)[0]!) as tf.Scalar;
    const [swept, whole] = [variableGradients, tf.variableGrads].map((method) =>
      tf.tidy(() => {
        const { grads } = method(first, trained);
        return trained.map((variable) => [...(grads[variable.name] ?? tf.zerosLike(variable)).dataSync()]);
      })
    );
    assert.deepEqual(swept, whole);
    assert.ok(swept!.flat().some((value) => value !== 0));
    dispose();
  }
});

for (const name of ["EvoNorm-S0", "BN-SiLU", "GN-SiLU"]) {
  Deno.test(`${name}: second derivatives are differences of first ones`, () => {
    const { norm, x, dy, trained, dispose } = setUp(name, "compiled");
    const first = (image: tf.Tensor4D) =>
      weighted(gradients(() => norm.apply(image, true), [image, ...trained], dy));
    const direction = tf.tensor4d(draws.child("direction").normal(x.size), shape);
    const along = (step: number) => tf.tidy(() => first(tf.add(x, tf.mul(direction, step))).dataSync()[0]!);
    const step = 5e-3;
    const numeric = (along(step) - along(-step)) / (2 * step);
    const exact = tf.tidy(() => tf.sum(tf.mul(gradients(() => first(x), [x])[0]!, direction)).dataSync()[0]!);
    // Truncation by step^2 times a third derivative, and the rounding of a sum of 432 numbers over the step.
    assert.ok(
      Math.abs(numeric - exact) <= 5e-3 * Math.max(1, Math.abs(exact)),
      `${numeric}, not ${exact}`,
    );
    direction.dispose();
    dispose();
  });
}
