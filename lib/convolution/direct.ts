/**
 * Regular convolutions by register-tiled products of the images as they lie: no image is unfolded. Of a row of output pixels the
 * inputs are a constant distance apart, so that a tile of pixels times a block of filters reads them in place; padding is a copy of
 * the image with zeros around it, made for a few images at a time.
 */
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
  type Course,
  divisorUpTo,
  forwardCourse,
  gradientCourses,
  GROUP_BYTES,
  paddingFor,
  type Part,
  partsOf,
  ScratchPlan,
} from "./_courses.ts";
import { filterGradientKernel } from "./_direct_filter_gradient.ts";
import {
  type ColumnBlock,
  columnBlocks,
  type Level,
  packColumns,
  padImages,
  productTiles,
  repeat,
  rowTiles,
  transposeMatrix,
  wholeVectors,
} from "./_micro_kernels.ts";
import type { ConvolutionGeometry, ConvolutionProduct } from "./geometry.ts";
import type { ConvolutionGenerator, ConvolutionKernel, GeneratorSettings } from "./kernel.ts";

/** Makes kernels for every regular convolution. */
export const directConvolution: ConvolutionGenerator = (product, geometry, settings) => {
  if (geometry.kind !== "regular") return null;
  if (product === "filterGradient") return filterGradientKernel(geometry, settings);
  return new ImageKernel(product, geometry, settings).kernel();
};

/** Target pixels with the same taps: a course along each axis. */
interface Strip {
  readonly rows: Course;
  readonly across: Course;
}

/** How source and target images of a part lie: bytes from row to row and image to image, and the first pixel of what is read. */
interface Layout {
  /** Images worked on at a time. */
  readonly group: number;
  readonly source: {
    readonly row: number;
    readonly image: number;
    readonly firstRow: number;
    readonly firstColumn: number;
  };
  readonly target: { readonly row: number; readonly image: number };
}

/** The products that give images: forward, and the gradient to the input, which for each phase of the stride is alike. */
class ImageKernel {
  readonly #module = new ModuleBuilder();
  readonly #run = this.#module.function("run", ["i32", "i32", "i32", "i32"]);
  readonly #plan = new ScratchPlan();
  readonly #packed = new Map<string, number>();
  readonly #settings: GeneratorSettings;
  readonly #forward: boolean;
  readonly #kernelWidth: number;
  /** Channels of the source, over which is summed, and of the target. */
  readonly #inner: number;
  readonly #columns: number;
  /** The filter's taps, [tap][inner][columns]. */
  readonly #taps: Local;

