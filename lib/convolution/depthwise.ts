/**
 * Depthwise convolutions with one filter per channel: vectors of channels, tiles of neighbouring pixels in registers, each pixel
 * loaded once per row of taps. Nothing is padded: pixels near the borders have code of their own with the taps that they reach.
 */
import { call, type Code, f32x4, i32, sequence, set, v128, variables } from "../wasm/mod.ts";
import {
  bytesOf,
  type Course,
  divisorUpTo,
  forwardCourse,
  gradientCourses,
  GROUP_BYTES,
} from "./_courses.ts";
import { filterGradientKernel } from "./_depthwise_filter_gradient.ts";
import { meetings, Sources, stretchesOf, tilesOf } from "./_depthwise_pixels.ts";
import { multiplyAdd, repeat, storeLanes, wholeVectors } from "./_micro_kernels.ts";
import type { ConvolutionGeometry, ConvolutionProduct } from "./geometry.ts";
import type { ConvolutionGenerator, ConvolutionKernel, GeneratorSettings } from "./kernel.ts";

/** All taps are written out: more of them make too much code. */
const MOST_TAPS = 49;

/** Makes kernels for depthwise convolutions with one filter per channel. */
export const depthwiseConvolution: ConvolutionGenerator = (product, geometry, settings) => {
  const { kind, axes: [height, width], channels, outputs } = geometry;
  if (kind !== "depthwise" || channels !== outputs || height.kernel * width.kernel > MOST_TAPS) return null;
  if (Math.max(height.kernel, width.kernel) > 9) return null;
  return product === "filterGradient"
    ? filterGradientKernel(geometry, settings)
    : imageKernel(product, geometry, settings);
};

