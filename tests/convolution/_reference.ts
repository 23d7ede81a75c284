/** Convolutions and their gradients by their definition: plain loops in float64. */
import type { Axis, ConvolutionGeometry } from "../../lib/convolution/mod.ts";

export type Pair = [number, number];
export type Padding = "same" | "valid" | number | [Pair, Pair, Pair, Pair];

export interface Convolution {
  depthwise: boolean;
  /** [n, h, w, c] */
  input: [number, number, number, number];
  /** [kh, kw, c, d], or [kh, kw, c, m] if depthwise. */
  filter: [number, number, number, number];
  strides: Pair;
  dilations: Pair;
  pad: Padding;
}

interface Side {
  before: number;
  output: number;
}

function side({ input, filter, strides, dilations, pad }: Convolution, axis: 0 | 1): Side {
  const size = input[axis + 1]!;
  const span = (filter[axis]! - 1) * dilations[axis]! + 1;
  const stride = strides[axis]!;
  if (pad === "same") {
    const output = Math.ceil(size / stride);
    const total = Math.max((output - 1) * stride + span - size, 0);
    return { before: Math.floor(total / 2), output };
  }
  const [before, after] = pad === "valid" ? [0, 0] : typeof pad === "number" ? [pad, pad] : pad[axis + 1]!;
  return { before, output: Math.floor((size + before + after - span) / stride) + 1 };
}

/** Shape of the output, [n, oh, ow, d]; not positive where the filter does not fit. */
export function outputShape(convolution: Convolution): [number, number, number, number] {
  const { input, filter, depthwise } = convolution;
  const outputs = depthwise ? filter[2] * filter[3] : filter[3];
  return [input[0], side(convolution, 0).output, side(convolution, 1).output, outputs];
}

/** The sizes as the generators of kernels take them. */
export function geometryOf(convolution: Convolution): ConvolutionGeometry {
  const { depthwise, input, filter, strides, dilations } = convolution;
  const axis = (at: 0 | 1): Axis => ({
    input: input[at + 1]!,
    kernel: filter[at]!,
    stride: strides[at],
    dilation: dilations[at],
    ...side(convolution, at),
  });
  return {
    kind: depthwise ? "depthwise" : "regular",
    batch: input[0],
    axes: [axis(0), axis(1)],
    channels: input[3],
    outputs: outputShape(convolution)[3],
  };
}

/** Calls `visit` with the indices of x, w and y of every product x * w that is added to y. */
function eachProduct(convolution: Convolution, visit: (x: number, w: number, y: number) => void): void {
  const { input: [n, h, w, c], filter: [kh, kw, , d], strides, dilations, depthwise } = convolution;
  const [rows, columns] = [side(convolution, 0), side(convolution, 1)];
  const outputs = depthwise ? c * d : d;
  for (let image = 0; image < n; image++) {
    for (let i = 0; i < rows.output; i++) {
      for (let j = 0; j < columns.output; j++) {
        for (let a = 0; a < kh; a++) {
          for (let b = 0; b < kw; b++) {
            const u = i * strides[0] + a * dilations[0] - rows.before;
            const v = j * strides[1] + b * dilations[1] - columns.before;
            if (u < 0 || u >= h || v < 0 || v >= w) continue;
            for (let channel = 0; channel < c; channel++) {
              for (let k = 0; k < d; k++) {
                visit(
                  ((image * h + u) * w + v) * c + channel,
                  ((a * kw + b) * c + channel) * d + k,
                  ((image * rows.output + i) * columns.output + j) * outputs +
                    (depthwise ? channel * d + k : k),
                );
              }
            }
          }
        }
      }
    }
  }
}

export const elements = (shape: readonly number[]): number =>
  shape.reduce((product, size) => product * size, 1);

export type Values = ArrayLike<number>;

/** y [n, oh, ow, d] of x and w. */
export function output(convolution: Convolution, x: Values, w: Values): Float64Array {
  const y = new Float64Array(elements(outputShape(convolution)));
  eachProduct(convolution, (ix, iw, iy) => y[iy]! += x[ix]! * w[iw]!);
  return y;
}

/** dx [n, h, w, c] of sum(y * dy). */
export function inputGradient(convolution: Convolution, dy: Values, w: Values): Float64Array {
  const dx = new Float64Array(elements(convolution.input));
  eachProduct(convolution, (ix, iw, iy) => dx[ix]! += dy[iy]! * w[iw]!);
  return dx;
}

/** dw [kh, kw, c, d] of sum(y * dy). */
export function filterGradient(convolution: Convolution, x: Values, dy: Values): Float64Array {
  const dw = new Float64Array(elements(convolution.filter));
  eachProduct(convolution, (ix, iw, iy) => dw[iw]! += x[ix]! * dy[iy]!);
  return dw;
}

/** Central differences of `f` at `point`, in float64. */
export function differences(f: (point: Float64Array) => number, point: Values, step = 1e-3): Float64Array {
  const moved = Float64Array.from(point);
  return moved.map((value, i) => {
    moved[i] = value + step;
    const above = f(moved);
    moved[i] = value - step;
    const below = f(moved);
    moved[i] = value;
    return (above - below) / (2 * step);
  });
}

export const describe = ({ depthwise, input, filter, strides, dilations, pad }: Convolution): string =>
  `${depthwise ? "depthwise " : ""}[${input}] * [${filter}], strides ${strides}, dilations ${dilations}, ` +
  `pad ${JSON.stringify(pad)}`;
