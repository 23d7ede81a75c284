/**
 * 3 x 3 convolutions of stride 1 by Winograd's minimal filtering F(4 x 4, 3 x 3), 36 products per 16 output pixels instead of 144, or
 * F(3 x 3, 3 x 3), 25 per 9 instead of 81, whichever covers the image with fewer.
 * Tiles of images and the filter are mapped to so many places each, the products are summed over the channels (of the filter gradient:
 * over the tiles) place by place, and the sums are mapped back. Only a block of tiles is in the mapped form at a time.
 */
import { call, type Code, countUp, i32, type Local, memory, sequence, set, when } from "../wasm/mod.ts";
import { bytesOf } from "./_courses.ts";
import {
  FLOAT,
  type PaddedAxis,
  type Product,
  repeat,
  transposeMatrix,
  variables,
} from "./_micro_kernels.ts";
import {
  blocksOf,
  eachRow,
  productsOf,
  type Scheme,
  schemeFor,
  type TileMapping,
  type TileSource,
  WinogradBuilder,
} from "./_winograd_builder.ts";
import { type Matrix, transpose } from "./_winograd_transforms.ts";
import type { Axis, ConvolutionGeometry, ConvolutionProduct } from "./geometry.ts";
import type { ConvolutionGenerator, ConvolutionKernel, GeneratorSettings } from "./kernel.ts";

/** With fewer tiles mapping the filter costs more than what is saved. */
const LEAST_TILES = 16;

/** Makes kernels for what gains: enough channels to outweigh the maps, images that tiles cover without much waste. */
export const winogradConvolution: ConvolutionGenerator = (product, geometry, settings) => {
  const { kind, axes, batch, channels, outputs } = geometry;
  const fits = axes.every(({ kernel, stride, dilation }) => kernel === 3 && stride === 1 && dilation === 1);
  if (kind !== "regular" || !fits) return null;
  if (channels % 4 !== 0 || outputs % 4 !== 0 || channels < 8 || outputs < 8) return null;
  const sizes = axes.map((axis) => product === "inputGradient" ? axis.input : axis.output) as [
    number,
    number,
  ];
  const scheme = schemeFor(...sizes);
  if (1.5 * productsOf(scheme, ...sizes) > 9 * sizes[0] * sizes[1]) return null;
  if (batch * productsOf(scheme, ...sizes) < LEAST_TILES * scheme.places) return null;
  return product === "filterGradient"
    ? filterGradientKernel(geometry, settings)
    : imageKernel(product, geometry, settings);
};

/** Maps a row of tiles of images to [place][tile][channel], places `pitch` bytes apart. */
function tilesToPlaces(
  { outputs }: Scheme,
  map: Matrix,
  { channels, rowPitch }: TileSource,
  tiles: number,
  pitch: number,
): TileMapping {
  return {
    rowMap: map,
    columnMap: map,
    tiles,
    vectors: channels / 4,
    load: (row, column) => row * rowPitch + bytesOf(column, channels),
    store: (row, column) => (map.length * row + column) * pitch,
    sourceStep: bytesOf(outputs, channels),
    targetStep: bytesOf(channels),
  };
}

/** Along an axis: sizes, and the first source pixel that the first tile reads. */
interface Side {
  readonly source: number;
  readonly target: number;
  readonly from: number;
}