function imageKernel(
  product: Exclude<ConvolutionProduct, "filterGradient">,
  { batch, axes, channels }: ConvolutionGeometry,
  { relaxed, pages }: GeneratorSettings,
): ConvolutionKernel {
  const forward = product === "forward";
  const [height, width] = axes;
  const sides = axes.map(({ input, output }) => forward ? [input, output] : [output, input]);
  const [[sourceHeight, targetHeight], [sourceWidth, targetWidth]] = sides as [
    [number, number],
    [number, number],
  ];
  const [rowCourses, columnCourses] = axes.map((axis) =>
    forward ? [forwardCourse(axis)] : gradientCourses(axis)
  );
  const wide = wholeVectors(channels);
  const sources = new Sources(channels, relaxed);
  const { run } = sources;
  const [input, filter, output] = run.params;
  const group = wide === channels
    ? batch
    : divisorUpTo(batch, GROUP_BYTES / bytesOf(sourceHeight, sourceWidth, wide));
  const { at, to, from, onto, x, y } = variables(run, "i32", "at", "to", "from", "onto", "x", "y");
  const [source, target] = forward ? [input, output] : [output, input];
  run.add(set(at, source), set(to, target));
  const images = sources.images(at, group, sourceHeight, sourceWidth);
  const taps = sources.images(filter, 1, height.kernel, width.kernel);
  run.add(taps.prepare);
  const rowPitch = bytesOf(sourceWidth, wide);
  const targetRow = bytesOf(targetWidth, channels);
  const tapRow = bytesOf(width.kernel, wide);

  const rowLoops: Code[] = [];
  for (const rows of rowCourses!) {
    for (const columns of columnCourses!) {
      const functions = new Map<number, number>();
      for (const { first, count, start, end } of stretchesOf(rows, sourceHeight)) {
        let index = functions.get(end - start);
        if (index === undefined) {
          index = rowFunction(rows, columns, end - start);
          functions.set(end - start, index);
        }
        // The taps may descend: their row with the lowest address.
        const lowest = Math.min(...rows.taps.slice(start, end), Infinity);
        const begin = rows.from + rows.stride * first + rows.dilation * start;
        rowLoops.push(
          set(x, i32.add(from, end > start ? begin * rowPitch : 0)),
          set(y, i32.add(onto, (rows.targetFrom + rows.targetStep * first) * targetRow)),
          repeat(
            run,
            count,
            [[x, rows.stride * rowPitch], [y, rows.targetStep * targetRow]],
            call(index, x, i32.add(taps.from, end > start ? lowest * tapRow : 0), y),
          ),
        );
      }
    }
  }
  const targetImage = targetHeight * targetRow;
  run.add(repeat(
    run,
    batch / group,
    [[at, bytesOf(group, sourceHeight, sourceWidth, channels)], [to, group * targetImage]],
    sequence(
      images.prepare,
      set(from, images.from),
      set(onto, to),
      repeat(run, group, [[from, sourceHeight * rowPitch], [onto, targetImage]], sequence(...rowLoops)),
    ),
  ));
  return { bytes: sources.module.bytes(pages), scratchBytes: sources.plan.bytes };

  /** A function (source, taps, target) for a row of target pixels that `tapRows` rows of taps reach. */
  function rowFunction(rows: Course, columns: Course, tapRows: number): number {
    const kernel = sources.module.function(undefined, ["i32", "i32", "i32"]);
    const [source, taps, target] = kernel.params;
    const { x, w, y } = variables(kernel, "i32", "x", "w", "y");
    const places = columns.taps.length;
    const size = Math.min(8, 14 - places);
    const sums = Array.from({ length: size }, () => kernel.local("v128"));
    const weights = columns.taps.map(() => kernel.local("v128"));
    const pixel = kernel.local("v128");
    const step = rows.taps.length > 1 ? rows.taps[1]! - rows.taps[0]! : 1;
    const tapOffset = (index: number) => (step > 0 ? index * step : (tapRows - 1 - index) * -step) * tapRow;
    const outPitch = bytesOf(columns.targetStep, channels);
    const [full, lanes] = [Math.floor(channels / 4), channels % 4];

    for (const stretch of stretchesOf(columns, sourceWidth)) {
      const begin = columns.from + columns.stride * stretch.first + columns.dilation * stretch.start;
      const reached = stretch.end > stretch.start ? tapRows : 0;
      for (const { size, count, at } of tilesOf(stretch.count, sums.length)) {
        const used = sums.slice(0, size);
        const compute = (lanes: number): Code => {
          const codes: Code[] = used.map((sum) => set(sum, f32x4.const(0)));
          for (let index = 0; index < reached; index++) {
            for (let place = stretch.start; place < stretch.end; place++) {
              const offset = tapOffset(index) + bytesOf(columns.taps[place]!, wide);
              codes.push(set(weights[place]!, v128.load(w, offset)));
            }
            for (const { pixel: read, pairs } of meetings(columns, stretch, size)) {
              codes.push(set(pixel, v128.load(x, index * rows.dilation * rowPitch + bytesOf(read, wide))));
              for (const { target, place } of pairs) {
                codes.push(set(used[target]!, multiplyAdd(relaxed, pixel, weights[place]!, used[target]!)));
              }
            }
          }
          codes.push(...used.map((sum, target) => storeLanes(y, sum, lanes, target * outPitch)));
          return sequence(...codes);
        };
        kernel.add(
          set(x, i32.add(source, reached > 0 ? bytesOf(begin + at * columns.stride, wide) : 0)),
          set(y, i32.add(target, bytesOf(columns.targetFrom, channels) + (stretch.first + at) * outPitch)),
          repeat(
            kernel,
            count,
            [[x, bytesOf(size * columns.stride, wide) - 16 * full], [y, size * outPitch - 16 * full]],
            sequence(
              set(w, taps),
              repeat(kernel, full, [[x, 16], [w, 16], [y, 16]], compute(4)),
              ...lanes > 0 ? [compute(lanes)] : [],
            ),
          ),
        );
      }
    }
    return kernel.index;
  }
}
