/**
 * Regular convolutions by register-tiled products of the images as they lie: no image is unfolded. Of a row of output pixels the
 * inputs are a constant distance apart, so that a tile of pixels times a block of filters reads them in place; padding is a copy of
 * the image with zeros around it, made for a few images at a time.
 */
import {
  call,
  type Code,
  countUp,
  i32,
  type Local,
  memory,
  ModuleBuilder,
  sequence,
  set,
} from "../wasm/mod.ts";
import type { ConvolutionGeometry, ConvolutionProduct } from "./_convolution_engine.ts";
import { filterGradientProgram } from "./_convolution_filter_gradient.ts";
import {
  columnBlocks,
  type Level,
  packColumns,
  padImages,
  productTiles,
  rowTiles,
  transposeMatrix,
  wholeVectors,
} from "./_convolution_kernels.ts";
import {
  bytesOf,
  type ConvolutionGenerator,
  type ConvolutionProgram,
  type Course,
  divisorUpTo,
  forwardCourse,
  type GeneratorSettings,
  gradientCourses,
  GROUP_BYTES,
  paddingFor,
  partsOf,
  ScratchPlan,
} from "./_convolution_program.ts";

/** Makes programs for every regular convolution. */
export const directConvolution: ConvolutionGenerator = (product, geometry, settings) => {
  if (geometry.kind !== "regular") return null;
  return product === "filterGradient"
    ? filterGradientProgram(geometry, settings)
    : imageProgram(product, geometry, settings);
};