/** Forward, and the gradient to the input, which is the same with the filter turned and channels and outputs exchanged. */
function imageKernel(
  direction: Exclude<ConvolutionProduct, "filterGradient">,
  { batch, axes, channels, outputs }: ConvolutionGeometry,
  settings: GeneratorSettings,
): ConvolutionKernel {
  const forward = direction === "forward";
  const [inner, columns] = forward ? [channels, outputs] : [outputs, channels];
  const [height, width] = axes.map(({ input, output, before }) => ({
    source: forward ? input : output,
    target: forward ? output : input,
    from: forward ? -before : before - 2,
  })) as [Side, Side];
  const scheme = schemeFor(height.target, width.target);
  const { outputs: side, places, maps } = scheme;
  const builder = new WinogradBuilder(scheme, settings);
  const { run, module } = builder;
  const [input, filter, output] = builder.parameters;
  const [source, target] = forward ? [input, output] : [output, input];
  const blocks = blocksOf(scheme, batch, height.target, width.target, inner + columns);
  const { images, parts, rows, columns: across, tiles } = blocks;

  let taps = filter;
  if (!forward) {
    taps = builder.scratch(bytesOf(9, inner, columns));
    const turn = transposeMatrix(module, columns, inner);
    const bytes = bytesOf(inner, columns);
    for (let tap = 0; tap < 9; tap++) {
      run.add(call(turn.index, i32.add(filter, tap * bytes), i32.add(taps, (8 - tap) * bytes)));
    }
  }
  const mappedFilter = builder.scratch(bytesOf(places, inner, columns));
  const all = [0, 1, 2];
  const filterMapping = {
    rows: all,
    columns: all,
    rowMap: maps.filter,
    columnMap: maps.filter,
    place: (row: number, column: number) => scheme.size * row + column,
  };
  run.add(call(builder.mapFilter(filterMapping, inner, columns), taps, mappedFilter));

  const { at, to, part } = variables(builder.run, "i32", "at", "to", "part");
  run.add(set(at, source), set(to, target));
  const padded = (axis: Side): PaddedAxis => ({
    input: axis.source,
    from: axis.from,
    length: Math.ceil(axis.target / side) * side + 2,
  });
  const tileSource = builder.source([padded(height), padded(width)], inner, images, at);
  const [leftPlace, outPlace] = [bytesOf(tiles, inner), bytesOf(tiles, columns)];
  const mapped = builder.scratch(places * leftPlace);
  const sums = builder.scratch(places * outPlace);
  const mapRow = builder.mapping(tilesToPlaces(scheme, maps.input, tileSource, across, leftPlace));
  const product = (lanes: number): Product => ({
    levels: [{ count: inner, left: FLOAT, right: bytesOf(lanes) }],
    leftPitch: bytesOf(inner),
    outPitch: bytesOf(columns),
    accumulate: false,
    relaxed: settings.relaxed,
  });

  const targetRow = bytesOf(width.target, columns);
  const { reading, writing, from, onto } = variables(
    builder.run,
    "i32",
    "reading",
    "writing",
    "from",
    "onto",
  );
  const whole = Math.floor(width.target / side);
  const restHeight = (height.target - 1) % side + 1;
  const restWidth = width.target % side;
  const placesToPixels = (height: number, width: number, count: number): TileMapping => ({
    rowMap: maps.output,
    columnMap: maps.output,
    tiles: count,
    vectors: columns / 4,
    load: (row, column) => (scheme.size * row + column) * outPlace,
    store: (row, column) =>
      row < height && column < width ? row * targetRow + bytesOf(column, columns) : null,
    sourceStep: bytesOf(columns),
    targetStep: bytesOf(side, columns),
  });
  /** Writes a row of tiles of which `existing` rows of pixels exist. */
  const writeRow = (existing: number): Code => {
    const codes: Code[] = [];
    if (whole > 0) {
      const back = builder.mapping(placesToPixels(existing, side, whole));
      codes.push(call(back, from, onto));
    }
    if (restWidth > 0) {
      const back = builder.mapping(placesToPixels(existing, restWidth, 1));
      codes.push(call(
        back,
        i32.add(from, bytesOf(whole, columns)),
        i32.add(onto, bytesOf(whole * side, columns)),
      ));
    }
    return sequence(...codes);
  };
  const fullRow = writeRow(side);
  const tileRowBytes = side * tileSource.rowPitch;
  const block = sequence(
    set(reading, i32.add(tileSource.from, i32.mul(part, rows * tileRowBytes))),
    set(writing, mapped),
    eachRow(builder, blocks, [
      { local: reading, row: tileRowBytes, image: tileSource.imagePitch },
      { local: writing, row: bytesOf(across, inner), image: rows * bytesOf(across, inner) },
    ], () => call(mapRow, reading, writing)),
    builder.products(product, tiles, columns, [mapped, mappedFilter, sums], [
      leftPlace,
      bytesOf(inner, columns),
      outPlace,
    ], (lanes) => bytesOf(inner, lanes)),
    set(from, sums),
    set(onto, i32.add(to, i32.mul(part, rows * side * targetRow))),
    eachRow(
      builder,
      blocks,
      [
        { local: from, row: bytesOf(across, columns), image: rows * bytesOf(across, columns) },
        { local: onto, row: side * targetRow, image: height.target * targetRow },
      ],
      (row) =>
        // The last row of tiles may stand out of the image.
        restHeight === side
          ? fullRow
          : when(i32.eq(i32.add(row, i32.mul(part, rows)), rows * parts - 1), writeRow(restHeight), fullRow),
    ),
  );
  run.add(repeat(
    run,
    batch / images,
    [[at, images * bytesOf(height.source, width.source, inner)], [to, images * height.target * targetRow]],
    sequence(
      tileSource.prepare,
      countUp(part, 0, parts, 1, block),
    ),
  ));
  return builder.kernel();
}

