/** What Winograd convolutions share: which they take, blocks of tiles, and code that goes over them. */
import {
  call,
  type Code,
  countUp,
  i32,
  type Local,
  type Operand,
  sequence,
  set,
  variables,
  when,
} from "../wasm/mod.ts";
import { bytesOf, divisorUpTo } from "./_courses.ts";
import { repeat } from "./_micro_kernels.ts";
import type { TileMapping, TileSource, WinogradBuilder } from "./_winograd_builder.ts";
import type { Matrix, Scheme } from "./_winograd_transforms.ts";
import type { ConvolutionGeometry } from "./geometry.ts";

/** With fewer tiles in a batch mapping the filter costs more than what is saved. */
export const LEAST_TILES = 16;

/** Whether filters are 3 x 3 of this stride, and channels, in whole vectors, enough to outweigh the maps. */
export function isMappable({ kind, axes, channels, outputs }: ConvolutionGeometry, steps: number): boolean {
  const fits = axes.every(({ kernel, stride, dilation }) =>
    kernel === 3 && stride === steps && dilation === 1
  );
  return kind === "regular" && fits && [channels, outputs].every((count) => count % 4 === 0 && count >= 8);
}

/** Bytes of mapped tiles that are worked on at a time, so that they stay in a second-level cache of 2 MB. */
const BLOCK_BYTES = 512 * 1024;

/** Tiles of a block: fewer would read the mapped filter too often, more need not be. */
const [LEAST_OF_BLOCK, MOST_OF_BLOCK] = [48, 256];

/** How the tiles of a batch of images are cut into blocks: `images` whole ones, or an image in `parts` of `rows` rows of tiles. */
export interface Blocks {
  readonly images: number;
  readonly parts: number;
  readonly rows: number;
  readonly columns: number;
  /** Tiles of a block. */
  readonly tiles: number;
}

export function blocksOf(
  { outputs, places }: Scheme,
  batch: number,
  height: number,
  width: number,
  channels: number,
): Blocks {
  const [down, columns] = [Math.ceil(height / outputs), Math.ceil(width / outputs)];
  const wanted = Math.min(Math.max(BLOCK_BYTES / bytesOf(places, channels), LEAST_OF_BLOCK), MOST_OF_BLOCK);
  if (down * columns <= wanted) {
    const images = divisorUpTo(batch, wanted / (down * columns));
    return { images, parts: 1, rows: down, columns, tiles: images * down * columns };
  }
  const rows = divisorUpTo(down, wanted / columns);
  return { images: 1, parts: down / rows, rows, columns, tiles: rows * columns };
}

/** A row-major order of places. */
export function rowMajor({ size }: Scheme): (row: number, column: number) => number {
  return (row, column) => size * row + column;
}

/** Maps a row of tiles of images to [place][tile][channel], places `pitch` bytes apart. */
export function tilesToPlaces(
  { outputs }: Scheme,
  map: Matrix,
  place: (row: number, column: number) => number,
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
    store: (row, column) => place(row, column) * pitch,
    sourceStep: bytesOf(outputs, channels),
    targetStep: bytesOf(channels),
  };
}

/** Results of tiles, [place][tile][channel], and the rows of pixels that they become. */
export interface TileResults {
  readonly place: (row: number, column: number) => number;
  readonly pitch: number;
  readonly channels: number;
  readonly width: number;
}

/**
 * Maps a row of tiles, of which `rows` rows of pixels exist, from places back to pixels: functions (source, target), each with the tile
 * with which it begins.
 */
export function placesToPixels(
  builder: WinogradBuilder,
  { place, pitch, channels, width }: TileResults,
  rows: number,
): { readonly tile: number; readonly map: number }[] {
  const { outputs: side, maps } = builder.scheme;
  return rowOfTiles(width, side).map(({ tile, count, existing }) => ({
    tile,
    map: builder.mapping({
      rowMap: maps.output,
      columnMap: maps.output,
      tiles: count,
      vectors: channels / 4,
      load: (row, column) => place(row, column) * pitch,
      store: (row, column) =>
        row < rows && column < existing ? bytesOf(row, width, channels) + bytesOf(column, channels) : null,
      sourceStep: bytesOf(channels),
      targetStep: bytesOf(side, channels),
    }),
  }));
}

