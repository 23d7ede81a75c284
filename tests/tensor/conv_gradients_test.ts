import assert from "node:assert/strict";
import * as tf from "@tensorflow/tfjs";
import {
  availableBackends,
  type BackendName,
  registerConvolutionGradients,
  stream,
  useBackend,
} from "../../lib/tensor/mod.ts";
import * as reference from "../convolution/_reference.ts";
import {
  type Convolution,
  describe,
  differences,
  outputShape,
  type Padding,
  type Pair,
} from "../convolution/_reference.ts";

/**
 * Float32 sums of up to a few hundred products of normal numbers, in any order, against float64: 1e-5 of the
 * largest value is several times the rounding error.
 */
const TOLERANCE = 1e-5;

const both = (n: number): Pair => [n, n];
const kernels: Pair[] = [both(1), both(2), both(3), both(5), both(7), [3, 1], [1, 4]];
const paddings: Padding[] = ["same", "valid", 1, 3, [both(0), [2, 0], [0, 3], both(0)]];
/** TensorFlow takes strides or dilations, not both. */
const steps: [strides: Pair, dilations: Pair][] = [
  [both(1), both(1)],
  [both(2), both(1)],
  [both(3), both(1)],
  [[2, 1], both(1)],
  [[1, 4], both(1)],
  [both(1), both(2)],
  [both(1), [1, 3]],
];
/** Batch, height, width, input channels, output channels; depthwise takes the last as the multiplier. */
const sizes: [number, number, number, number, number][] = [[1, 7, 5, 1, 1], [2, 8, 9, 3, 5], [3, 6, 6, 4, 2]];

/** Every combination in which the filter fits. */
function convolutions(depthwise: boolean): Convolution[] {
  const found: Convolution[] = [];
  for (const kernel of kernels) {
    for (const pad of paddings) {
      for (const [strides, dilations] of steps) {
        for (const [n, h, w, c, d] of sizes) {
          const filter: Convolution["filter"] = [...kernel, c, depthwise ? Math.min(d, 3) : d];
          const convolution = {
            depthwise,
            input: [n, h, w, c],
            filter,
            strides,
            dilations,
            pad,
          } as Convolution;
          // TensorFlow.js gets the output's shape wrong otherwise.
          const alike = kernel[0] === kernel[1] && strides[0] === strides[1] && dilations[0] === dilations[1];
          if (typeof pad === "number" && !alike) continue;
          if (outputShape(convolution).every((size) => size > 0)) found.push(convolution);
        }
      }
    }
  }
  return found;
}

interface Values {
  x: Float32Array;
  filter: Float32Array;
  dy: Float32Array;
}

function draw(convolution: Convolution): Values {
  const draws = stream("convolution").child(describe(convolution));
  const normal = (name: string, shape: readonly number[]) =>
    draws.child(name).normal(shape.reduce((product, size) => product * size, 1));
  return {
    x: normal("x", convolution.input),
    filter: normal("filter", convolution.filter),
    dy: normal("dy", outputShape(convolution)),
  };
}

/** The convolution by TensorFlow.js. */
function apply(
  { strides, pad, dilations, depthwise }: Convolution,
  x: tf.Tensor4D,
  filter: tf.Tensor4D,
): tf.Tensor4D {
  return depthwise
    ? tf.depthwiseConv2d(x, filter, strides, pad, "NHWC", dilations)
    : tf.conv2d(x, filter, strides, pad, "NHWC", dilations);
}

/** The gradients of sum(y * dy), by TensorFlow.js. */
function gradients(
  convolution: Convolution,
  { x, filter, dy }: Values,
): { dx: Float32Array; dw: Float32Array } {
  return tf.tidy(() => {
    const upstream = tf.tensor4d(dy, outputShape(convolution));
    const [dx, dw] = tf.grads((x, filter) =>
      tf.sum(tf.mul(apply(convolution, x as tf.Tensor4D, filter as tf.Tensor4D), upstream))
    )([tf.tensor4d(x, convolution.input), tf.tensor4d(filter, convolution.filter)]);
    assert.deepEqual(dx!.shape, convolution.input);
    assert.deepEqual(dw!.shape, convolution.filter);
    return { dx: dx!.dataSync() as Float32Array, dw: dw!.dataSync() as Float32Array };
  });
}

function assertClose(
  found: ArrayLike<number>,
  expected: ArrayLike<number>,
  what: string,
  tolerance = TOLERANCE,
): void {
  assert.equal(found.length, expected.length, what);
  let scale = 1;
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    scale = Math.max(scale, Math.abs(expected[i]!));
    // Not Math.max alone, in which NaN could hide behind a comparison.
    const error = Math.abs(found[i]! - expected[i]!);
    worst = Number.isNaN(error) ? Infinity : Math.max(worst, error);
  }
  assert.ok(worst <= tolerance * scale, `${what}: off by ${worst} at values up to ${scale}`);
}

function assertGradients(convolution: Convolution): void {
  const values = draw(convolution);
  const { dx, dw } = gradients(convolution, values);
  const title = describe(convolution);
  assertClose(dx, reference.inputGradient(convolution, values.dy, values.filter), `dx of ${title}`);
  assertClose(dw, reference.filterGradient(convolution, values.x, values.dy), `dw of ${title}`);
}

