/**
 * Which pixels a convolution combines, along one spatial axis, and moving pixels about: cutting, padding,
 * every s-th.
 *
 * All of it is in operations that the wasm backend does fast: reshapes, and pads and slices of long rows; its
 * strided slice is 50 times slower than the slices here.
 */
import * as tf from "@tensorflow/tfjs";
import type { Axes, Axis } from "../convolution/mod.ts";

/** Pixels to add before and after an axis; negative ones are cut off. */
export type Margins = readonly [before: number, after: number];

type Pair = number | [number, number];
type Padding = Parameters<typeof tf.conv2d>[3];

/** How a convolution was called, as TensorFlow.js has it in the attributes of its kernels. */
export interface ConvolutionAttributes {
  readonly strides: Pair;
  readonly pad: Padding;
  readonly dilations?: Pair | undefined;
  readonly dimRoundingMode?: "floor" | "round" | "ceil" | undefined;
  readonly dataFormat?: string | undefined;
}

/**
 * The axes of the convolution of an input [n, h, w, c] with a filter [kh, kw, c, d].
 *
 * @throws {RangeError} The images are not in the NHWC layout, or the padding is one number and the axes are not alike.
 */
export function convolutionAxes(
  inputShape: readonly number[],
  filterShape: readonly number[],
  attributes: ConvolutionAttributes,
  depthwise: boolean,
): Axes {
  const { strides, pad, dilations = 1, dimRoundingMode, dataFormat = "NHWC" } = attributes;
  if (dataFormat !== "NHWC") {
    throw new RangeError(
      `Cannot differentiate a convolution as 'dataFormat' must be NHWC: current dataFormat is ${dataFormat}`,
    );
  }
  const found = tf.backend_util.computeConv2DInfo(
    inputShape as [number, number, number, number],
    filterShape as [number, number, number, number],
    strides,
    dilations,
    pad,
    dimRoundingMode,
    depthwise,
  );
  const height: Axis = {
    input: found.inHeight,
    kernel: found.filterHeight,
    output: found.outHeight,
    stride: found.strideHeight,
    dilation: found.dilationHeight,
    before: found.padInfo.top,
  };
  const width: Axis = {
    input: found.inWidth,
    kernel: found.filterWidth,
    output: found.outWidth,
    stride: found.strideWidth,
    dilation: found.dilationWidth,
    before: found.padInfo.left,
  };
  const alike = height.stride === width.stride &&
    (height.kernel - 1) * height.dilation === (width.kernel - 1) * width.dilation;
  if (typeof pad === "number" && !alike) {
    // TensorFlow.js takes the height's kernel and stride for the width too, and the output has a wrong shape.
    throw new RangeError(
      `Cannot differentiate a convolution as one number for 'pad' must go with a square kernel and equal strides and dilations: ` +
        `current kernel is [${height.kernel}, ${width.kernel}], strides [${height.stride}, ${width.stride}], ` +
        `dilations [${height.dilation}, ${width.dilation}]; give explicit pads`,
    );
  }
  return [height, width];
}

/** The margins that leave of the input exactly the pixels that the convolution reads. */
export function readMargins({ input, kernel, output, stride, dilation, before }: Axis): Margins {
  const read = (output - 1) * stride + (kernel - 1) * dilation + 1;
  return [before, read - before - input];
}

/** Images with margins added (zeros) or cut off, [n, h, w, c]. */
export function withMargins(x: tf.Tensor4D, height: Margins, width: Margins): tf.Tensor4D {
  const padding = paddingOf(height, width);
  const cut = crop(x, height, width);
  return padding.flat().some((pixels) => pixels > 0) ? tf.pad(cut, padding) : cut;
}

/** The positive margins, as the padding of a convolution of what {@linkcode crop} leaves. */
export function paddingOf(height: Margins, width: Margins): tf.backend_util.ExplicitPadding {
  const added = ([before, after]: Margins): [number, number] => [Math.max(before, 0), Math.max(after, 0)];
  return [[0, 0], added(height), added(width), [0, 0]];
}

