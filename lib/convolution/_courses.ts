/** What the generators share: which pixels meet along an axis, how images are cut, where the scratch goes. */
import { FLOAT, type PaddedAxis } from "./_micro_kernels.ts";
import type { Axis, ConvolutionGeometry } from "./geometry.ts";

/** Bytes of images that are worked on at a time: they stay in the second-level cache. */
export const GROUP_BYTES = 256 * 1024;

/**
 * Part of a convolution along an axis: target pixel `targetFrom + targetStep * i`, i < count, is the sum over the taps of the source
 * pixels `from + stride * i + dilation * p`, p being the place in `taps`, which lists the filter's taps.
 */
export interface Course {
  readonly count: number;
  readonly from: number;
  readonly stride: number;
  readonly dilation: number;
  readonly taps: readonly number[];
  readonly targetFrom: number;
  readonly targetStep: number;
}

const range = (length: number): number[] => Array.from({ length }, (_, index) => index);

/** The convolution itself. */
export function forwardCourse({ output, kernel, stride, dilation, before }: Axis): Course {
  return {
    count: output,
    from: -before,
    stride,
    dilation,
    taps: range(kernel),
    targetFrom: 0,
    targetStep: 1,
  };
}

/**
 * The gradient to the input: for each phase of the stride a convolution of stride 1 of the gradient to the output. Input pixel
 * u - before, u = stride q + r, receives from output pixels i = (u - dilation a) / stride, over the taps a for which that is whole.
 */
export function gradientCourses({ input, kernel, stride, dilation, before }: Axis): Course[] {
  return range(stride).flatMap((phase) => {
    const first = Math.ceil((before - phase) / stride);
    const last = Math.floor((before + input - 1 - phase) / stride);
    // From the last tap to the first, so that the pixels read ascend.
    const taps = range(kernel).filter((tap) => (dilation * tap - phase) % stride === 0).reverse();
    const count = last - first + 1;
    if (count <= 0) return [];
    const shift = (place: number) => (dilation * taps[place]! - phase) / stride;
    return [{
      count,
      from: taps.length > 0 ? first - shift(0) : 0,
      stride: 1,
      dilation: taps.length > 1 ? shift(0) - shift(1) : 1,
      taps,
      targetFrom: stride * first + phase - before,
      targetStep: stride,
    }];
  });
}

/** The source pixels that courses read: zeros around the image where `padded`, else the image itself. */
export function paddingFor(
  input: number,
  courses: readonly Course[],
): PaddedAxis & { readonly padded: boolean } {
  const used = courses.filter(({ taps }) => taps.length > 0);
  const from = Math.min(...used.map(({ from }) => from));
  const end = Math.max(
    ...used.map(({ from, count, stride, dilation, taps }) =>
      from + (count - 1) * stride + (taps.length - 1) * dilation + 1
    ),
  );
  const padded = from < 0 || end > input;
  return padded ? { padded, input, from, length: end - from } : { padded, input, from: 0, length: input };
}

/** The largest divisor of `total` that is at most `most`, or 1. */
export function divisorUpTo(total: number, most: number): number {
  for (let divisor = Math.min(total, Math.floor(most)); divisor > 1; divisor--) {
    if (total % divisor === 0) return divisor;
  }
  return 1;
}

/** Images to treat as one, with where they begin. */
export interface Part {
  readonly batch: number;
  readonly axes: readonly [Axis, Axis];
  /** Pixels before the part, in input and output alike. */
  readonly pixels: number;
}

/** Pixels of the strips into which the images of a plain matrix product are cut: of 32 to 512 channels they fit the first caches. */
const STRIP = 96;

/** The whole convolution; if it is a plain matrix product of pixels, as strips of pixels, whatever the shape of the images. */
export function partsOf({ batch, axes }: ConvolutionGeometry): Part[] {
  const [height, width] = axes;
  const plain = axes.every(({ kernel, stride, before, input, output }) =>
    kernel === 1 && stride === 1 && before === 0 && input === output
  );
  if (!plain) return [{ batch, axes, pixels: 0 }];
  const total = batch * height.input * width.input;
  const line = (pixels: number): Axis => ({ ...width, input: pixels, output: pixels });
  const [strips, rest] = [Math.floor(total / STRIP), total % STRIP];
  const parts: Part[] = [];
  if (strips > 0) parts.push({ batch: strips, axes: [line(1), line(STRIP)], pixels: 0 });
  if (rest > 0) parts.push({ batch: 1, axes: [line(1), line(rest)], pixels: strips * STRIP });
  return parts;
}

/** Hands out the scratch, in multiples of a cache line. */
export class ScratchPlan {
  #bytes = 0;

  /** The offset of a new block. */
  take(bytes: number): number {
    const offset = this.#bytes;
    this.#bytes += Math.ceil(bytes / 64) * 64;
    return offset;
  }

  get bytes(): number {
    return this.#bytes;
  }
}

/** Bytes of so many numbers. */
export const bytesOf = (...sizes: number[]): number => sizes.reduce((product, size) => product * size, FLOAT);