/** The gradient to the filter: tiles of the input and of the gradient to the output are mapped, their products summed over the tiles. */
function filterGradientKernel(
  { batch, axes, channels, outputs }: ConvolutionGeometry,
  settings: GeneratorSettings,
): ConvolutionKernel {
  const [height, width] = axes;
  const scheme = schemeFor(height.output, width.output);
  const { outputs: side, places, maps } = scheme;
  const builder = new WinogradBuilder(scheme, settings);
  const { run } = builder;
  const [input, filter, output] = builder.parameters;
  const blocks = blocksOf(scheme, batch, height.output, width.output, channels + outputs);
  const { images, parts, rows, columns: across, tiles } = blocks;
  const { at, up, part } = variables(builder.run, "i32", "at", "up", "part");
  run.add(set(at, input), set(up, output));
  const covered = (size: number) => Math.ceil(size / side) * side;
  const read = ({ input, output, before }: Axis): PaddedAxis => ({
    input,
    from: -before,
    length: covered(output) + 2,
  });
  const upstream = ({ output }: Axis): PaddedAxis => ({ input: output, from: 0, length: covered(output) });
  const inputs = builder.source([read(height), read(width)], channels, images, at);
  const gradients = builder.source([upstream(height), upstream(width)], outputs, images, up);
  const pitches = [bytesOf(tiles, channels), bytesOf(tiles, outputs), bytesOf(channels, outputs)] as const;
  const [mapped, mappedGradients, sums] = pitches.map((pitch) => builder.scratch(places * pitch)) as [
    Local,
    Local,
    Local,
  ];
  const sides = [
    { source: inputs, map: maps.input, target: mapped, pitch: pitches[0] },
    { source: gradients, map: transpose(maps.output), target: mappedGradients, pitch: pitches[1] },
  ];
  const mapBlock = sides.map(({ source, map, target, pitch }) => {
    const { reading, writing } = variables(builder.run, "i32", "reading", "writing");
    const mapRow = builder.mapping(tilesToPlaces(scheme, map, source, across, pitch));
    const tileRow = side * source.rowPitch;
    const written = bytesOf(across, source.channels);
    return sequence(
      set(reading, i32.add(source.from, i32.mul(part, rows * tileRow))),
      set(writing, target),
      eachRow(builder, blocks, [
        { local: reading, row: tileRow, image: source.imagePitch },
        { local: writing, row: written, image: rows * written },
      ], () => call(mapRow, reading, writing)),
    );
  });
  const product: Product = {
    levels: [{ count: tiles, left: bytesOf(channels), right: bytesOf(outputs) }],
    leftPitch: FLOAT,
    outPitch: bytesOf(outputs),
    accumulate: true,
    relaxed: settings.relaxed,
  };
  const filterBack: TileMapping = {
    rowMap: transpose(maps.filter),
    columnMap: transpose(maps.filter),
    tiles: 1,
    vectors: channels * outputs / 4,
    load: (row, column) => (scheme.size * row + column) * pitches[2],
    store: (row, column) => (3 * row + column) * pitches[2],
    sourceStep: 0,
    targetStep: 0,
  };
  run.add(
    memory.fill(sums, 0, places * pitches[2]),
    repeat(
      run,
      batch / images,
      [[at, images * bytesOf(height.input, width.input, channels)], [
        up,
        images * bytesOf(height.output, width.output, outputs),
      ]],
      sequence(
        inputs.prepare,
        gradients.prepare,
        countUp(
          part,
          0,
          parts,
          1,
          sequence(
            ...mapBlock,
            builder.products(
              () => product,
              channels,
              outputs,
              [mapped, mappedGradients, sums],
              pitches,
              bytesOf,
            ),
          ),
        ),
      ),
    ),
    call(builder.mapping(filterBack), sums, filter),
  );
  return builder.kernel();
}
