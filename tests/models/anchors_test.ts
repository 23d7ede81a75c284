import * as tf from "@tensorflow/tfjs";
import assert from "node:assert/strict";
import type { LayerGraph } from "../../lib/graph/mod.ts";
import { anchor, type AnchorName, anchors, type AnchorScale, parameterCount } from "../../lib/models/mod.ts";
import { stream, useBackend } from "../../lib/tensor/mod.ts";

await useBackend("wasm");

const scales: readonly AnchorScale[] = ["smoke", "laptop", "paper"];
const names = Object.keys(anchors) as AnchorName[];
const init = () => stream(0).child("init");

/** Multiplications of convolutions and matrix products while `f` runs. */
function multiplications(f: () => void): number {
  const engine = tf.engine() as unknown as { runKernelFunc(kernel: unknown): tf.Tensor | tf.Tensor[] };
  const run = engine.runKernelFunc;
  let sum = 0;
  engine.runKernelFunc = (kernel) => {
    const output = run.call(engine, kernel);
    const { kernelName, inputs } = kernel as { kernelName?: string; inputs: Record<string, tf.Tensor> };
    const { size } = [output].flat()[0]!;
    const [height = 1, width = 1, channels = 1] = inputs.filter?.shape ?? [];
    if (kernelName === "Conv2D") sum += size * height * width * channels;
    if (kernelName === "DepthwiseConv2dNative") sum += size * height * width;
    if (kernelName === "BatchMatMul") sum += size * inputs.a!.shape.at(-1)!;
    return output;
  };
  try {
    f();
  } finally {
    engine.runKernelFunc = run;
  }
  return sum;
}

for (const name of names) {
  for (const scale of scales) {
    Deno.test(`${name} at ${scale} scale has the parameters and multiplications that are stated`, () => {
      const form = anchors[name][scale];
      for (const layer of ["BN-ReLU", "EvoNorm-B0", "EvoNorm-S0"] as const) {
        const model = anchor(name, scale, layer, init());
        assert.equal(parameterCount(model), form.parameters[layer === "BN-ReLU" ? layer : "EvoNorm"]);
        if (layer === "EvoNorm-S0") {
          const count = multiplications(() =>
            tf.tidy(() => void model.forward(tf.zeros([1, 32, 32, 3]), false))
          );
          assert.equal(count, form.multiplications);
          assert.ok(model.parameters.every(({ kind }) => kind !== "statistic"), "batch-independent");
        }
        model.dispose();
      }
    });
  }

  Deno.test(`${name} takes any graph, other classes and other channels`, () => {
    // tanh(x / rms[bwh](v0 + x)), a graph that nobody published.
    const graph: LayerGraph = {
      nodes: [
        { op: "Add", inputs: [2, 0] },
        { op: "rms", inputs: [4], axes: "bwh" },
        { op: "Div", inputs: [0, 5] },
        { op: "Tanh", inputs: [6] },
      ],
    };
    const model = anchor(name, "smoke", graph, init(), { classes: 3, inputChannels: 1, norm: { groups: 4 } });
    const before = tf.memory().numTensors;
    const logits = tf.tidy(() => [...model.forward(tf.ones([2, 12, 12, 1]), true).dataSync()]);
    assert.equal(tf.memory().numTensors, before);
    assert.ok(logits.length === 6 && logits.every(Number.isFinite));
    assert.ok(model.parameters.some(({ name }) => name.endsWith("moving_mean_square_5")));
    model.dispose();
  });
}

Deno.test("an unknown anchor is refused", () => {
  assert.throws(() => anchor("vgg" as AnchorName, "smoke", "EvoNorm-S0", init()), {
    name: "RangeError",
    message:
      "Cannot build an anchor as 'name' must be one of resnet, mobilenet, efficientnet: current name is \"vgg\"",
  });
});