/** Tiles along a row of so many pixels: whole ones, and one of which only some pixels exist. */
export function rowOfTiles(
  pixels: number,
  side: number,
): { readonly tile: number; readonly count: number; readonly existing: number }[] {
  const whole = Math.floor(pixels / side);
  return [{ tile: 0, count: whole, existing: side }, { tile: whole, count: 1, existing: pixels % side }]
    .filter(({ count, existing }) => count * existing > 0);
}

/** The code of a row of tiles, another for the last row of an image, of which only `last` rows of pixels exist. */
export function lastRowApart(
  { scheme }: WinogradBuilder,
  { rows, parts }: Blocks,
  part: Local,
  write: (existing: number) => Code,
  last: number,
): (row: Local) => Code {
  const full = write(scheme.outputs);
  return (row) =>
    last === scheme.outputs
      ? full
      : when(i32.eq(i32.add(row, i32.mul(part, rows)), rows * parts - 1), write(last), full);
}

/** An address that goes over the rows of tiles of a block: `row` bytes from row to row, `image` from image to image. */
export interface Walk {
  readonly local: Local;
  readonly start: Operand;
  readonly row: number;
  readonly image: number;
}

/** Over images at `from`, of which the block has part number `part`. */
export function overImages(
  { rows }: Blocks,
  part: Local,
  local: Local,
  from: Local,
  row: number,
  image: number,
): Walk {
  return { local, start: i32.add(from, i32.mul(part, rows * row)), row, image };
}

/** Over what holds no more than the block. */
export function overBlock({ rows }: Blocks, local: Local, start: Local, row: number): Walk {
  return { local, start, row, image: rows * row };
}

/** Runs a body for each row of tiles of a block. */
export function eachRow(
  builder: WinogradBuilder,
  { images, rows }: Blocks,
  walks: readonly Walk[],
  body: (row: Local) => Code,
): Code {
  const { image, row } = variables(builder.run, "i32", "image", "row");
  const advance = (step: "row" | "image") =>
    walks.map(({ local, row, image }) =>
      set(local, i32.add(local, step === "row" ? row : image - rows * row))
    );
  return sequence(
    ...walks.map(({ local, start }) => set(local, start)),
    countUp(
      image,
      0,
      images,
      1,
      sequence(countUp(row, 0, rows, 1, sequence(body(row), ...advance("row"))), ...advance("image")),
    ),
  );
}

/** Code that maps all tiles of a block: `maps` from rows of tiles, `tileRow` bytes each, to rows of `written` bytes at `target`. */
export function mapBlock(
  builder: WinogradBuilder,
  blocks: Blocks,
  part: Local,
  source: TileSource & { readonly from: Local },
  tileRow: number,
  target: Local,
  written: number,
  maps: readonly number[],
): Code {
  const { reading, writing } = variables(builder.run, "i32", "reading", "writing");
  return eachRow(builder, blocks, [
    overImages(blocks, part, reading, source.from, tileRow, source.imagePitch),
    overBlock(blocks, writing, target, written),
  ], () => sequence(...maps.map((map) => call(map, reading, writing))));
}

/**
 * Runs `block` for each block of a batch: addresses of images move on by so many bytes an image, `prepare` makes images readable and
 * `part` numbers the blocks of an image.
 */
export function eachBlock(
  { run }: WinogradBuilder,
  batch: number,
  { images, parts }: Blocks,
  part: Local,
  addresses: readonly (readonly [address: Local, bytes: number])[],
  prepare: readonly Code[],
  block: Code,
): Code {
  return repeat(
    run,
    batch / images,
    addresses.map(([address, bytes]) => [address, images * bytes] as const),
    sequence(...prepare, countUp(part, 0, parts, 1, block)),
  );
}