/** The products that give images: forward, and the gradient to the input. */
function imageProgram(
  product: Exclude<ConvolutionProduct, "filterGradient">,
  geometry: ConvolutionGeometry,
  { relaxed, pages }: GeneratorSettings,
): ConvolutionProgram {
  const forward = product === "forward";
  const [height, width] = geometry.axes;
  const [inner, columns] = forward
    ? [geometry.channels, geometry.outputs]
    : [geometry.outputs, geometry.channels];
  const module = new ModuleBuilder();
  const run = module.function("run", ["i32", "i32", "i32", "i32"]);
  const [input, filter, output, scratch] = run.params as [Local, Local, Local, Local];
  const [source, target] = forward ? [input, output] : [output, input];
  const plan = new ScratchPlan();
  const blocks = columnBlocks(columns);

  let taps: Local = filter;
  if (!forward) {
    taps = run.local("i32");
    const transpose = transposeMatrix(module, columns, inner);
    run.add(set(taps, i32.add(scratch, plan.take(bytesOf(height.kernel, width.kernel, inner, columns)))));
    for (let tap = 0; tap < height.kernel * width.kernel; tap++) {
      const offset = tap * bytesOf(inner, columns);
      run.add(call(transpose.index, i32.add(filter, offset), i32.add(taps, offset)));
    }
  }

  const packed = new Map<string, number>();
  const packer = (rows: number) => packColumns(module, inner, columns, bytesOf(rows * inner, 8));
  /** Packs the taps of a strip; the offset in the scratch. */
  const pack = (rows: Course, across: Course): number => {
    const list = rows.taps.flatMap((row) => across.taps.map((column) => row * width.kernel + column));
    const key = list.join();
    let offset = packed.get(key);
    if (offset === undefined) {
      offset = plan.take(bytesOf(list.length, inner, wholeVectors(columns)));
      packed.set(key, offset);
      const last = blocks.at(-1)!;
      const lastBase = offset + bytesOf(list.length * inner, Math.floor(columns / 8) * 8);
      const { index } = packer(list.length);
      list.forEach((tap, place) =>
        run.add(call(
          index,
          i32.add(taps, tap * bytesOf(inner, columns)),
          i32.add(scratch, offset! + place * bytesOf(inner, 8)),
          i32.add(scratch, lastBase + place * bytesOf(inner, last.vectors * 4)),
        ))
      );
    }
    return offset;
  };

  for (const { batch, axes, pixels } of partsOf(geometry)) {
    const courses = axes.map((axis) => forward ? [forwardCourse(axis)] : gradientCourses(axis));
    const [sourceSizes, targetSizes] = forward
      ? [axes.map((axis) => axis.input), axes.map((axis) => axis.output)]
      : [axes.map((axis) => axis.output), axes.map((axis) => axis.input)];
    const strips = courses[0]!.flatMap((rows) => courses[1]!.map((across) => ({ rows, across })));
    const busy = strips.filter(({ rows, across }) => rows.taps.length * across.taps.length > 0);
    if (busy.length < strips.length) {
      run.add(memory.fill(target, 0, bytesOf(batch, targetSizes[0]!, targetSizes[1]!, columns)));
    }
    if (busy.length === 0) continue;
    const vertical = paddingFor(sourceSizes[0]!, courses[0]!);
    const horizontal = paddingFor(sourceSizes[1]!, courses[1]!);
    const padded = vertical.padded || horizontal.padded;
    const sourceImage = bytesOf(sourceSizes[0]!, sourceSizes[1]!, inner);
    const targetImage = bytesOf(targetSizes[0]!, targetSizes[1]!, columns);
    const pixelPitch = bytesOf(inner);
    const rowPitch = horizontal.length * pixelPitch;
    const imagePitch = vertical.length * rowPitch;
    const group = divisorUpTo(batch, GROUP_BYTES / imagePitch);

    const [at, to, from, counter] = [0, 1, 2, 3].map(() => run.local("i32")) as [Local, Local, Local, Local];
    const body: Code[] = [];
    if (padded) {
      const offset = plan.take(group * imagePitch);
      const copy = padImages(module, [vertical, horizontal], inner, inner);
      run.add(
        set(from, i32.add(scratch, offset)),
        memory.fill(from, 0, group * imagePitch),
      );
      body.push(call(copy.index, at, from, group));
    } else {
      body.push(set(from, at));
    }
    for (const { rows, across } of busy) {
      const packedFilter = pack(rows, across);
      const reach = rows.taps.length * across.taps.length * inner;
      blocks.forEach((block, blockIndex) => {
        const lanes = block.vectors * 4;
        const contiguous = across.dilation === 1 || across.taps.length === 1;
        const levels: Level[] = [
          {
            count: rows.taps.length,
            left: rows.dilation * rowPitch,
            right: bytesOf(across.taps.length * inner, lanes),
          },
          ...contiguous ? [{ count: across.taps.length * inner, left: bytesOf(1), right: bytesOf(lanes) }] : [
            { count: across.taps.length, left: across.dilation * pixelPitch, right: bytesOf(inner, lanes) },
            { count: inner, left: bytesOf(1), right: bytesOf(lanes) },
          ],
        ];
        const product = {
          levels: rows.taps.length === 1 ? levels.slice(1) : levels,
          leftPitch: across.stride * pixelPitch,
          outPitch: bytesOf(across.targetStep, columns),
          accumulate: false,
          relaxed,
        };
        const tiles = rowTiles(across.count).map((tile) => ({
          ...tile,
          index: productTiles(module, product, tile.rows, block).index,
        }));
        const [n, image, row, right, out, a, o, ai, oi] = Array.from(
          { length: 9 },
          () => run.local("i32"),
        ) as [
          Local,
          Local,
          Local,
          Local,
          Local,
          Local,
          Local,
          Local,
          Local,
        ];
        const rowCalls: Code[] = [];
        let done = 0;
        for (const { rows: size, count, index } of tiles) {
          rowCalls.push(call(
            index,
            i32.add(a, done * product.leftPitch),
            right,
            i32.add(o, done * product.outPitch),
            count,
          ));
          done += size * count;
        }
        const first = blockIndex * (blocks[0]!.count * 8);
        body.push(
          set(right, i32.add(scratch, packedFilter + bytesOf(reach, first))),
          set(
            out,
            i32.add(
              to,
              bytesOf(rows.targetFrom * targetSizes[1]! + across.targetFrom, columns) + bytesOf(first),
            ),
          ),
          countUp(
            n,
            0,
            block.count,
            1,
            sequence(
              set(
                ai,
                i32.add(
                  from,
                  (rows.from - vertical.from) * rowPitch + (across.from - horizontal.from) * pixelPitch,
                ),
              ),
              set(oi, out),
              countUp(
                image,
                0,
                group,
                1,
                sequence(
                  set(a, ai),
                  set(o, oi),
                  countUp(
                    row,
                    0,
                    rows.count,
                    1,
                    sequence(
                      ...rowCalls,
                      set(a, i32.add(a, rows.stride * rowPitch)),
                      set(o, i32.add(o, bytesOf(rows.targetStep, targetSizes[1]!, columns))),
                    ),
                  ),
                  set(ai, i32.add(ai, imagePitch)),
                  set(oi, i32.add(oi, targetImage)),
                ),
              ),
              set(right, i32.add(right, bytesOf(reach, lanes))),
              set(out, i32.add(out, bytesOf(lanes))),
            ),
          ),
        );
      });
    }
    run.add(
      set(at, i32.add(source, bytesOf(pixels, inner))),
      set(to, i32.add(target, bytesOf(pixels, columns))),
      countUp(
        counter,
        0,
        batch / group,
        1,
        sequence(
          ...body,
          set(at, i32.add(at, group * sourceImage)),
          set(to, i32.add(to, group * targetImage)),
        ),
      ),
    );
  }
  return { bytes: module.bytes(pages), scratchBytes: plan.bytes };
}
