/**
 * Gradients of pooling for the wasm backend. Its own are wrong without a word: max pooling's sends the
 * gradient to other pixels, average pooling's divides by the whole window where part of the window is
 * padding.
 */
import * as tf from "@tensorflow/tfjs";
import type { BackendWasm } from "@tensorflow/tfjs-backend-wasm";
import { replaceKernel } from "./_replace_kernel.ts";

/** Registers them, replacing the backend's. Calling it again changes nothing. */
export function registerPoolGradients(): void {
  for (const kernel of kernels) replaceKernel(kernel);
}

type Call = Parameters<tf.KernelFunc>[0];
type Windows = tf.backend_util.Conv2DInfo;

/** Adds the gradient `dy` of one output to the pixels of its window: `pixels` are the offsets of their channel 0. */
type Spread = (pixels: readonly number[], channels: number, dy: Float32Array, output: number) => void;

const kernels: readonly tf.KernelConfig[] = [
  {
    kernelName: "MaxPoolGrad",
    backendName: "wasm",
    kernelFunc: (call) =>
      poolGradient(call, (x, dx) => (pixels, channels, dy, output) => {
        for (let channel = 0; channel < channels; channel++) {
          // At a tie the first takes all, as in TensorFlow.
          let largest = pixels[0]! + channel;
          for (const pixel of pixels) if (x[pixel + channel]! > x[largest]!) largest = pixel + channel;
          dx[largest]! += dy[output + channel]!;
        }
      }),
  },
  {
    kernelName: "AvgPoolGrad",
    backendName: "wasm",
    kernelFunc: (call) =>
      poolGradient(call, (_, dx) => (pixels, channels, dy, output) => {
        for (const pixel of pixels) {
          for (let channel = 0; channel < channels; channel++) {
            dx[pixel + channel]! += dy[output + channel]! / pixels.length;
          }
        }
      }),
  },
];

/** The gradient to the input, [n, h, w, c], window by window in the memory of the backend. */
function poolGradient(
  { inputs, attrs, backend }: Call,
  spreadOver: (x: Float32Array, dx: Float32Array) => Spread,
): tf.TensorInfo {
  const { filterSize, strides, pad, dimRoundingMode } = attrs as unknown as {
    filterSize: number | [number, number];
    strides: number | [number, number];
    pad: Parameters<typeof tf.backend_util.computePool2DInfo>[4];
    dimRoundingMode?: "floor" | "round" | "ceil";
  };
  const wasm = backend as BackendWasm;
  const { dy, input } = inputs as { dy: tf.TensorInfo; input: tf.TensorInfo };
  const shape = input.shape as [number, number, number, number];
  const windows = tf.backend_util.computePool2DInfo(shape, filterSize, strides, 1, pad, dimRoundingMode);
  // Before the views: allocating may move the memory.
  const result = wasm.makeOutput(shape, "float32");
  const view = (tensor: tf.TensorInfo) => wasm.typedArrayFromHeap(tensor) as Float32Array;
  const dx = view(result).fill(0);
  eachWindow(windows, view(dy), spreadOver(view(input), dx));
  return result;
}

function eachWindow(windows: Windows, dy: Float32Array, spread: Spread): void {
  const { batchSize, inHeight, inWidth, inChannels: channels, outHeight, outWidth } = windows;
  const rows = spans(outHeight, windows.strideHeight, windows.padInfo.top, windows.filterHeight, inHeight);
  const columns = spans(outWidth, windows.strideWidth, windows.padInfo.left, windows.filterWidth, inWidth);
  let output = 0;
  for (let image = 0; image < batchSize; image++) {
    for (const [top, bottom] of rows) {
      for (const [left, right] of columns) {
        const pixels: number[] = [];
        for (let u = top; u < bottom; u++) {
          for (let v = left; v < right; v++) pixels.push(((image * inHeight + u) * inWidth + v) * channels);
        }
        if (pixels.length > 0) spread(pixels, channels, dy, output);
        output += channels;
      }
    }
  }
}

/** The pixels [start, end) of each window along an axis, without padding. */
function spans(
  count: number,
  stride: number,
  before: number,
  kernel: number,
  size: number,
): [number, number][] {
  return Array.from({ length: count }, (_, i) => {
    const start = i * stride - before;
    return [Math.max(start, 0), Math.min(start + kernel, size)];
  });
}
