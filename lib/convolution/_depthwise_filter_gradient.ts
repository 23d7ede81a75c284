/** The gradient to the filter of depthwise convolutions with one filter per channel. */
import {
  call,
  type Code,
  countUp,
  f32x4,
  i32,
  type Local,
  memory,
  sequence,
  set,
  v128,
  variables,
} from "../wasm/mod.ts";
import { bytesOf, type Course, divisorUpTo, forwardCourse, GROUP_BYTES } from "./_courses.ts";
import { meetings, Sources, stretchesOf, tilesOf } from "./_depthwise_pixels.ts";
import { grid, loadLanes, multiplyAdd, repeat, storeLanes, wholeVectors } from "./_micro_kernels.ts";
import type { ConvolutionGeometry } from "./geometry.ts";
import type { ConvolutionKernel, GeneratorSettings } from "./kernel.ts";

/** Bytes of rows of pixels whose contributions to the filter gradient are summed in one go: about a first-level cache. */
const BAND_BYTES = 40 * 1024;

/** Sums over a band of rows, for all taps that fit the registers, are added to the filter gradient. */
export function filterGradientKernel(
  { batch, axes, channels }: ConvolutionGeometry,
  { relaxed, pages }: GeneratorSettings,
): ConvolutionKernel {
  const [height, width] = axes;
  const [rows, columns] = axes.map(forwardCourse) as [Course, Course];
  const wide = wholeVectors(channels);
  const sources = new Sources(channels, relaxed);
  const { run } = sources;
  const [input, filter, output] = run.params;
  const imageBytes = bytesOf(height.input, width.input, wide);
  const group = wide === channels ? batch : divisorUpTo(batch, GROUP_BYTES / imageBytes);
  const { at, up, from, upstream, x, dy } = variables(run, "i32", "at", "up", "from", "upstream", "x", "dy");
  run.add(set(at, input), set(up, output));
  const inputs = sources.images(at, group, height.input, width.input);
  const gradients = sources.images(up, group, height.output, width.output);
  const tapBytes = bytesOf(height.kernel, width.kernel, wide);
  const sums = wide === channels ? filter : sources.scratch(tapBytes);
  const rowPitch = bytesOf(width.input, wide);
  const upRow = bytesOf(width.output, wide);
  const bandRows = Math.max(1, Math.floor(BAND_BYTES / (height.stride * rowPitch + upRow)));
  run.add(memory.fill(sums, 0, tapBytes));

  const functions = new Map<number, number[]>();
  const loops = stretchesOf(rows, height.input).flatMap(({ first, count, start, end }) => {
    if (start === end) return [];
    const passes = functions.get(end - start) ?? passFunctions(end - start);
    functions.set(end - start, passes);
    const begin = rows.from + rows.stride * first + rows.dilation * start;
    const add = (count: number) =>
      sequence(
        ...passes.map((index) =>
          call(index, x, dy, i32.add(sums, bytesOf(start, width.kernel, wide)), count)
        ),
      );
    const rest = count % bandRows;
    const steps = [[x, bandRows * rows.stride * rowPitch], [dy, bandRows * upRow]] as const;
    return [
      set(x, i32.add(from, begin * rowPitch)),
      set(dy, i32.add(upstream, first * upRow)),
      repeat(run, Math.floor(count / bandRows), steps, add(bandRows)),
      ...rest > 0 ? [add(rest)] : [],
    ];
  });
  run.add(repeat(
    run,
    batch / group,
    [
      [at, bytesOf(group, height.input, width.input, channels)],
      [up, bytesOf(group, height.output, width.output, channels)],
    ],
    sequence(
      inputs.prepare,
      gradients.prepare,
      set(from, inputs.from),
      set(upstream, gradients.from),
      repeat(run, group, [[from, imageBytes], [upstream, height.output * upRow]], sequence(...loops)),
    ),
  ));
  if (wide !== channels) run.add(narrow());
  return { bytes: sources.module.bytes(pages), scratchBytes: sources.plan.bytes };

  /** Functions (inputs, gradients, sums, rows), each for some of `tapRows` rows of taps, so many as the registers hold. */
  function passFunctions(tapRows: number): number[] {
    const atOnce = Math.max(1, Math.floor(10 / width.kernel));
    return Array.from({ length: Math.ceil(tapRows / atOnce) }, (_, pass) => {
      const start = pass * atOnce;
      return passFunction(start, Math.min(start + atOnce, tapRows));
    });
  }

  function passFunction(start: number, end: number): number {
    const kernel = sources.module.function(undefined, ["i32", "i32", "i32", "i32"]);
    const [inputs, gradients, target, count] = kernel.params;
    const { x, dy, row } = variables(kernel, "i32", "x", "dy", "row");
    const totals = grid(end - start, width.kernel, () => kernel.local("v128"));
    const size = width.kernel > 9 ? 2 : 4;
    const upstream = Array.from({ length: size }, () => kernel.local("v128"));
    const pixel = kernel.local("v128");
    const offset = (index: number, place: number) => bytesOf((start + index) * width.kernel + place, wide);
    const each = (visit: (total: Local, index: number, place: number) => Code): Code =>
      sequence(...totals.flatMap((line, index) => line.map((total, place) => visit(total, index, place))));

    const stretches = stretchesOf(columns, width.input).filter(({ start, end }) => end > start);
    const across = stretches.flatMap((stretch) => {
      const begin = columns.from + columns.stride * stretch.first + columns.dilation * stretch.start;
      return tilesOf(stretch.count, size).map(({ size, count, at }) =>
        sequence(
          set(x, i32.add(inputs, bytesOf(begin + at * columns.stride, wide))),
          set(dy, i32.add(gradients, bytesOf(stretch.first + at, wide))),
          repeat(
            kernel,
            count,
            [[x, bytesOf(size * columns.stride, wide)], [dy, bytesOf(size, wide)]],
            sequence(
              ...upstream.slice(0, size).map((local, index) =>
                set(local, v128.load(dy, bytesOf(index, wide)))
              ),
              ...totals.flatMap((line, index) =>
                meetings(columns, stretch, size).flatMap(({ pixel: read, pairs }) => [
                  set(pixel, v128.load(x, (start + index) * rows.dilation * rowPitch + bytesOf(read, wide))),
                  ...pairs.map(({ target, place }) =>
                    set(line[place]!, multiplyAdd(relaxed, pixel, upstream[target]!, line[place]!))
                  ),
                ])
              ),
            ),
          ),
        )
      );
    });
    kernel.add(repeat(
      kernel,
      wide / 4,
      [[inputs, 16], [gradients, 16], [target, 16]],
      sequence(
        each((total) => set(total, f32x4.const(0))),
        countUp(
          row,
          0,
          count,
          1,
          sequence(
            ...across,
            set(inputs, i32.add(inputs, rows.stride * rowPitch)),
            set(gradients, i32.add(gradients, upRow)),
          ),
        ),
        each((total, index, place) =>
          v128.store(target, f32x4.add(v128.load(target, offset(index, place)), total), offset(index, place))
        ),
        set(inputs, i32.sub(inputs, i32.mul(count, rows.stride * rowPitch))),
        set(gradients, i32.sub(gradients, i32.mul(count, upRow))),
      ),
    ));
    return kernel.index;
  }

  /** Copies the sums, whole vectors of channels, to the filter gradient. */
  function narrow(): Code {
    const { read, written } = variables(run, "i32", "read", "written");
    const vectors = Array.from({ length: wide / 4 }, (_, vector) => {
      const lanes = Math.min(channels - 4 * vector, 4);
      return storeLanes(written, loadLanes(read, 4, 16 * vector), lanes, 16 * vector);
    });
    return sequence(
      set(read, sums),
      set(written, filter),
      repeat(
        run,
        height.kernel * width.kernel,
        [[read, bytesOf(wide)], [written, bytesOf(channels)]],
        sequence(...vectors),
      ),
    );
  }
}
