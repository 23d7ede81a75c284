import assert from "node:assert/strict";
import * as tf from "@tensorflow/tfjs";
import { relaxedSimd } from "../../lib/wasm/mod.ts";
import { depthwiseConvolution } from "../../lib/tensor/_convolution_depthwise.ts";
import { directConvolution } from "../../lib/tensor/_convolution_direct.ts";
import { embeddedEngine } from "../../lib/tensor/_convolution_embedded.ts";
import type {
  ConvolutionEngine,
  ConvolutionGeometry,
  ConvolutionProduct,
} from "../../lib/tensor/_convolution_engine.ts";
import { convolutionEngines, useConvolutionEngines } from "../../lib/tensor/_convolution_engines.ts";
import { convolutionAxes } from "../../lib/tensor/_convolution_window.ts";
import { stridedWinogradConvolution } from "../../lib/tensor/_convolution_strided.ts";
import { winogradConvolution } from "../../lib/tensor/_convolution_winograd.ts";
import { stream, useBackend, wasmHeap } from "../../lib/tensor/mod.ts";
import * as reference from "./_convolution_reference.ts";
import { type Convolution, describe, outputShape, type Pair } from "./_convolution_reference.ts";

/** Float32 sums of up to some thousand products of normal numbers: several times their rounding, relative to the largest value. */
const TOLERANCE = 3e-6;

/** The same for Winograd convolutions, whose largest error is up to twice as large. */
const WINOGRAD_TOLERANCE = 6e-6;

const PRODUCTS: readonly ConvolutionProduct[] = ["forward", "inputGradient", "filterGradient"];
const GUARD = 16;
const MARK = 777;

const elements = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);

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

function geometryOf(convolution: Convolution): ConvolutionGeometry {
  const { depthwise, input, filter, strides, dilations, pad } = convolution;
  return {
    kind: depthwise ? "depthwise" : "regular",
    batch: input[0],
    axes: convolutionAxes(input, filter, { strides, dilations, pad }, depthwise),
    channels: input[3],
    outputs: outputShape(convolution)[3],
  };
}

/** The largest difference relative to the largest value; infinite for NaN. */
function relativeError(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  assert.equal(found.length, expected.length);
  let [worst, scale] = [0, 1];
  for (let at = 0; at < expected.length; at++) {
    const error = Math.abs(found[at]! - expected[at]!);
    worst = Number.isNaN(error) ? Infinity : Math.max(worst, error);
    scale = Math.max(scale, Math.abs(expected[at]!));
  }
  return worst / scale;
}