/** The backends live as long as the process. */
function testOn(backend: BackendName | "cpu", reason: string | null, title: string, test: () => void): void {
  if (reason !== null) console.log(`skipped on ${backend}: ${reason}`);
  Deno.test({
    name: `${backend}: ${title}`,
    ignore: reason !== null,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      if (backend === "cpu") await tf.setBackend("cpu");
      else await useBackend(backend);
      test();
    },
  });
}

const onWasm = (title: string, test: () => void) => testOn("wasm", null, title, test);
const available = await availableBackends();
// TensorFlow.js's own kernels in JavaScript, and the native ones: peers of the gradients registered here.
const everywhere: [BackendName | "cpu", string | null][] = [
  ["wasm", null],
  ["cpu", null],
  ["tensorflow", available.get("tensorflow") ?? null],
];

Deno.test("the reference gradients are those of its convolution by finite differences", () => {
  for (const depthwise of [false, true]) {
    const convolution: Convolution = {
      depthwise,
      input: [2, 5, 4, 2],
      filter: [3, 2, 2, 3],
      strides: [2, 1],
      dilations: [1, 1],
      pad: "same",
    };
    for (const change of [{}, { strides: both(1), dilations: [1, 2] as Pair, pad: 1 }]) {
      const changed = { ...convolution, ...change };
      const { x, filter, dy } = draw(changed);
      const loss = (x: ArrayLike<number>, filter: ArrayLike<number>) =>
        reference.output(changed, x, filter).reduce((sum, y, i) => sum + y * dy[i]!, 0);
      const dx = differences((x) => loss(x, filter), x);
      const dw = differences((filter) => loss(x, filter), filter);
      assertClose(reference.inputGradient(changed, dy, filter), dx, "dx", 1e-9);
      assertClose(reference.filterGradient(changed, x, dy), dw, "dw", 1e-9);
    }
  }
});

for (const depthwise of [false, true]) {
  const all = convolutions(depthwise);
  const title = `${depthwise ? "depthwise " : ""}convolution`;
  onWasm(`the forward ${title} is that of the reference`, () => {
    for (const convolution of all) {
      const { x, filter } = draw(convolution);
      const y = tf.tidy(() =>
        apply(convolution, tf.tensor4d(x, convolution.input), tf.tensor4d(filter, convolution.filter))
          .dataSync()
      );
      assertClose(y, reference.output(convolution, x, filter), describe(convolution));
    }
  });
  for (const [backend, reason] of everywhere) {
    testOn(backend, reason, `gradients of a ${title}, ${all.length} combinations`, () => {
      // Native kernels take padding by numbers in no convolution, only as explicit pairs, and equal strides
      // in depthwise ones.
      const native = ({ pad, strides }: Convolution) =>
        typeof pad !== "number" && (!depthwise || (typeof pad === "string" && strides[0] === strides[1]));
      const taken = backend === "tensorflow" ? all.filter(native) : all;
      assert.ok(taken.length > 100);
      taken.forEach(assertGradients);
    });
  }
}

onWasm("the gradient to the input is that of a transposed convolution", () => {
  const convolution: Convolution = {
    depthwise: false,
    input: [2, 7, 10, 3],
    filter: [3, 3, 3, 5],
    strides: both(2),
    dilations: both(1),
    pad: "same",
  };
  const { dy, filter } = draw(convolution);
  const dx = tf.tidy(() =>
    tf.conv2dTranspose(
      tf.tensor4d(dy, outputShape(convolution)),
      tf.tensor4d(filter, convolution.filter),
      convolution.input,
      2,
      "same",
    ).dataSync()
  );
  assertClose(dx, reference.inputGradient(convolution, dy, filter), "transposed convolution");
});

onWasm("images without a batch axis and rounded outputs", () => {
  // 8 pixels, kernel 3, stride 2: 3.5 outputs, rounded up to 4, so that the last window sticks out.
  const x = stream(1).normal(8 * 8 * 2);
  const filter = stream(2).normal(3 * 3 * 2 * 3);
  const dy = stream(3).normal(4 * 4 * 3);
  const pad: Padding = [both(0), [0, 1], [0, 1], both(0)];
  const convolution: Convolution = {
    depthwise: false,
    input: [1, 8, 8, 2],
    filter: [3, 3, 2, 3],
    strides: both(2),
    dilations: both(1),
    pad,
  };
  const [dx, dw] = tf.tidy(() =>
    tf.grads((x, w) =>
      tf.sum(tf.mul(
        tf.conv2d(x as tf.Tensor3D, w as tf.Tensor4D, 2, 0, "NHWC", 1, "ceil"),
        tf.tensor3d(dy, [4, 4, 3]),
      ))
    )([tf.tensor3d(x, [8, 8, 2]), tf.tensor4d(filter, convolution.filter)]).map((gradient) =>
      gradient.dataSync()
    )
  );
  assertClose(dx!, reference.inputGradient(convolution, dy, filter), "dx");
  assertClose(dw!, reference.filterGradient(convolution, x, dy), "dw");
});

