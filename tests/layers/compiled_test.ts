import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { type LayerGraph, published } from "../../lib/graph/mod.ts";
import { NormActivation, Parameters } from "../../lib/layers/mod.ts";
import { stream, useBackend } from "../../lib/tensor/mod.ts";

await useBackend("wasm");

const shape: [number, number, number, number] = [2, 3, 4, 6];
const draws = stream(3);
const noise = (name: string, size = 2 * 3 * 4 * 6) => draws.child(name).normal(size);

/** n(theta) = |d sum(y w) / d theta| over x, gamma and beta, and its gradient to them: what the stability test ascends. */
function gradientOfGradientNorm(
  layer: string | LayerGraph,
  evaluation: "compiled" | "interpreted",
): number[][] {
  const parameters = new Parameters();
  const norm = new NormActivation(layer, 6, parameters, { groups: 3, evaluation });
  const trained = parameters.all.filter(({ kind }) => kind !== "statistic");
  const results = tf.tidy(() => {
    const x = tf.tensor4d(noise("x"), shape), weights = tf.tensor4d(noise("w"), shape);
    // The layer's parameters are variables of its own, so they take part through closures: x is what we differentiate to.
    const loss = (t: tf.Tensor) => tf.sum(tf.mul(tf.square(norm.apply(t as tf.Tensor4D, true)), weights));
    const gradientNorm = (t: tf.Tensor) => tf.sum(tf.square(tf.grad(loss)(t)));
    const { grads, value } = tf.variableGrads(
      () => gradientNorm(x) as tf.Scalar,
      trained.map(({ variable }) => variable),
    );
    return [value, tf.grad(gradientNorm)(x), ...trained.map(({ variable }) => grads[variable.name]!)].map((
      tensor,
    ) => [...tensor.dataSync()]);
  });
  parameters.dispose();
  return results;
}

for (const name of ["EvoNorm-B0", "EvoNorm-S0", "BN-ReLU", "GN-SiLU", "FRN-TLU"]) {
  Deno.test(`${name}, compiled: the second derivative is the interpreter's`, () => {
    const [compiled, interpreted] = (["compiled", "interpreted"] as const).map((evaluation) =>
      gradientOfGradientNorm(name, evaluation)
    );
    interpreted!.forEach((values, index) => {
      const scale = Math.max(...values.map(Math.abs));
      assert.ok(Number.isFinite(scale));
      values.forEach((value, at) => {
        // First derivatives differ in their last bits, and are squared and differentiated again.
        const error = Math.abs(compiled![index]![at]! - value);
        assert.ok(error <= 2e-4 * scale, `output ${index} at ${at}: ${error} of ${scale}`);
      });
    });
  });
}

Deno.test("compiled layers keep the moving moments that interpreted ones keep", () => {
  for (const { name } of Object.values(published)) {
    const [compiled, interpreted] = (["compiled", "interpreted"] as const).map((evaluation) => {
      const parameters = new Parameters();
      const norm = new NormActivation(name, 6, parameters, { groups: 3, evaluation });
      tf.tidy(() => norm.apply(tf.tensor4d(noise("x"), shape), true));
      const statistics = parameters.all.filter(({ kind }) => kind === "statistic");
      const values = statistics.map(({ name, variable }) => [name, [...variable.dataSync()]] as const);
      parameters.dispose();
      return values;
    });
    assert.deepEqual(compiled!.map(([name]) => name), interpreted!.map(([name]) => name));
    compiled!.forEach(([, values], index) =>
      values.forEach((value, at) => assert.ok(Math.abs(value - interpreted![index]![1][at]!) < 1e-6))
    );
  }
});

Deno.test("10,000 distinct graphs, forward and backward, leave nothing behind", () => {
  const script = fileURLToPath(new URL("./_many_graphs.ts", import.meta.url));
  const { stdout, stderr, status } = spawnSync(
    process.execPath,
    ["run", "-A", "--no-check", "--v8-flags=--expose-gc", script, "10000"],
    {
      encoding: "utf8",
    },
  );
  assert.equal(status, 0, stderr);
  const { tensors, heap, residentMib } = JSON.parse(stdout);
  assert.deepEqual({ tensors, heap }, { tensors: 0, heap: 0 });
  // A module and its machine code take some 20 kB, so 5,000 kept ones would be 100 MB.
  assert.ok(residentMib < 60, `${residentMib.toFixed(0)} MiB more after the second half`);
});
