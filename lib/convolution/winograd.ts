/**
 * 3 x 3 convolutions of stride 1 by Winograd's minimal filtering F(4 x 4, 3 x 3), 36 products per 16 output pixels instead of 144, or
 * F(3 x 3, 3 x 3), 25 per 9 instead of 81, whichever covers the image with fewer.
 * Tiles of images and the filter are mapped to so many places each, the products are summed over the channels (of the filter gradient:
 * over the tiles) place by place, and the sums are mapped back. Only a block of tiles is in the mapped form at a time.
 */
import { call, type Code, i32, sequence, set, variables } from "../wasm/mod.ts";
import { bytesOf } from "./_courses.ts";
import { FLOAT, type PaddedAxis, type Product, transposeMatrix } from "./_micro_kernels.ts";
import {
  blocksOf,
  eachBlock,
  eachRow,
  isMappable,
  lastRowApart,
  LEAST_TILES,
  mapBlock,
  overBlock,
  overImages,
  placesToPixels,
  rowMajor,
  tilesToPlaces,
} from "./_winograd_blocks.ts";
import { type TileMapping, WinogradBuilder } from "./_winograd_builder.ts";
import { winogradFilterGradient } from "./_winograd_filter_gradient.ts";
import { type Scheme, schemeOf, transpose } from "./_winograd_transforms.ts";
import type { Axis, ConvolutionGeometry, ConvolutionProduct } from "./geometry.ts";
import type { ConvolutionGenerator, ConvolutionKernel, GeneratorSettings } from "./kernel.ts";

/**
 * Of 4 x 4 and of 3 x 3 outputs. Points whose powers are about as often large as small keep the rounding errors small, and the maps of
 * the input have exact coefficients: the largest error is about twice (4 x 4) or once (3 x 3) that of direct sums in float32; with the
 * customary points 0, 1, -1, 2, -2 it would be 5 times as large.
 */
const POINTS = [[0, 5 / 8, -5 / 8, 13 / 8, -13 / 8], [1 / 2, -1 / 2, 5 / 4, -5 / 4]];
const SCHEMES: readonly Scheme[] = POINTS.map((points) => schemeOf(points, 3));

/** Products per image of this size and pair of channels. */
function productsOf({ outputs, places }: Scheme, height: number, width: number): number {
  return places * Math.ceil(height / outputs) * Math.ceil(width / outputs);
}

/** The scheme with the fewest products for images of this size. */
function schemeFor(height: number, width: number): Scheme {
  return SCHEMES.reduce((best, scheme) =>
    productsOf(scheme, height, width) < productsOf(best, height, width) ? scheme : best
  );
}

/** Makes kernels for what gains: enough channels to outweigh the maps, images that tiles cover without much waste. */
export const winogradConvolution: ConvolutionGenerator = (product, geometry, settings) => {
  const { axes, batch } = geometry;
  if (!isMappable(geometry, 1)) return null;
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
  const place = rowMajor(scheme);
  const { images, columns: across, tiles } = blocks;

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
    place,
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
  const mapRow = builder.mapping(tilesToPlaces(scheme, maps.input, place, tileSource, across, leftPlace));
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
  const results = { place, pitch: outPlace, channels: columns, width: width.target };
  const writeRow = (existing: number): Code =>
    sequence(
      ...placesToPixels(builder, results, existing).map(({ tile, map }) =>
        tile === 0 ? call(map, from, onto) : call(
          map,
          i32.add(from, bytesOf(tile, columns)),
          i32.add(onto, bytesOf(tile * side, columns)),
        )
      ),
    );
  const writeRows = lastRowApart(builder, blocks, part, writeRow, (height.target - 1) % side + 1);
  const block = sequence(
    eachRow(builder, blocks, [
      overImages(
        blocks,
        part,
        reading,
        tileSource.from,
        side * tileSource.rowPitch,
        tileSource.imagePitch,
      ),
      overBlock(blocks, writing, mapped, bytesOf(across, inner)),
    ], () => call(mapRow, reading, writing)),
    builder.products(product, tiles, columns, [mapped, mappedFilter, sums], [
      leftPlace,
      bytesOf(inner, columns),
      outPlace,
    ], (lanes) => bytesOf(inner, lanes)),
    eachRow(builder, blocks, [
      overBlock(blocks, from, sums, bytesOf(across, columns)),
      overImages(blocks, part, onto, to, side * targetRow, height.target * targetRow),
    ], writeRows),
  );
  const sourceBytes = bytesOf(height.source, width.source, inner);
  const addresses = [[at, sourceBytes], [to, height.target * targetRow]] as const;
  run.add(eachBlock(builder, batch, blocks, part, addresses, [tileSource.prepare], block));
  return builder.kernel();
}

/** The gradient to the filter: tiles of the input and of the gradient to the output are mapped, their products summed over the tiles. */
function filterGradientKernel(geometry: ConvolutionGeometry, settings: GeneratorSettings): ConvolutionKernel {
  const { batch, axes: [height, width], channels, outputs } = geometry;
  const scheme = schemeFor(height.output, width.output);
  const { outputs: side, maps } = scheme;
  const builder = new WinogradBuilder(scheme, settings);
  const blocks = blocksOf(scheme, batch, height.output, width.output, channels + outputs);
  const place = rowMajor(scheme);
  const read = ({ input, output, before }: Axis): PaddedAxis => ({
    input,
    from: -before,
    length: Math.ceil(output / side) * side + 2,
  });
  return winogradFilterGradient(builder, geometry, blocks, channels, read, (sums, filter) => {
    const { part, inputs, gradients, mapped, pitches } = sums;
    const sides = [
      { source: inputs, map: maps.input, target: mapped[0], pitch: pitches[0] },
      { source: gradients, map: transpose(maps.output), target: mapped[1], pitch: pitches[1] },
    ];
    const mapBoth = sides.map(({ source, map, target, pitch }) => {
      const mapRow = builder.mapping(tilesToPlaces(scheme, map, place, source, blocks.columns, pitch));
      const written = bytesOf(blocks.columns, source.channels);
      return mapBlock(builder, blocks, part, source, side * source.rowPitch, target, written, [mapRow]);
    });
    const product: Product = {
      levels: [{ count: blocks.tiles, left: bytesOf(channels), right: bytesOf(outputs) }],
      leftPitch: FLOAT,
      outPitch: bytesOf(outputs),
      accumulate: true,
      relaxed: settings.relaxed,
    };
    const products = builder.products(() => product, channels, outputs, mapped, pitches, bytesOf);
    const filterBack: TileMapping = {
      rowMap: transpose(maps.filter),
      columnMap: transpose(maps.filter),
      tiles: 1,
      vectors: channels * outputs / 4,
      load: (row, column) => place(row, column) * pitches[2],
      store: (row, column) => (3 * row + column) * pitches[2],
      sourceStep: 0,
      targetStep: 0,
    };
    return {
      block: sequence(...mapBoth, products),
      back: call(builder.mapping(filterBack), mapped[2], filter),
    };
  });
}
