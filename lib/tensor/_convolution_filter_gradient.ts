/** The gradient to the filter of regular convolutions, by register-tiled products of the images as they lie. */
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
import type { ConvolutionGeometry } from "./_convolution_engine.ts";
import {
  columnBlocks,
  type Level,
  padImages,
  productTiles,
  rowTiles,
  wholeVectors,
} from "./_convolution_kernels.ts";
import {
  bytesOf,
  type ConvolutionProgram,
  divisorUpTo,
  forwardCourse,
  type GeneratorSettings,
  GROUP_BYTES,
  paddingFor,
  type Part,
  partsOf,
  ScratchPlan,
} from "./_convolution_program.ts";

/** Bytes of pixels whose contributions to all of the filter are summed in one go: about a first-level cache. */
const CHUNK_BYTES = 48 * 1024;

/** The gradient to the filter: over chunks of pixels, rows of the filter gradient are neighbouring inputs times the gradients. */
export function filterGradientProgram(
  geometry: ConvolutionGeometry,
  { relaxed, pages }: GeneratorSettings,
): ConvolutionProgram {
  const { channels, outputs } = geometry;
  const [{ kernel: kernelHeight }, { kernel: kernelWidth }] = geometry.axes;
  const module = new ModuleBuilder();
  const run = module.function("run", ["i32", "i32", "i32", "i32"]);
  const [input, filter, output, scratch] = run.params as [Local, Local, Local, Local];
  const plan = new ScratchPlan();
  const wide = wholeVectors(outputs);
  run.add(memory.fill(filter, 0, bytesOf(kernelHeight, kernelWidth, channels, outputs)));
  for (const part of partsOf(geometry)) addPart(part);
  return { bytes: module.bytes(pages), scratchBytes: plan.bytes };

  function addPart({ batch, axes, pixels }: Part): void {
    const [height, width] = axes;
    const vertical = paddingFor(height.input, [forwardCourse(height)]);
    const horizontal = paddingFor(width.input, [forwardCourse(width)]);
    const padded = vertical.padded || horizontal.padded;
    const pixelPitch = bytesOf(channels);
    const rowPitch = horizontal.length * pixelPitch;
    const imagePitch = vertical.length * rowPitch;
    const upRow = bytesOf(width.output, wide);
    const upImage = height.output * upRow;
    const group = divisorUpTo(batch, GROUP_BYTES / imagePitch);
    const chunkRow = height.stride * rowPitch + upRow;
    const chunkRows = divisorUpTo(height.output, CHUNK_BYTES / chunkRow);
    const chunkImages = chunkRows < height.output
      ? 1
      : divisorUpTo(group, CHUNK_BYTES / (chunkRow * height.output));

    const [at, to, from, up, counter] = Array.from({ length: 5 }, () => run.local("i32")) as [
      Local,
      Local,
      Local,
      Local,
      Local,
    ];
    const body: Code[] = [];
    if (padded) {
      const copy = padImages(module, [vertical, horizontal], channels, channels);
      run.add(
        set(from, i32.add(scratch, plan.take(group * imagePitch))),
        memory.fill(from, 0, group * imagePitch),
      );
      body.push(call(copy.index, at, from, group));
    } else {
      body.push(set(from, at));
    }
    if (wide !== outputs) {
      const whole = (size: number) => ({ input: size, from: 0, length: size });
      const copy = padImages(module, [whole(height.output), whole(width.output)], outputs, wide);
      run.add(set(up, i32.add(scratch, plan.take(group * upImage))));
      body.push(call(copy.index, to, up, group));
    } else {
      body.push(set(up, to));
    }

    const levels: Level[] = [
      { count: chunkImages, left: imagePitch, right: upImage },
      { count: chunkRows, left: height.stride * rowPitch, right: upRow },
      { count: width.output, left: width.stride * pixelPitch, right: bytesOf(wide) },
    ];
    const product = {
      levels: levels.slice(chunkImages > 1 ? 0 : chunkRows > 1 ? 1 : 2),
      leftPitch: bytesOf(1),
      outPitch: bytesOf(outputs),
      accumulate: true,
      relaxed,
    };
    const contiguous = width.dilation === 1 || kernelWidth === 1;
    const rowsAtOnce = contiguous ? kernelWidth * channels : channels;
    const [image, row, n, a, b, right, out] = Array.from({ length: 7 }, () => run.local("i32")) as [
      Local,
      Local,
      Local,
      Local,
      Local,
      Local,
      Local,
    ];
    const products: Code[] = columnBlocks(outputs).flatMap((block, blockIndex) => {
      const first = blockIndex * Math.floor(outputs / 8) * 8;
      const tiles = rowTiles(rowsAtOnce).map((tile) => ({
        ...tile,
        index: productTiles(module, product, tile.rows, block).index,
      }));
      const calls: Code[] = [];
      for (let tapRow = 0; tapRow < kernelHeight; tapRow++) {
        for (let tap = 0; tap < (contiguous ? 1 : kernelWidth); tap++) {
          let done = 0;
          for (const { rows, count, index } of tiles) {
            const place = (tapRow * kernelWidth + tap) * channels + done;
            calls.push(call(
              index,
              i32.add(
                a,
                tapRow * height.dilation * rowPitch + tap * width.dilation * pixelPitch + bytesOf(done),
              ),
              right,
              i32.add(out, bytesOf(place, outputs)),
              count,
            ));
            done += rows * count;
          }
        }
      }
      return [
        set(right, i32.add(b, bytesOf(first))),
        set(out, i32.add(filter, bytesOf(first))),
        countUp(
          n,
          0,
          block.count,
          1,
          sequence(
            ...calls,
            set(right, i32.add(right, bytesOf(block.vectors * 4))),
            set(out, i32.add(out, bytesOf(block.vectors * 4))),
          ),
        ),
      ];
    });
    // Between the chunks of an image, and from one image to the next.
    const [leftRows, rightRows] = [chunkRows * height.stride * rowPitch, chunkRows * upRow];
    const rowChunks = height.output / chunkRows;
    body.push(
      set(
        a,
        i32.add(
          from,
          (-height.before - vertical.from) * rowPitch + (-width.before - horizontal.from) * pixelPitch,
        ),
      ),
      set(b, up),
      countUp(
        image,
        0,
        group / chunkImages,
        1,
        sequence(
          countUp(
            row,
            0,
            rowChunks,
            1,
            sequence(...products, set(a, i32.add(a, leftRows)), set(b, i32.add(b, rightRows))),
          ),
          set(a, i32.add(a, chunkImages * imagePitch - rowChunks * leftRows)),
          set(b, i32.add(b, chunkImages * upImage - rowChunks * rightRows)),
        ),
      ),
    );
    run.add(
      set(at, i32.add(input, bytesOf(pixels, channels))),
      set(to, i32.add(output, bytesOf(pixels, outputs))),
      countUp(
        counter,
        0,
        batch / group,
        1,
        sequence(
          ...body,
          set(at, i32.add(at, bytesOf(group, height.input, width.input, channels))),
          set(to, i32.add(to, bytesOf(group, height.output, width.output, outputs))),
        ),
      ),
    );
  }
}