function draw(convolution: Convolution): { x: Float32Array; w: Float32Array; dy: Float32Array } {
  const draws = stream("kernels").child(describe(convolution));
  return {
    x: draws.child("x").normal(elements(convolution.input)),
    w: draws.child("w").normal(elements(convolution.filter)),
    dy: draws.child("dy").normal(elements(outputShape(convolution))),
  };
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

/**
 * The largest error of a product by an engine, relative to the largest value; undefined if the engine does not take it. The result
 * must fill its tensor and leave what lies around it alone.
 */
function errorOf(
  engine: ConvolutionEngine,
  product: ConvolutionProduct,
  convolution: Convolution,
): number | undefined {
  const run = engine.prepare(product, geometryOf(convolution));
  if (run === null) return undefined;
  const { x, w, dy } = draw(convolution);
  const target = ({ forward: "output", inputGradient: "input", filterGradient: "filter" } as const)[product];
  const expected = {
    forward: () => reference.output(convolution, x, w),
    inputGradient: () => reference.inputGradient(convolution, dy, w),
    filterGradient: () => reference.filterGradient(convolution, x, dy),
  }[product]();
  const place = (values: Float32Array) => {
    const address = wasmHeap.allocate(4 * (values.length + 2 * GUARD));
    const block = new Float32Array(wasmHeap.memory.buffer, address, values.length + 2 * GUARD).fill(MARK);
    block.set(values, GUARD);
    return address;
  };
  const blocks = { input: place(x), filter: place(w), output: place(dy) };
  new Float32Array(wasmHeap.memory.buffer, blocks[target] + 4 * GUARD, expected.length).fill(NaN);
  run({
    input: blocks.input + 4 * GUARD,
    filter: blocks.filter + 4 * GUARD,
    output: blocks.output + 4 * GUARD,
  });
  const block = new Float32Array(wasmHeap.memory.buffer, blocks[target], expected.length + 2 * GUARD).slice();
  Object.values(blocks).forEach((address) => wasmHeap.free(address));
  const around = [...block.subarray(0, GUARD), ...block.subarray(GUARD + expected.length)];
  assert.ok(around.every((value) => value === MARK), `${product} of ${describe(convolution)} writes outside`);
  return relativeError(block.subarray(GUARD, GUARD + expected.length), expected);
}

/** Random geometries in which the filter fits. */
function* geometries(
  name: string,
  count: number,
  change: Partial<Convolution>,
  channels: readonly number[],
): Generator<Convolution> {
  const draws = stream("geometries").child(name);
  for (let index = 0; index < count; index++) {
    const draw = draws.child(`${index}`);
    const pick = (what: string, most: number) => draw.child(what).integers(1, most)[0]!;
    const [c, d] = ["c", "d"].map((what) => channels[pick(what, channels.length)]!) as [number, number];
    const kernel: Pair = [1 + pick("kh", 5), 1 + pick("kw", 5)];
    const margins = ["top", "bottom", "left", "right"].map((what) => pick(what, 4));
    const dilated = pick("dilated", 3) === 0;
    const depthwise = change.depthwise ?? false;
    const reach = 18 * (change.strides?.[0] ?? 1);
    const convolution: Convolution = {
      depthwise,
      input: [1 + pick("n", 5), 1 + pick("h", reach), 1 + pick("w", reach), c],
      filter: [...(pick("one", 5) === 0 ? [1, 1] as Pair : kernel), c, depthwise ? 1 : d],
      strides: [1 + pick("sh", 3), 1 + pick("sw", 3)],
      dilations: dilated ? [1 + pick("dh", 3), 1 + pick("dw", 3)] : [1, 1],
      pad:
        (["same", "valid", [[0, 0], margins.slice(0, 2), margins.slice(2), [0, 0]]] as Convolution["pad"][])[
          pick("pad", 3)
        ]!,
      ...change.strides ? { strides: change.strides, dilations: [1, 1] } : {},
    };
    if (change.filter) convolution.filter = [3, 3, c, d];
    if (outputShape(convolution).every((size) => size > 0)) yield convolution;
  }
}

const CHANNELS = [1, 3, 5, 17, 4, 8, 12, 7, 16, 22];

for (const relaxed of [true, false]) {
  const simd = relaxed ? "relaxed SIMD" : "plain SIMD";
  if (relaxed && !relaxedSimd()) {
    console.log(`skipped: this engine has no ${simd}`);
    continue;
  }
  for (const depthwise of [false, true]) {
    onWasm(`${depthwise ? "depthwise" : "regular"} convolutions of any geometry, ${simd}`, () => {
      const engine = embeddedEngine(relaxed, [depthwise ? depthwiseConvolution : directConvolution]);
      let compared = 0;
      for (const convolution of geometries(`${depthwise}`, 150, { depthwise }, CHANNELS)) {
        for (const product of PRODUCTS) {
          const error = errorOf(engine, product, convolution);
          assert.ok(error! <= TOLERANCE, `${product} of ${describe(convolution)}: off by ${error}`);
          compared++;
        }
      }
      assert.ok(compared > 200, `${compared}`);
    });
  }

  for (const [stride, generator] of [[1, winogradConvolution], [2, stridedWinogradConvolution]] as const) {
    onWasm(`Winograd convolutions of stride ${stride}, ${simd}`, () => {
      const engine = embeddedEngine(relaxed, [generator]);
      const change: Partial<Convolution> = { strides: [stride, stride], filter: [3, 3, 0, 0] };
      let compared = 0;
      for (const convolution of geometries(`stride ${stride}`, 80, change, [8, 12, 16, 20, 36])) {
        for (const product of PRODUCTS) {
          const error = errorOf(engine, product, convolution);
          if (error === undefined) continue;
          assert.ok(error <= WINOGRAD_TOLERANCE, `${product} of ${describe(convolution)}: off by ${error}`);
          compared++;
        }
      }
      assert.ok(compared > 60, `${compared}`);
    });
  }
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

/** Matrix products of more pixels than one strip, tiles of every height, channels beyond a block: what small images do not reach. */
const LARGE: readonly Convolution[] = [
  { input: [3, 13, 11, 24], filter: [1, 1, 24, 20] },
  { input: [2, 20, 33, 9], filter: [1, 1, 9, 13], strides: [2, 2] as Pair },
  { input: [5, 30, 31, 12], filter: [3, 3, 12, 10], strides: [2, 2] as Pair },
  { input: [1, 40, 40, 33], filter: [5, 3, 33, 18] },
  { input: [2, 33, 35, 20], filter: [3, 3, 20, 1], depthwise: true },
  { input: [2, 30, 31, 6], filter: [7, 7, 6, 1], depthwise: true, strides: [2, 2] as Pair },
].map((sizes) => ({
  depthwise: false,
  strides: [1, 1],
  dilations: [1, 1],
  pad: "same",
  ...sizes as Pick<Convolution, "input" | "filter">,
}));

onWasm("larger convolutions", () => {
  for (const convolution of LARGE) {
    for (const product of PRODUCTS) {
      const error = errorOf(embeddedEngine(), product, convolution);
      assert.ok(error! <= WINOGRAD_TOLERANCE, `${product} of ${describe(convolution)}: off by ${error}`);
    }
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
