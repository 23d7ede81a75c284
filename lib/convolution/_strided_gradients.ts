/** The gradients of 3 x 3 convolutions of stride 2 by Winograd's minimal filtering. */
import { call, type Code, i32, sequence, set, variables } from "../wasm/mod.ts";
import { bytesOf } from "./_courses.ts";
import { FLOAT, type PaddedAxis, type Product, transposeMatrix } from "./_micro_kernels.ts";
import { pixelsToSlot, placeOf, readAxis, runsOf, slotsOf } from "./_strided_tiles.ts";
import {
  blocksOf,
  eachBlock,
  eachRow,
  lastRowApart,
  mapBlock,
  overBlock,
  overImages,
  rowOfTiles,
  tilesToPlaces,
} from "./_winograd_blocks.ts";
import { WinogradBuilder } from "./_winograd_builder.ts";
import { winogradFilterGradient } from "./_winograd_filter_gradient.ts";
import { type Scheme, transpose } from "./_winograd_transforms.ts";
import type { Axis, ConvolutionGeometry } from "./geometry.ts";
import type { ConvolutionKernel, GeneratorSettings } from "./kernel.ts";

/**
 * Along an axis, the gradient to the input by cells: pixel 2 q + parity - before of each parity. Cell i of a tile of gradients to the
 * output gets gradients i and i + 1 if the parity has two taps, gradient i if it has one. With `before` even both parities begin with
 * the same cell, and gradients q and q - 1 give cell q: read and written backwards, that is the same.
 */
function gradientAxis({ input, output, before }: Axis, side: number) {
  const backwards = before % 2 === 0;
  const first = [Math.ceil(before / 2), Math.ceil((before - 1) / 2)];
  const counts = first.map((cell, parity) => Math.floor((before + input - 1 - parity) / 2) - cell + 1);
  const tiles = Math.ceil(Math.max(...counts) / side);
  const start = backwards ? first[0]! - 1 : first[1]!;
  return {
    backwards,
    counts,
    /** The first pixel of each parity. */
    pixels: first.map((cell, parity) => 2 * cell + parity - before),
    tiles,
    read: { input: output, from: start, length: tiles * side + 1 } satisfies PaddedAxis,
  };
}

export function gradientCells(axis: Axis): number {
  return Math.max(...gradientAxis(axis, 1).counts);
}

/** The gradient to the input: of each parity, cells are tiles of outputs of their own. */
export function inputGradientKernel(
  scheme: Scheme,
  { batch, axes, channels, outputs }: ConvolutionGeometry,
  settings: GeneratorSettings,
): ConvolutionKernel {
  const { outputs: side, size, places, maps } = scheme;
  const [{ input: inputHeight, output: outputHeight }, { input: inputWidth, output: outputWidth }] = axes;
  const [vertical, horizontal] = axes.map((axis) => gradientAxis(axis, side)) as [
    ReturnType<typeof gradientAxis>,
    ReturnType<typeof gradientAxis>,
  ];
  const builder = new WinogradBuilder(scheme, settings);
  const { run, module } = builder;
  const [input, filter, output] = builder.parameters;
  const across = 4 * channels;
  const blocks = blocksOf(scheme, batch, vertical.tiles * side, horizontal.tiles * side, outputs + across);
  const { images, columns: tilesAcross, tiles } = blocks;
  const place = placeOf(scheme);
  const turn = transposeMatrix(module, channels, outputs);
  const turned = builder.scratch(bytesOf(9, outputs, channels));
  for (let tap = 0; tap < 9; tap++) {
    const offset = tap * bytesOf(outputs, channels);
    run.add(call(turn.index, i32.add(filter, offset), i32.add(turned, offset)));
  }
  const ordered = (taps: readonly number[], backwards: boolean) => backwards ? taps : taps.toReversed();
  const rightPlace = bytesOf(outputs, channels);
  const slots = slotsOf(scheme).map(({ rows, columns, slot }) => {
    const mapped = builder.scratch(places * rightPlace);
    const mapping = {
      rows: ordered(rows.taps, vertical.backwards),
      columns: ordered(columns.taps, horizontal.backwards),
      rowMap: rows.filter,
      columnMap: columns.filter,
      place,
    };
    run.add(call(builder.mapFilter(mapping, outputs, channels), turned, mapped));
    return { rows, columns, slot, filter: mapped };
  });

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
  run.add(set(at, output), set(to, input));
  const source = builder.source([vertical.read, horizontal.read], outputs, images, at);
  const [leftPlace, outPlace] = [bytesOf(tiles, outputs), bytesOf(tiles, across)];
  const [mapped, sums] = [builder.scratch(places * leftPlace), builder.scratch(places * outPlace)];
  const placed = (index: number, length: number, backwards: boolean) =>
    backwards ? length - 1 - index : index;
  const mapRow = builder.mapping({
    rowMap: maps.input,
    columnMap: maps.input,
    tiles: tilesAcross,
    vectors: outputs / 4,
    load: (row, column) =>
      placed(row, size, vertical.backwards) * source.rowPitch +
      bytesOf(placed(column, size, horizontal.backwards), outputs),
    store: (row, column) => place(row, column) * leftPlace,
    sourceStep: bytesOf(side, outputs),
    targetStep: bytesOf(outputs),
  });
  const products = slots.flatMap(({ slot, filter }) =>
    runsOf(scheme, slot).map(({ from, count }) =>
      builder.products(
        (lanes): Product => ({
          levels: [{ count: outputs, left: FLOAT, right: bytesOf(lanes) }],
          leftPitch: bytesOf(outputs),
          outPitch: bytesOf(across),
          accumulate: false,
          relaxed: settings.relaxed,
        }),
        tiles,
        channels,
        [
          i32.add(mapped, from * leftPlace),
          i32.add(filter, from * rightPlace),
          i32.add(sums, from * outPlace + bytesOf(slot, channels)),
        ],
        [leftPlace, rightPlace, outPlace],
        (lanes) => bytesOf(outputs, lanes),
        count,
      )
    )
  );
  const targetRow = bytesOf(inputWidth, channels);
  const writeSlot = ({ rows, columns, slot }: typeof slots[number]) => (existing: number): Code =>
    sequence(
      ...rowOfTiles(horizontal.counts[columns.parity]!, side).map(
        ({ tile, count, existing: existingColumns }) => {
          const mapping = builder.mapping({
            rowMap: rows.output,
            columnMap: columns.output,
            tiles: count,
            vectors: channels / 4,
            load: (row, column) => place(row, column) * outPlace + bytesOf(slot, channels),
            store(row, column) {
              const y = placed(row, side, vertical.backwards);
              const x = placed(column, side, horizontal.backwards);
              return y < existing && x < existingColumns
                ? 2 * y * targetRow + bytesOf(2 * x, channels)
                : null;
            },
            sourceStep: bytesOf(across),
            targetStep: bytesOf(2 * side, channels),
          });
          const pixel = vertical.pixels[rows.parity]! * inputWidth + horizontal.pixels[columns.parity]! +
            2 * side * tile;
          return call(
            mapping,
            i32.add(from, bytesOf(tile, across)),
            i32.add(onto, bytesOf(pixel, channels)),
          );
        },
      ),
    );
  const lastRow = ({ rows }: typeof slots[number]) =>
    vertical.counts[rows.parity]! - side * (vertical.tiles - 1);
  const block = sequence(
    mapBlock(
      builder,
      blocks,
      part,
      source,
      side * source.rowPitch,
      mapped,
      bytesOf(tilesAcross, outputs),
      [mapRow],
    ),
    ...products,
    eachRow(
      builder,
      blocks,
      [
        overBlock(blocks, from, sums, bytesOf(tilesAcross, across)),
        overImages(blocks, part, onto, to, 2 * side * targetRow, inputHeight * targetRow),
      ],
      (row) =>
        sequence(
          ...slots.map((slot) => lastRowApart(builder, blocks, part, writeSlot(slot), lastRow(slot))(row)),
        ),
    ),
  );
  const sourceBytes = bytesOf(outputHeight, outputWidth, outputs);
  const addresses = [[at, sourceBytes], [to, inputHeight * targetRow]] as const;
  run.add(eachBlock(builder, batch, blocks, part, addresses, [source.prepare], block));
  return builder.kernel();
}