/** Images without what negative margins cut off, [n, h, w, c]. */
export function crop(x: tf.Tensor4D, height: Margins, width: Margins): tf.Tensor4D {
  const [n, h, w, c] = x.shape;
  const [top, bottom] = height.map((pixels) => Math.max(-pixels, 0)) as [number, number];
  const [left, right] = width.map((pixels) => Math.max(-pixels, 0)) as [number, number];
  if (top + bottom + left + right === 0) return x;
  const [newHeight, newWidth] = [h - top - bottom, w - left - right];
  return tf.slice(x.reshape([n, h, w * c]), [0, top, left * c], [n, newHeight, newWidth * c])
    .reshape([n, newHeight, newWidth, c]);
}

/** Images with the margins that {@linkcode tapPixels} needs, [n, h, w, c] -> [n, H, W, c]. */
export function withTapMargins(x: tf.Tensor4D, [height, width]: Axes): tf.Tensor4D {
  const margins = ({ input, kernel, output, stride, dilation, before }: Axis): Margins => [
    before,
    output * stride + (kernel - 1) * dilation - before - input,
  ];
  return withMargins(x, margins(height), margins(width));
}

/**
 * The pixels that the tap (row, column) reads, of images [n, H, W, c] {@linkcode withTapMargins}: [n * oh *
 * ow, c].
 */
export function tapPixels(
  padded: tf.Tensor4D,
  [height, width]: Axes,
  row: number,
  column: number,
): tf.Tensor2D {
  const moved = ({ kernel, dilation }: Axis, tap: number): Margins => [
    -tap * dilation,
    -(kernel - 1 - tap) * dilation,
  ];
  const cells = crop(padded, moved(height, row), moved(width, column));
  const channels = cells.shape[3];
  if (height.stride === 1 && width.stride === 1) return cells.reshape([-1, channels]);
  const rows = cells.shape[0] * height.output;
  return tf.slice(
    cells.reshape([rows, height.stride, width.output, width.stride * channels]),
    [0, 0, 0, 0],
    [rows, 1, width.output, channels],
  ).reshape([-1, channels]);
}

/**
 * How the gradient of the input is computed along an axis: pixel v of the padded input, v = stride * q + r,
 * receives from the taps a = stride * m + r, so that each phase r is a convolution of stride 1, over `taps`
 * values of m, of the upstream gradient.
 */
export interface Phases {
  readonly taps: number;
  /** Phases that a tap reaches; pixels of the others get no gradient. */
  readonly count: number;
  /** The margins of the upstream gradient with which the convolution gives all q of the input. */
  readonly margins: Margins;
  /** The number of values of q. */
  readonly cells: number;
  /** The margins that leave of `cells * stride` pixels those of the input. */
  readonly trim: Margins;
}

export function phasesOf({ input, kernel, output, stride, dilation, before }: Axis): Phases {
  const taps = Math.ceil(kernel / stride);
  const first = Math.floor(before / stride);
  const last = Math.floor((before + input - 1) / stride);
  const cells = last - first + 1;
  const lead = before - first * stride;
  return {
    taps,
    count: Math.min(kernel, stride),
    margins: [(taps - 1) * dilation - first, last - (output - 1)],
    cells,
    trim: [-lead, lead + input - cells * stride],
  };
}

/**
 * Weaves phases together: [n, cells, cells, phases height * phases width * c] -> [n, input height, input width, c].
 */
export function weave(phased: tf.Tensor4D, [height, width]: Axes): tf.Tensor4D {
  const [rows, columns] = [phasesOf(height), phasesOf(width)];
  const n = phased.shape[0];
  const channels = phased.shape[3] / (rows.count * columns.count);
  let cells = phased.reshape([
    n * rows.cells,
    columns.cells,
    rows.count,
    columns.count * channels,
  ]) as tf.Tensor4D;
  if (rows.count > 1) cells = tf.transpose(cells, [0, 2, 1, 3]);
  cells = cells.reshape([n * rows.cells, rows.count, columns.cells, columns.count * channels]);
  const [idleRows, idleColumns] = [height.stride - rows.count, width.stride - columns.count];
  if (idleRows + idleColumns > 0) {
    cells = tf.pad(cells, [[0, 0], [0, idleRows], [0, 0], [0, idleColumns * channels]]);
  }
  const pixels = cells.reshape([n, rows.cells * height.stride, columns.cells * width.stride, channels]);
  return crop(pixels as tf.Tensor4D, rows.trim, columns.trim);
}
