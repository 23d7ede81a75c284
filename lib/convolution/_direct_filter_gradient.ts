/** The gradient to the filter of regular convolutions, by register-tiled products of the images as they lie. */
import {
  call,
  type Code,
  i32,
  type Local,
  memory,
  ModuleBuilder,
  sequence,
  set,
  variables,
} from "../wasm/mod.ts";
import {
  bytesOf,
  divisorUpTo,
  forwardCourse,
  GROUP_BYTES,
  paddingFor,
  type Part,
  partsOf,
  ScratchPlan,
} from "./_courses.ts";
import {
  columnBlocks,
  type Level,
  padImages,
  productTiles,
  repeat,
  rowTiles,
  wholeVectors,
} from "./_micro_kernels.ts";
import type { ConvolutionGeometry } from "./geometry.ts";
import type { ConvolutionKernel, GeneratorSettings } from "./kernel.ts";

/** Bytes of pixels whose contributions to all of the filter are summed in one go: about a first-level cache. */
const CHUNK_BYTES = 48 * 1024;

/** Over chunks of pixels, rows of the filter gradient are neighbouring inputs times the gradients. */
export function filterGradientKernel(
  geometry: ConvolutionGeometry,
  settings: GeneratorSettings,
): ConvolutionKernel {
  const { channels, outputs, axes: [height, width] } = geometry;
  const module = new ModuleBuilder();
  const run = module.function("run", ["i32", "i32", "i32", "i32"]);
  const [input, filter, output, scratch] = run.params;
  const plan = new ScratchPlan();
  const wide = wholeVectors(outputs);
  run.add(memory.fill(filter, 0, bytesOf(height.kernel, width.kernel, channels, outputs)));
  for (const part of partsOf(geometry)) addPart(part);
  return { bytes: module.bytes(settings.pages), scratchBytes: plan.bytes };

  function addPart({ batch, axes, pixels }: Part): void {
    const [height, width] = axes;
    const vertical = paddingFor(height.input, [forwardCourse(height)]);
    const horizontal = paddingFor(width.input, [forwardCourse(width)]);
    const row = bytesOf(horizontal.length, channels);
    const image = vertical.length * row;
    const upRow = bytesOf(width.output, wide);
    const upImage = height.output * upRow;
    const group = divisorUpTo(batch, GROUP_BYTES / image);
    // As many rows, or whole images, as fit the cache.
    const read = height.stride * row + upRow;
    const rows = divisorUpTo(height.output, CHUNK_BYTES / read);
    const images = rows < height.output ? 1 : divisorUpTo(group, CHUNK_BYTES / (read * height.output));

    const { at, to, from, up, left, gradients } = variables(
      run,
      "i32",
      "at",
      "to",
      "from",
      "up",
      "left",
      "gradients",
    );
    let prepare = set(from, at);
    if (vertical.padded || horizontal.padded) {
      const copy = padImages(module, [vertical, horizontal], channels, channels);
      run.add(set(from, i32.add(scratch, plan.take(group * image))), memory.fill(from, 0, group * image));
      prepare = call(copy.index, at, from, group);
    }
    let prepareGradients = set(up, to);
    if (wide !== outputs) {
      const whole = (size: number) => ({ input: size, from: 0, length: size });
      const copy = padImages(module, [whole(height.output), whole(width.output)], outputs, wide);
      run.add(set(up, i32.add(scratch, plan.take(group * upImage))));
      prepareGradients = call(copy.index, to, up, group);
    }
    const levels: Level[] = [
      { count: images, left: image, right: upImage },
      { count: rows, left: height.stride * row, right: upRow },
      { count: width.output, left: bytesOf(width.stride, channels), right: bytesOf(wide) },
    ];
    const chunk = products(levels.slice(images > 1 ? 0 : rows > 1 ? 1 : 2), row, left, gradients);
    const chunks = height.output / rows;
    const [leftChunk, upChunk] = [rows * height.stride * row, rows * upRow];
    const body = sequence(
      prepare,
      prepareGradients,
      set(
        left,
        i32.add(
          from,
          (-height.before - vertical.from) * row + bytesOf(-width.before - horizontal.from, channels),
        ),
      ),
      set(gradients, up),
      repeat(
        run,
        group / images,
        [[left, images * image - chunks * leftChunk], [gradients, images * upImage - chunks * upChunk]],
        repeat(run, chunks, [[left, leftChunk], [gradients, upChunk]], chunk),
      ),
    );
    const steps = [
      [at, bytesOf(group, height.input, width.input, channels)],
      [to, bytesOf(group, height.output, width.output, outputs)],
    ] as const;
    run.add(
      set(at, i32.add(input, bytesOf(pixels, channels))),
      set(to, i32.add(output, bytesOf(pixels, outputs))),
      repeat(run, batch / group, steps, body),
    );
  }

  /** The contributions of a chunk of pixels to all of the filter gradient. */
  function products(levels: readonly Level[], rowPitch: number, left: Local, gradients: Local): Code {
    const product = {
      levels,
      leftPitch: bytesOf(1),
      outPitch: bytesOf(outputs),
      accumulate: true,
      relaxed: settings.relaxed,
    };
    // Neighbouring taps read neighbouring numbers: rows of the filter gradient that one tile may hold.
    const contiguous = width.dilation === 1 || width.kernel === 1;
    const [steps, rowsAtOnce] = contiguous ? [1, width.kernel * channels] : [width.kernel, channels];
    const { right, out } = variables(run, "i32", "right", "out");
    let first = 0;
    const blocks = columnBlocks(outputs).map((block) => {
      const tiles = rowTiles(rowsAtOnce).map(({ rows, count }) => ({
        rows,
        count,
        index: productTiles(module, product, rows, block).index,
      }));
      const calls: Code[] = [];
      for (let tapRow = 0; tapRow < height.kernel; tapRow++) {
        for (let tap = 0; tap < steps; tap++) {
          const pixel = tapRow * height.dilation * rowPitch + bytesOf(tap * width.dilation, channels);
          let done = 0;
          for (const { rows, count, index } of tiles) {
            const place = (tapRow * width.kernel + tap) * channels + done;
            calls.push(call(
              index,
              i32.add(left, pixel + bytesOf(done)),
              right,
              i32.add(out, bytesOf(place, outputs)),
              count,
            ));
            done += rows * count;
          }
        }
      }
      const lanes = block.vectors * 4;
      const code = sequence(
        set(right, i32.add(gradients, bytesOf(first))),
        set(out, i32.add(filter, bytesOf(first))),
        repeat(run, block.count, [[right, bytesOf(lanes)], [out, bytesOf(lanes)]], sequence(...calls)),
      );
      first += block.count * lanes;
      return code;
    });
    return sequence(...blocks);
  }
}