/** The gradient to the filter: of each pair of parities, products of mapped pixels and gradients are summed over the tiles. */
export function filterGradientKernel(
  scheme: Scheme,
  geometry: ConvolutionGeometry,
  settings: GeneratorSettings,
): ConvolutionKernel {
  const { batch, axes: [height, width], channels, outputs } = geometry;
  const { outputs: side, maps } = scheme;
  const builder = new WinogradBuilder(scheme, settings);
  const depth = 4 * channels;
  const blocks = blocksOf(scheme, batch, height.output, width.output, depth + outputs);
  const { columns: across, tiles } = blocks;
  const place = placeOf(scheme);
  const read = (axis: Axis) => readAxis(scheme, axis);
  return winogradFilterGradient(builder, geometry, blocks, depth, read, (tileSums, filter) => {
    const { part, inputs, gradients, mapped: [mapped, mappedGradients, sums], pitches } = tileSums;
    const slots = slotsOf(scheme);
    const slotMaps = slots.map((slot) =>
      builder.mapping(pixelsToSlot(scheme, slot, inputs, across, pitches[0]))
    );
    const gradientMap = builder.mapping(
      tilesToPlaces(scheme, transpose(maps.output), place, gradients, across, pitches[1]),
    );
    const product: Product = {
      levels: [{ count: tiles, left: bytesOf(depth), right: bytesOf(outputs) }],
      leftPitch: FLOAT,
      outPitch: bytesOf(outputs),
      accumulate: true,
      relaxed: settings.relaxed,
    };
    const products = slots.flatMap(({ slot }) =>
      runsOf(scheme, slot).map(({ from, count }) =>
        builder.products(
          () => product,
          channels,
          outputs,
          [
            i32.add(mapped, from * pitches[0] + bytesOf(slot, channels)),
            i32.add(mappedGradients, from * pitches[1]),
            i32.add(sums, from * pitches[2] + bytesOf(slot, channels, outputs)),
          ],
          pitches,
          bytesOf,
          count,
        )
      )
    );
    const back = slots.map(({ rows, columns, slot }) =>
      call(
        builder.mapping({
          rowMap: transpose(rows.filter),
          columnMap: transpose(columns.filter),
          tiles: 1,
          vectors: channels * outputs / 4,
          load: (row, column) => place(row, column) * pitches[2] + bytesOf(slot, channels, outputs),
          store: (row, column) => bytesOf(3 * rows.taps[row]! + columns.taps[column]!, channels, outputs),
          sourceStep: 0,
          targetStep: 0,
        }),
        sums,
        filter,
      )
    );

    const inputRow = 2 * side * inputs.rowPitch;
    const gradientRow = side * gradients.rowPitch;
    const block = sequence(
      mapBlock(builder, blocks, part, inputs, inputRow, mapped, bytesOf(across, depth), slotMaps),
      mapBlock(builder, blocks, part, gradients, gradientRow, mappedGradients, bytesOf(across, outputs), [
        gradientMap,
      ]),
      ...products,
    );
    return { block, back: sequence(...back) };
  });
}
