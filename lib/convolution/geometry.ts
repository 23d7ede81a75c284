/** A convolution along height or width: y[i] = sum_a x[stride * i + dilation * a - before] w[a]. */
export interface Axis {
  readonly input: number;
  readonly kernel: number;
  readonly output: number;
  readonly stride: number;
  readonly dilation: number;
  /** Zeros before the first pixel. */
  readonly before: number;
}

export type Axes = readonly [height: Axis, width: Axis];

/** The sizes of a convolution of images [n, h, w, c]; h, w, kernel, stride, padding and dilation are in the axes. */
export interface ConvolutionGeometry {
  readonly kind: "regular" | "depthwise";
  readonly batch: number;
  readonly axes: Axes;
  /** Channels of the input, c. */
  readonly channels: number;
  /** Channels of the output: d of a filter [kh, kw, c, d]; c * m of a depthwise filter [kh, kw, c, m]. */
  readonly outputs: number;
}

/** The three products of a convolution; each is the derivative of another. */
export type ConvolutionProduct = "forward" | "inputGradient" | "filterGradient";
