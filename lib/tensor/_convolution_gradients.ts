/**
 * The gradients of convolutions as compositions of TensorFlow.js operations: for backends without kernels of
 * their own, and for dilated convolutions. Being compositions, they can be differentiated again.
 */
import * as tf from "@tensorflow/tfjs";
import type { Axes } from "../convolution/mod.ts";
import {
  crop,
  type Margins,
  paddingOf,
  phasesOf,
  readMargins,
  tapPixels,
  weave,
  withMargins,
  withTapMargins,
} from "./_convolution_window.ts";
import { sumTo } from "./reductions.ts";

type Filter = tf.Tensor4D;

/**
 * Gradient of a convolution to its input, [n, h, w, c], from dy [n, oh, ow, d] and the filter [kh, kw, c, d].
 *
 * One convolution of stride 1 of dy gives all phases of the stride at once, as channels; no zeros are put
 * between the pixels of dy, which would cost stride^2 times the work.
 */
export function inputGradient(dy: tf.Tensor4D, filter: Filter, axes: Axes): tf.Tensor4D {
  const [height, width] = axes;
  const [rows, columns] = [phasesOf(height), phasesOf(width)];
  const [taps, phases] = [[rows.taps, columns.taps], [rows.count, columns.count]] as const;
  const [, , channels, outputs] = filter.shape;
  const turned = tf.transpose(
    tf.reverse(splitPhases(filter, axes), [0, 2]).reshape([
      taps[0],
      phases[0],
      taps[1],
      phases[1],
      channels,
      outputs,
    ]),
    [0, 2, 5, 1, 3, 4],
  ).reshape([...taps, outputs, phases[0] * phases[1] * channels]) as Filter;
  const dilations: [number, number] = [height.dilation, width.dilation];
  return weave(convolve(dy, turned, rows.margins, columns.margins, 1, dilations), axes);
}

/**
 * Gradient of a convolution to its filter, [kh, kw, c, d], from x [n, h, w, c] and dy [n, oh, ow, d].
 *
 * It is itself a convolution, dy being the filter, in which batch and channels change places and stride and
 * dilation too. On wasm (XNNPACK) that is 1.2 to 30 times faster than a slice, a transpose and a matrix
 * product per tap. With one tap it is a matrix product.
 */
export function filterGradient(x: tf.Tensor4D, dy: tf.Tensor4D, axes: Axes): Filter {
  const [height, width] = axes;
  const [channels, outputs] = [x.shape[3], dy.shape[3]];
  if (height.kernel * width.kernel === 1) {
    const product = transposedProduct(
      tapPixels(withTapMargins(x, axes), axes, 0, 0),
      dy.reshape([-1, outputs]),
    );
    return product.reshape([1, 1, channels, outputs]);
  }
  const gradient = convolve(
    tf.transpose(x, [3, 1, 2, 0]),
    tf.transpose(dy, [1, 2, 0, 3]),
    readMargins(height),
    readMargins(width),
    [height.dilation, width.dilation],
    [height.stride, width.stride],
  );
  return tf.transpose(gradient, [1, 2, 0, 3]);
}

/**
 * Gradient of a depthwise convolution to its input, [n, h, w, c], from dy [n, oh, ow, c * m] and the filter
 * [kh, kw, c, m]: one depthwise convolution of stride 1 per phase of the stride.
 */
export function depthwiseInputGradient(dy: tf.Tensor4D, filter: Filter, axes: Axes): tf.Tensor4D {
  const [height, width] = axes;
  const [rows, columns] = [phasesOf(height), phasesOf(width)];
  const [, , channels, multiplier] = filter.shape;
  const outputs = channels * multiplier;
  const split = tf.reverse(splitPhases(filter, axes), [0, 2])
    .reshape([rows.taps, rows.count, columns.taps, columns.count * outputs]);
  const window = crop(dy, rows.margins, columns.margins);
  const padding = paddingOf(rows.margins, columns.margins);
  const dilations: [number, number] = [height.dilation, width.dilation];
  const phases: tf.Tensor4D[] = [];
  for (let row = 0; row < rows.count; row++) {
    for (let column = 0; column < columns.count; column++) {
      const taps = tf.slice(split, [0, row, 0, column * outputs], [rows.taps, 1, columns.taps, outputs])
        .reshape([rows.taps, columns.taps, outputs, 1]) as Filter;
      const phase = tf.depthwiseConv2d(window, taps, 1, padding, "NHWC", dilations);
      phases.push(sumMultiplier(phase, channels, multiplier));
    }
  }
  return weave(phases.length === 1 ? phases[0]! : tf.concat(phases, 3), axes);
}

/**
 * Gradient of a depthwise convolution to its filter, [kh, kw, c, m], from x [n, h, w, c] and dy [n, oh, ow, c
 * * m]: for each tap, the sum over pixels of dy times what the tap reads.
 */
export function depthwiseFilterGradient(x: tf.Tensor4D, dy: tf.Tensor4D, axes: Axes): Filter {
  const [height, width] = axes;
  const [n, , , channels] = x.shape;
  const multiplier = dy.shape[3] / channels;
  const upstream = dy.reshape([-1, channels, multiplier]) as tf.Tensor3D;
  const padded = withTapMargins(x, axes);
  const taps: tf.Tensor[] = [];
  for (let row = 0; row < height.kernel; row++) {
    for (let column = 0; column < width.kernel; column++) {
      taps.push(tf.tidy(() => {
        const pixels = tapPixels(padded, axes, row, column).reshape([-1, channels, 1]);
        const products = tf.mul(pixels, upstream);
        const image = products.reshape<tf.Tensor4D>([
          1,
          n * height.output,
          width.output,
          channels * multiplier,
        ]);
        return sumTo(image, [1, 1, 1, channels * multiplier]);
      }));
    }
  }
  return tf.stack(taps).reshape([height.kernel, width.kernel, channels, multiplier]);
}

/** The filter with zeros up to whole phases, [taps, phases, taps, phases * c * d]. */
function splitPhases(filter: Filter, [height, width]: Axes): tf.Tensor4D {
  const [rows, columns] = [phasesOf(height), phasesOf(width)];
  const whole = withMargins(
    filter.reshape([1, ...filter.shape.slice(0, 2), -1]) as tf.Tensor4D,
    [0, rows.taps * rows.count - height.kernel],
    [0, columns.taps * columns.count - width.kernel],
  );
  return whole.reshape([rows.taps, rows.count, columns.taps, -1]);
}

function convolve(
  x: tf.Tensor4D,
  filter: Filter,
  height: Margins,
  width: Margins,
  strides: number | [number, number],
  dilations: [number, number],
): tf.Tensor4D {
  return tf.conv2d(crop(x, height, width), filter, strides, paddingOf(height, width), "NHWC", dilations);
}

/** a' b of tall matrices, [p, c], [p, d] -> [c, d]. matMul's own transposition would take wasm out of XNNPACK. */
function transposedProduct(a: tf.Tensor2D, b: tf.Tensor2D): tf.Tensor2D {
  // Transposing is the larger part of the time, so it is done to the narrower one.
  return a.shape[1] <= b.shape[1]
    ? tf.matMul(tf.transpose(a), b)
    : tf.transpose(tf.matMul(tf.transpose(b), a));
}

/** [n, h, w, c * m] -> [n, h, w, c]. */
function sumMultiplier(x: tf.Tensor4D, channels: number, multiplier: number): tf.Tensor4D {
  if (multiplier === 1) return x;
  const [n, h, w] = x.shape;
  return tf.sum(x.reshape([n * h * w, channels, multiplier]), -1).reshape([n, h, w, channels]);
}