  constructor(
    product: Exclude<ConvolutionProduct, "filterGradient">,
    geometry: ConvolutionGeometry,
    settings: GeneratorSettings,
  ) {
    const { channels, outputs, axes: [height, width] } = geometry;
    this.#settings = settings;
    this.#forward = product === "forward";
    this.#kernelWidth = width.kernel;
    [this.#inner, this.#columns] = this.#forward ? [channels, outputs] : [outputs, channels];
    this.#taps = this.#forward ? this.#run.params[1]! : this.#transposed(height.kernel * width.kernel);
    for (const part of partsOf(geometry)) this.#addPart(part);
  }

  kernel(): ConvolutionKernel {
    return { bytes: this.#module.bytes(this.#settings.pages), scratchBytes: this.#plan.bytes };
  }

  #transposed(taps: number): Local {
    const [filter, scratch] = [this.#run.params[1]!, this.#run.params[3]!];
    const { target } = variables(this.#run, "i32", "target");
    const tap = bytesOf(this.#inner, this.#columns);
    const transpose = transposeMatrix(this.#module, this.#columns, this.#inner);
    this.#run.add(set(target, i32.add(scratch, this.#plan.take(taps * tap))));
    for (let index = 0; index < taps; index++) {
      this.#run.add(call(transpose.index, i32.add(filter, index * tap), i32.add(target, index * tap)));
    }
    return target;
  }

  /** Packs the taps of a strip block by block; the offset in the scratch. */
  #pack({ rows, across }: Strip): number {
    const taps = rows.taps.flatMap((row) => across.taps.map((column) => row * this.#kernelWidth + column));
    const present = this.#packed.get(taps.join());
    if (present !== undefined) return present;
    const [inner, columns, scratch] = [this.#inner, this.#columns, this.#run.params[3]!];
    const offset = this.#plan.take(bytesOf(taps.length, inner, wholeVectors(columns)));
    this.#packed.set(taps.join(), offset);
    const lastLanes = columnBlocks(columns).at(-1)!.vectors * 4;
    const last = offset + bytesOf(taps.length * inner, Math.floor(columns / 8) * 8);
    const pack = packColumns(this.#module, inner, columns, bytesOf(taps.length * inner, 8));
    taps.forEach((tap, place) =>
      this.#run.add(call(
        pack.index,
        i32.add(this.#taps, tap * bytesOf(inner, columns)),
        i32.add(scratch, offset + place * bytesOf(inner, 8)),
        i32.add(scratch, last + place * bytesOf(inner, lastLanes)),
      ))
    );
    return offset;
  }

  #addPart({ batch, axes, pixels }: Part): void {
    const [module, run, inner, columns] = [this.#module, this.#run, this.#inner, this.#columns];
    const [input, , output, scratch] = run.params;
    const [sourceImages, targetImages] = this.#forward ? [input, output] : [output, input];
    const [down, along] = axes.map((axis) =>
      this.#forward ? [forwardCourse(axis)] : gradientCourses(axis)
    ) as [
      Course[],
      Course[],
    ];
    const [height, width] = axes.map(({ input, output }) =>
      this.#forward ? { source: input, target: output } : { source: output, target: input }
    ) as [Record<"source" | "target", number>, Record<"source" | "target", number>];
    const strips = down.flatMap((rows) => along.map((across): Strip => ({ rows, across })));
    const busy = strips.filter(({ rows, across }) => rows.taps.length * across.taps.length > 0);
    const targetRow = bytesOf(width.target, columns);
    const targetImage = height.target * targetRow;
    if (busy.length < strips.length) run.add(memory.fill(targetImages, 0, batch * targetImage));
    if (busy.length === 0) return;

    const vertical = paddingFor(height.source, down);
    const horizontal = paddingFor(width.source, along);
    const row = bytesOf(horizontal.length, inner);
    const image = vertical.length * row;
    const group = divisorUpTo(batch, GROUP_BYTES / image);
    const layout: Layout = {
      group,
      source: { row, image, firstRow: vertical.from, firstColumn: horizontal.from },
      target: { row: targetRow, image: targetImage },
    };
    const { at, to, from } = variables(run, "i32", "at", "to", "from");
    let read = set(from, at);
    if (vertical.padded || horizontal.padded) {
      const copy = padImages(module, [vertical, horizontal], inner, inner);
      run.add(
        set(from, i32.add(scratch, this.#plan.take(group * image))),
        memory.fill(from, 0, group * image),
      );
      read = call(copy.index, at, from, group);
    }
    const body = [read, ...busy.map((strip) => this.#strip(strip, layout, from, to))];
    const sourceImage = bytesOf(height.source, width.source, inner);
    run.add(
      set(at, i32.add(sourceImages, bytesOf(pixels, inner))),
      set(to, i32.add(targetImages, bytesOf(pixels, columns))),
      repeat(run, batch / group, [[at, group * sourceImage], [to, group * targetImage]], sequence(...body)),
    );
  }

  /** A strip of a group of images: for each block of columns, whose taps then stay in the first cache, row by row. */
  #strip(strip: Strip, { group, source, target }: Layout, from: Local, to: Local): Code {
    const { rows, across } = strip;
    const [run, columns, scratch] = [this.#run, this.#columns, this.#run.params[3]!];
    const packed = this.#pack(strip);
    const reach = rows.taps.length * across.taps.length * this.#inner;
    const firstPixel = (rows.from - source.firstRow) * source.row +
      bytesOf(across.from - source.firstColumn, this.#inner);
    const firstTarget = rows.targetFrom * target.row + bytesOf(across.targetFrom, columns);
    const { right, out, leftImage, outImage, left, outRow } = variables(
      run,
      "i32",
      "right",
      "out",
      "leftImage",
      "outImage",
      "left",
      "outRow",
    );
    let first = 0;
    const blocks = columnBlocks(columns).map((block) => {
      const lanes = block.vectors * 4;
      const row = repeat(
        run,
        rows.count,
        [[left, rows.stride * source.row], [outRow, rows.targetStep * target.row]],
        this.#row(strip, block, source.row, [left, right, outRow]),
      );
      const image = sequence(set(left, leftImage), set(outRow, outImage), row);
      const images = repeat(run, group, [[leftImage, source.image], [outImage, target.image]], image);
      const code = sequence(
        set(right, i32.add(scratch, packed + bytesOf(reach, first))),
        set(out, i32.add(to, firstTarget + bytesOf(first))),
        repeat(
          run,
          block.count,
          [[right, bytesOf(reach, lanes)], [out, bytesOf(lanes)]],
          sequence(set(leftImage, i32.add(from, firstPixel)), set(outImage, out), images),
        ),
      );
      first += block.count * lanes;
      return code;
    });
    return sequence(...blocks);
  }

  /** A row of target pixels, some columns of them, tile by tile. */
  #row(
    { rows, across }: Strip,
    block: ColumnBlock,
    rowPitch: number,
    [left, right, out]: readonly [Local, Local, Local],
  ): Code {
    const [inner, lanes] = [this.#inner, block.vectors * 4];
    const [tapRows, taps] = [rows.taps.length, across.taps.length];
    // Neighbouring taps read neighbouring numbers.
    const contiguous = across.dilation === 1 || taps === 1;
    const numbers = (count: number): Level => ({ count, left: bytesOf(1), right: bytesOf(lanes) });
    const levels: Level[] = contiguous ? [numbers(taps * inner)] : [
      { count: taps, left: bytesOf(across.dilation, inner), right: bytesOf(inner, lanes) },
      numbers(inner),
    ];
    if (tapRows > 1) {
      levels.unshift({ count: tapRows, left: rows.dilation * rowPitch, right: bytesOf(taps * inner, lanes) });
    }
    const product = {
      levels,
      leftPitch: bytesOf(across.stride, inner),
      outPitch: bytesOf(across.targetStep, this.#columns),
      accumulate: false,
      relaxed: this.#settings.relaxed,
    };
    let done = 0;
    return sequence(
      ...rowTiles(across.count).map(({ rows, count }) => {
        const { index } = productTiles(this.#module, product, rows, block);
        const code = call(
          index,
          i32.add(left, done * product.leftPitch),
          right,
          i32.add(out, done * product.outPitch),
          count,
        );
        done += rows * count;
        return code;
      }),
    );
  }
}
