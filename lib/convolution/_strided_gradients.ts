/** The gradients of 3 x 3 convolutions of stride 2 by Winograd's minimal filtering. */
import { call, type Code, countUp, i32, type Local, memory, sequence, set } from "../wasm/mod.ts";
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
  lastRowApart,
  mapBlock,
  pixelsToSlot,
  placeOf,
  readAxis,
  rowOfTiles,
  runsOf,
  slotsOf,
} from "./_strided_tiles.ts";
import { blocksOf, eachRow, type Scheme, WinogradBuilder } from "./_winograd_builder.ts";
import { transpose } from "./_winograd_transforms.ts";
import type { Axis, ConvolutionGeometry } from "./geometry.ts";
import type { ConvolutionKernel, GeneratorSettings } from "./kernel.ts";

/**
 * Along an axis, the gradient to the input by cells: pixel 2 q + parity - before of each parity. Cell i of a tile of gradients to the
 * output gets gradients i and i + 1 if the parity has two taps, gradient i if it has one. With `before` even both parities begin with
 * the same cell, and gradients q and q - 1 give cell q: read and written backwards, that is the same.
 */
export function gradientAxis({ input, output, before }: Axis, side: number) {
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
  const { images, parts, rows, columns: tilesAcross, tiles } = blocks;
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
  const backRows = slots.map(({ rows, columns, slot }) => {
    const write = (existing: number): Code =>
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
    const last = vertical.counts[rows.parity]! - side * (vertical.tiles - 1);
    return lastRowApart(blocks, part, write, last, side);
  });
  run.add(repeat(
    run,
    batch / images,
    [[at, images * bytesOf(outputHeight, outputWidth, outputs)], [to, images * inputHeight * targetRow]],
    sequence(
      source.prepare,
      countUp(
        part,
        0,
        parts,
        1,
        sequence(
          mapBlock(
            builder,
            blocks,
            part,
            { ...source, tileRow: side * source.rowPitch },
            mapped,
            bytesOf(tilesAcross, outputs),
            [mapRow],
          ),
          ...products,
          set(from, sums),
          set(onto, i32.add(to, i32.mul(part, rows * 2 * side * targetRow))),
          eachRow(
            builder,
            blocks,
            [
              { local: from, row: bytesOf(tilesAcross, across), image: rows * bytesOf(tilesAcross, across) },
              { local: onto, row: 2 * side * targetRow, image: inputHeight * targetRow },
            ],
            (row) => sequence(...backRows.map((write) => write(row))),
          ),
        ),
      ),
    ),
  ));
  return builder.kernel();
}

/** The gradient to the filter: of each pair of parities, products of mapped pixels and gradients are summed over the tiles. */
export function filterGradientKernel(
  scheme: Scheme,
  { batch, axes, channels, outputs }: ConvolutionGeometry,
  settings: GeneratorSettings,
): ConvolutionKernel {
  const [height, width] = axes;
  const { outputs: side, places, maps } = scheme;
  const builder = new WinogradBuilder(scheme, settings);
  const { run } = builder;
  const [input, filter, output] = builder.parameters;
  const depth = 4 * channels;
  const blocks = blocksOf(scheme, batch, height.output, width.output, depth + outputs);
  const { images, parts, columns: across, tiles } = blocks;
  const place = placeOf(scheme);
  const { at, up, part } = variables(builder.run, "i32", "at", "up", "part");
  run.add(set(at, input), set(up, output));
  const inputs = builder.source([readAxis(scheme, height), readAxis(scheme, width)], channels, images, at);
  const upstream = ({ output }: Axis): PaddedAxis => ({
    input: output,
    from: 0,
    length: Math.ceil(output / side) * side,
  });
  const gradients = builder.source([upstream(height), upstream(width)], outputs, images, up);
  const pitches = [bytesOf(tiles, depth), bytesOf(tiles, outputs), bytesOf(depth, outputs)] as const;
  const [mapped, mappedGradients, sums] = pitches.map((pitch) => builder.scratch(places * pitch)) as [
    Local,
    Local,
    Local,
  ];
  const slotMaps = slotsOf(scheme).map((slot) =>
    builder.mapping(pixelsToSlot(scheme, slot, inputs, across, pitches[0]))
  );
  const gradientMap = builder.mapping({
    rowMap: transpose(maps.output),
    columnMap: transpose(maps.output),
    tiles: across,
    vectors: outputs / 4,
    load: (row, column) => row * gradients.rowPitch + bytesOf(column, outputs),
    store: (row, column) => place(row, column) * pitches[1],
    sourceStep: bytesOf(side, outputs),
    targetStep: bytesOf(outputs),
  });
  const product: Product = {
    levels: [{ count: tiles, left: bytesOf(depth), right: bytesOf(outputs) }],
    leftPitch: FLOAT,
    outPitch: bytesOf(outputs),
    accumulate: true,
    relaxed: settings.relaxed,
  };
  const products = slotsOf(scheme).flatMap(({ slot }) =>
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
  const back = slotsOf(scheme).map(({ rows, columns, slot }) =>
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
            mapBlock(
              builder,
              blocks,
              part,
              { ...inputs, tileRow: 2 * side * inputs.rowPitch },
              mapped,
              bytesOf(across, depth),
              slotMaps,
            ),
            mapBlock(
              builder,
              blocks,
              part,
              { ...gradients, tileRow: side * gradients.rowPitch },
              mappedGradients,
              bytesOf(across, outputs),
              [gradientMap],
            ),
            ...products,
          ),
        ),
      ),
    ),
    ...back,
  );
  return builder.kernel();
}
