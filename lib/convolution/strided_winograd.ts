/**
 * 3 x 3 convolutions of stride 2 by Winograd's minimal filtering. Along an axis the even taps 0 and 2 read pixels of one parity, tap 1
 * those of the other: a convolution of stride 1 with 2 taps and one with 1 tap, whose results add up. Both are mapped to the same
 * places, those of F(4, 2); the single tap has nothing at the last place, infinity. So 4 x 4 outputs cost (2 * 4 + 1)^2 = 81 products
 * instead of 144, 3 x 3 outputs 49 instead of 81.
 */
import { call, type Code, i32, sequence, set, variables } from "../wasm/mod.ts";
import { bytesOf } from "./_courses.ts";
import { FLOAT, type Product } from "./_micro_kernels.ts";
import { filterGradientKernel, gradientCells, inputGradientKernel } from "./_strided_gradients.ts";
import { pixelsToSlot, placeOf, productsOf, readAxis, schemeFor, slotsOf } from "./_strided_tiles.ts";
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
} from "./_winograd_blocks.ts";
import { WinogradBuilder } from "./_winograd_builder.ts";
import type { Scheme } from "./_winograd_transforms.ts";
import type { ConvolutionGeometry } from "./geometry.ts";
import type { ConvolutionGenerator, ConvolutionKernel, GeneratorSettings } from "./kernel.ts";

/** Makes kernels for what gains: enough channels to outweigh the maps, images that tiles cover without much waste. */
export const stridedWinogradConvolution: ConvolutionGenerator = (product, geometry, settings) => {
  const { axes, batch } = geometry;
  if (!isMappable(geometry, 2)) return null;
  const sizes = axes.map((axis) => product === "inputGradient" ? gradientCells(axis) : axis.output) as [
    number,
    number,
  ];
  const scheme = schemeFor(...sizes);
  const tiles = batch * sizes.reduce((product, size) => product * Math.ceil(size / scheme.outputs), 1);
  const direct = axes.reduce((work, { input, output }, axis) => {
    return work * 3 * (product === "inputGradient" ? Math.min(input / 2, sizes[axis]!) : output);
  }, 1);
  if (1.25 * productsOf(scheme, ...sizes) > direct || tiles < LEAST_TILES) return null;
  if (product === "forward") return forwardKernel(scheme, geometry, settings);
  if (product === "inputGradient") return inputGradientKernel(scheme, geometry, settings);
  return filterGradientKernel(scheme, geometry, settings);
};

function forwardKernel(
  scheme: Scheme,
  { batch, axes, channels, outputs }: ConvolutionGeometry,
  settings: GeneratorSettings,
): ConvolutionKernel {
  const [height, width] = axes;
  const { outputs: side, size, places } = scheme;
  const builder = new WinogradBuilder(scheme, settings);
  const { run } = builder;
  const [input, filter, output] = builder.parameters;
  const depth = 4 * channels;
  const blocks = blocksOf(scheme, batch, height.output, width.output, depth + outputs);
  const { images, columns: across, tiles } = blocks;
  const place = placeOf(scheme);
  const mappedFilter = builder.scratch(bytesOf(places, depth, outputs));
  for (const { rows, columns, slot } of slotsOf(scheme)) {
    const mapping = {
      rows: rows.taps,
      columns: columns.taps,
      rowMap: rows.filter,
      columnMap: columns.filter,
      place,
    };
    const map = builder.mapFilter(mapping, channels, outputs, depth, slot * channels);
    run.add(call(map, filter, mappedFilter));
  }
  const { at, to, part, from, onto } = variables(
    builder.run,
    "i32",
    "at",
    "to",
    "image",
    "part",
    "from",
    "onto",
  );
  run.add(set(at, input), set(to, output));
  const source = builder.source([readAxis(scheme, height), readAxis(scheme, width)], channels, images, at);
  const [leftPlace, rightPlace, outPlace] = [
    bytesOf(tiles, depth),
    bytesOf(depth, outputs),
    bytesOf(tiles, outputs),
  ];
  const [mapped, sums] = [builder.scratch(places * leftPlace), builder.scratch(places * outPlace)];
  const slotMaps = slotsOf(scheme).map((slot) =>
    builder.mapping(pixelsToSlot(scheme, slot, source, across, leftPlace))
  );

  // Over the slots that are something at the places of a run.
  const finite = size - 1;
  const all = (count: number) => (lanes: number) => [{ count, left: FLOAT, right: bytesOf(lanes) }];
  const runs = [
    { from: 0, count: finite * finite, levels: all(depth) },
    { from: finite * finite, count: finite, levels: all(2 * channels) },
    {
      from: finite * size,
      count: finite,
      levels: (lanes: number) => [
        { count: 2, left: bytesOf(2, channels), right: bytesOf(2, channels, lanes) },
        ...all(channels)(lanes),
      ],
    },
    { from: finite * (size + 1), count: 1, levels: all(channels) },
  ];
  const products = runs.map(({ from, count, levels }) =>
    builder.products(
      (lanes): Product => ({
        levels: levels(lanes),
        leftPitch: bytesOf(depth),
        outPitch: bytesOf(outputs),
        accumulate: false,
        relaxed: settings.relaxed,
      }),
      tiles,
      outputs,
      [
        i32.add(mapped, from * leftPlace),
        i32.add(mappedFilter, from * rightPlace),
        i32.add(sums, from * outPlace),
      ],
      [leftPlace, rightPlace, outPlace],
      (lanes) => bytesOf(depth, lanes),
      count,
    )
  );
  const targetRow = bytesOf(width.output, outputs);
  const results = { place, pitch: outPlace, channels: outputs, width: width.output };
  const writeRow = (existing: number): Code =>
    sequence(
      ...placesToPixels(builder, results, existing).map(({ tile, map }) =>
        call(map, i32.add(from, bytesOf(tile, outputs)), i32.add(onto, bytesOf(tile * side, outputs)))
      ),
    );
  const tileRow = 2 * side * source.rowPitch;
  const block = sequence(
    mapBlock(builder, blocks, part, source, tileRow, mapped, bytesOf(across, depth), slotMaps),
    ...products,
    eachRow(builder, blocks, [
      overBlock(blocks, from, sums, bytesOf(across, outputs)),
      overImages(blocks, part, onto, to, side * targetRow, height.output * targetRow),
    ], lastRowApart(builder, blocks, part, writeRow, (height.output - 1) % side + 1)),
  );
  const sourceBytes = bytesOf(height.input, width.input, channels);
  const addresses = [[at, sourceBytes], [to, height.output * targetRow]] as const;
  run.add(eachBlock(builder, batch, blocks, part, addresses, [source.prepare], block));
  return builder.kernel();
}
