/** Tiles of 3 x 3 convolutions of stride 2 by parities: their places and maps. */
import { bytesOf } from "./_courses.ts";
import type { PaddedAxis } from "./_micro_kernels.ts";
import type { TileMapping, TileSource } from "./_winograd_builder.ts";
import { type Matrix, type Scheme, schemeOf } from "./_winograd_transforms.ts";
import type { Axis } from "./geometry.ts";

/** Of 4 x 4 and 3 x 3 outputs with 2 taps. */
const POINTS = [[1 / 2, -1 / 2, 5 / 4, -5 / 4], [0, 1, -1]];
const SCHEMES: readonly Scheme[] = POINTS.map((points) => schemeOf(points, 2));

export function productsOf({ outputs, size }: Scheme, height: number, width: number): number {
  return (2 * size - 1) ** 2 * Math.ceil(height / outputs) * Math.ceil(width / outputs);
}

export function schemeFor(height: number, width: number): Scheme {
  const [large, small] = SCHEMES as [Scheme, Scheme];
  return productsOf(small, height, width) < productsOf(large, height, width) ? small : large;
}

/** The taps of one parity along an axis, and the maps of the places where they are something. */
export interface Parity {
  readonly parity: 0 | 1;
  readonly taps: readonly number[];
  readonly input: Matrix;
  readonly filter: Matrix;
  readonly output: Matrix;
}

export function parities({ size, maps }: Scheme): [Parity, Parity] {
  const finite = (map: Matrix) => map.slice(0, size - 1);
  return [
    { parity: 0, taps: [0, 2], input: maps.input, filter: maps.filter, output: maps.output },
    {
      parity: 1,
      taps: [1],
      input: finite(maps.input).map((row) => row.slice(0, size - 1)),
      filter: finite(maps.filter).map((row) => row.slice(0, 1)),
      output: maps.output.map((row) => row.slice(0, size - 1)),
    },
  ];
}

/** The four pairs of parities: [rows, columns]. */
export function slotsOf(
  scheme: Scheme,
): { readonly rows: Parity; readonly columns: Parity; readonly slot: number }[] {
  const both = parities(scheme);
  return both.flatMap((rows) =>
    both.map((columns) => ({ rows, columns, slot: 2 * rows.parity + columns.parity }))
  );
}

/** The order of places: those finite in both axes, with infinite row, with infinite column, infinite in both. */
export function placeOf({ size }: Scheme): (row: number, column: number) => number {
  const finite = size - 1;
  return (row, column) => {
    if (row < finite) return column < finite ? finite * row + column : finite * size + row;
    return column < finite ? finite * finite + column : finite * (size + 1);
  };
}

/** Runs of places: a slot is something at some of them. */
export function runsOf({ size }: Scheme, slot: number): { readonly from: number; readonly count: number }[] {
  const finite = size - 1;
  if (slot === 0) return [{ from: 0, count: size * size }];
  if (slot === 1) return [{ from: 0, count: finite * size }];
  const both = { from: 0, count: finite * finite };
  return slot === 2 ? [both, { from: finite * size, count: finite }] : [both];
}

/** A map of a row of tiles of the input's pixels of one parity per axis into a slot of the depth. */
export function pixelsToSlot(
  scheme: Scheme,
  { rows, columns, slot }: ReturnType<typeof slotsOf>[number],
  { channels, rowPitch }: TileSource,
  tiles: number,
  pitch: number,
): TileMapping {
  const place = placeOf(scheme);
  return {
    rowMap: rows.input,
    columnMap: columns.input,
    tiles,
    vectors: channels / 4,
    load: (row, column) =>
      (2 * row + rows.parity) * rowPitch + bytesOf(2 * column + columns.parity, channels),
    store: (row, column) => place(row, column) * pitch + bytesOf(slot, channels),
    sourceStep: bytesOf(2 * scheme.outputs, channels),
    targetStep: bytesOf(4, channels),
  };
}

/** The pixels that tiles of outputs read. */
export function readAxis({ outputs }: Scheme, { input, output, before }: Axis): PaddedAxis {
  return { input, from: -before, length: 2 * Math.ceil(output / outputs) * outputs + 1 };
}
