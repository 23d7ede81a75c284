import assert from "node:assert/strict";
import * as tf from "@tensorflow/tfjs";
import { winogradConvolution } from "../../lib/convolution/mod.ts";
import { embeddedEngine } from "../../lib/tensor/_convolution_embedded.ts";
import type { ConvolutionEngine } from "../../lib/tensor/_convolution_engine.ts";
import { convolutionEngines, useConvolutionEngines } from "../../lib/tensor/_convolution_engines.ts";
import { useBackend, wasmHeap } from "../../lib/tensor/mod.ts";
import { draw, geometries, PRODUCTS, relativeError, TOLERANCE } from "../convolution/_cases.ts";
import * as reference from "../convolution/_reference.ts";
import { type Convolution, describe, outputShape } from "../convolution/_reference.ts";

function onWasm(name: string, test: () => void): void {
  Deno.test({
    name: `wasm: ${name}`,
    // The backend lives as long as the process.
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      await useBackend("wasm");
      test();
    },
  });
}

/** The convolution and its gradients through TensorFlow.js. */
function throughTensorflow(convolution: Convolution): Float32Array[] {
  const { depthwise, input, filter, strides, dilations, pad } = convolution;
  const values = draw(convolution);
  const apply = (x: tf.Tensor, w: tf.Tensor) =>
    depthwise
      ? tf.depthwiseConv2d(x as tf.Tensor4D, w as tf.Tensor4D, strides, pad, "NHWC", dilations)
      : tf.conv2d(x as tf.Tensor4D, w as tf.Tensor4D, strides, pad, "NHWC", dilations);
  return tf.tidy(() => {
    const [x, w] = [tf.tensor4d(values.x, input), tf.tensor4d(values.w, filter)];
    const dy = tf.tensor4d(values.dy, outputShape(convolution));
    const gradients = tf.grads((x, w) => tf.sum(tf.mul(apply(x!, w!), dy)))([x, w]);
    return [apply(x, w), ...gradients].map((tensor) => tensor.dataSync() as Float32Array);
  });
}

/** Largest errors of the three products relative to the largest values, through TensorFlow.js. */
function errorsThroughTensorflow(convolution: Convolution): number[] {
  const { x, w, dy } = draw(convolution);
  const expected = [
    reference.output(convolution, x, w),
    reference.inputGradient(convolution, dy, w),
    reference.filterGradient(convolution, x, dy),
  ];
  return throughTensorflow(convolution).map((found, at) => relativeError(found, expected[at]!));
}

onWasm("the errors of Winograd convolutions are within 4 times those of TensorFlow.js's sums", () => {
  const convolution: Convolution = {
    depthwise: false,
    input: [4, 16, 16, 32],
    filter: [3, 3, 32, 32],
    strides: [1, 1],
    dilations: [1, 1],
    pad: "same",
  };
  const before = convolutionEngines();
  try {
    const [theirs, ours] = [[], [embeddedEngine(undefined, [winogradConvolution])]].map((engines) => {
      useConvolutionEngines(engines);
      return errorsThroughTensorflow(convolution);
    }) as [number[], number[]];
    PRODUCTS.forEach((product, at) =>
      assert.ok(ours[at]! <= 4 * theirs[at]!, `${product}: ${ours[at]} beside ${theirs[at]}`)
    );
  } finally {
    useConvolutionEngines(before);
  }
});

onWasm(
  "the first engine that takes a convolution computes it, TensorFlow.js's operations what none takes",
  () => {
    const asked: string[] = [];
    const naming = (name: string, engine: ConvolutionEngine | null): ConvolutionEngine => ({
      name,
      prepare(product, geometry) {
        asked.push(name);
        return engine?.prepare(product, geometry) ?? null;
      },
    });
    const before = convolutionEngines();
    try {
      for (const depthwise of [false, true]) {
        for (const convolution of geometries("engines", 40, { depthwise }, [3, 8])) {
          if (convolution.dilations.some((step) => step > 1)) convolution.strides = [1, 1];
          useConvolutionEngines([]);
          const composed = throughTensorflow(convolution);
          useConvolutionEngines([naming("first", null), naming("second", embeddedEngine())]);
          asked.length = 0;
          const computed = throughTensorflow(convolution);
          assert.deepEqual(new Set(asked), new Set(["first", "second"]));
          composed.forEach((values, at) => {
            const error = relativeError(computed[at]!, values);
            assert.ok(error <= 2 * TOLERANCE, `${PRODUCTS[at]} of ${describe(convolution)}: off by ${error}`);
          });
        }
      }
    } finally {
      useConvolutionEngines(before);
    }
  },
);

onWasm("hundreds of geometries and thousands of calls leave nothing behind", () => {
  const before = convolutionEngines();
  useConvolutionEngines([embeddedEngine()]);
  const heapBytes = () => wasmHeap.memory.buffer.byteLength;
  const step = (width: number) => {
    for (const depthwise of [false, true]) {
      throughTensorflow({
        depthwise,
        input: [2, 9, width, 8],
        filter: [3, 3, 8, depthwise ? 1 : 8],
        strides: [1, 1],
        dilations: [1, 1],
        pad: "same",
      });
    }
  };
  const widest = 150;
  try {
    step(widest);
    const [tensors, heap] = [tf.memory(), heapBytes()];
    // More products, 6 a step, than are kept.
    for (let width = 3; width <= widest; width++) step(width);
    for (let repeat = 0; repeat < 200; repeat++) step(10);
    assert.equal(tf.memory().numTensors, tensors.numTensors);
    assert.equal(tf.memory().numDataBuffers, tensors.numDataBuffers);
    assert.equal(heapBytes(), heap);
  } finally {
    useConvolutionEngines(before);
  }
});