for (const depthwise of [false, true]) {
  for (const [strides, dilations] of [[both(2), both(1)], [both(1), both(2)]] as const) {
    const title = `${depthwise ? "depthwise " : ""}convolution of strides ${strides}, dilations ${dilations}`;
    onWasm(`second derivatives of a ${title}`, () => {
      const convolution: Convolution = {
        depthwise,
        input: [2, 6, 7, 2],
        filter: [3, 2, 2, 3],
        strides,
        dilations,
        pad: "same",
      };
      const { x, filter, dy } = draw(convolution);
      const found = tf.tidy(() => {
        const upstream = tf.tensor4d(dy, outputShape(convolution));
        const first = tf.grads((x, filter, upstream) =>
          tf.sum(tf.mul(apply(convolution, x as tf.Tensor4D, filter as tf.Tensor4D), upstream))
        );
        const second = tf.grads((x, filter, upstream) => {
          const [dx, dw] = first([x, filter, upstream]);
          return tf.add(tf.sum(tf.square(dx!)), tf.sum(tf.square(dw!)));
        });
        return second([tf.tensor4d(x, convolution.input), tf.tensor4d(filter, convolution.filter), upstream])
          .map((gradient) => gradient.dataSync());
      });
      // Of sum(dx^2) + sum(dw^2), where dx depends on filter and dy, and dw on x and dy.
      const twice = (values: Float64Array) => values.map((value) => 2 * value);
      const dx = twice(reference.inputGradient(convolution, dy, filter));
      const dw = twice(reference.filterGradient(convolution, x, dy));
      assertClose(found[0]!, reference.inputGradient(convolution, dy, dw), "to x");
      assertClose(found[1]!, reference.filterGradient(convolution, dx, dy), "to filter");
      const [fromX, fromFilter] = [
        reference.output(convolution, dx, filter),
        reference.output(convolution, x, dw),
      ];
      assertClose(found[2]!, fromX.map((value, i) => value + fromFilter[i]!), "to dy");
    });
  }
}

onWasm("a hundred steps leave nothing behind", () => {
  const draws = stream("leak");
  const x = tf.tensor4d(draws.normal(2 * 9 * 9 * 4), [2, 9, 9, 4]);
  const filter = tf.tensor4d(draws.normal(3 * 3 * 4 * 5), [3, 3, 4, 5]);
  const depthwise = tf.tensor4d(draws.normal(3 * 3 * 5 * 2), [3, 3, 5, 2]);
  const pointwise = tf.tensor4d(draws.normal(10 * 6), [1, 1, 10, 6]);
  const step = () =>
    tf.tidy(() => {
      tf.grads((x, filter, depthwise, pointwise) => {
        const first = tf.conv2d(x as tf.Tensor4D, filter as tf.Tensor4D, 2, "same");
        const second = tf.depthwiseConv2d(first, depthwise as tf.Tensor4D, 1, "same");
        return tf.sum(tf.conv2d(tf.maxPool(second, 3, 1, "same"), pointwise as tf.Tensor4D, 2, "same"));
      })([x, filter, depthwise, pointwise]);
    });
  const heapBytes = () => (tf.backend() as unknown as { wasm: { HEAPU8: Uint8Array } }).wasm.HEAPU8.length;
  const state = () => {
    const { numTensors, numDataBuffers, numBytes } = tf.memory();
    return { numTensors, numDataBuffers, numBytes, data: tf.backend().numDataIds(), heap: heapBytes() };
  };
  step();
  const before = state();
  for (let i = 0; i < 100; i++) step();
  assert.deepEqual(state(), before);
  tf.dispose([x, filter, depthwise, pointwise]);
});

onWasm("registering again changes nothing", () => {
  const kernel = () => tf.getKernel("Conv2DBackpropFilter", "wasm").kernelFunc;
  const forward = () => tf.getKernel("Conv2D", "wasm").kernelFunc;
  const before = [kernel(), forward()];
  const warn = console.warn;
  const warnings: unknown[] = [];
  console.warn = (...message) => warnings.push(message);
  try {
    registerConvolutionGradients();
  } finally {
    console.warn = warn;
  }
  assert.deepEqual([kernel(), forward()], before);
  assert.deepEqual(warnings, []);
});

onWasm("what cannot be differentiated is refused", () => {
  tf.tidy(() => {
    const x = tf.zeros([1, 4, 4, 2]);
    const attributes = { strides: 1, pad: "same", dataFormat: "NCHW", filterShape: [3, 3, 2, 2] };
    assert.throws(() => tf.engine().runKernel("Conv2DBackpropFilter", { x, dy: x }, attributes), {
      name: "RangeError",
      message: "Cannot differentiate a convolution as 'dataFormat' must be NHWC: current dataFormat is NCHW",
    });
    const apply = (x: tf.Tensor) => tf.conv2d(x as tf.Tensor4D, tf.zeros([3, 1, 2, 2]), 1, 1);
    assert.throws(
      () => tf.grad(apply)(x),
      /one number for 'pad' must go with a square kernel .* give explicit pads/,
    );
  });
});
