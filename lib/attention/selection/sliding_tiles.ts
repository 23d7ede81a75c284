/**
 * Sliding tile attention, STA (Zhang et al., 2025, arXiv 2502.04507; https://github.com/hao-ai-lab/FastVideo): a window that moves in
 * whole tiles of time x height x width, so that with tokens in tile-major order every block is either kept or not.
 */
import { pushInterval } from "../_intervals.ts";
import { requireSizes } from "../_sizes.ts";
import { type Layout, layout } from "../layouts.ts";
import { joinText, maskOfRows } from "../masks.ts";
import { type Selection, textBehind } from "./selection.ts";

/** Frames, rows and columns. */
export type Extent3 = readonly [number, number, number];

/** Settings of {@link slidingTiles}. */
export interface SlidingTilesSettings {
  /** Tokens of the video, raster order. */
  readonly canvas: Extent3;
  /** Tokens of a tile; divides the canvas. Published: 6 x 8 x 8. */
  readonly tile: Extent3;
  /** Tiles of the window. An even number spans one more. */
  readonly window: Extent3;
  /** Text tokens, which see and are seen by everything. Default 0. */
  readonly text?: number;
  /** Whether text comes before the video in q, k and v; the selection then puts it behind. Default false. */
  readonly textFirst?: boolean;
}

/**
 * Along each axis a tile sees those at most floor(window / 2) tiles from a centre, itself unless that would reach over the edge: then
 * the nearest tile where it does not. Tokens in tile-major order, text behind.
 *
 * @throws {RangeError} on settings out of range
 */
export function slidingTiles(settings: SlidingTilesSettings): Selection & { readonly layout: Layout } {
  const { canvas, tile, window, text = 0, textFirst = false } = settings;
  const what = "make a sliding tile mask";
  const counts = tileCounts(what, canvas, tile);
  window.forEach((count, axis) => requireSizes(what, { [`window[${axis}]`]: count }, 1));
  requireSizes(what, { text }, 0);
  const [frames, rows, columns] = counts;
  const tileTokens = tile[0] * tile[1] * tile[2];
  const video = frames * rows * columns * tileTokens;
  const spans = counts.map((count, axis) => tileSpans(count, window[axis]!)) as [Span[], Span[], Span[]];

  const rowsOfTiles = Array.from({ length: frames * rows * columns }, (_, index) => {
    const [row, column] = [Math.floor(index / columns) % rows, index % columns];
    const [first, last] = spans[0][Math.floor(index / (rows * columns))]!;
    const [top, bottom] = spans[1][row]!;
    const [left, right] = spans[2][column]!;
    const bounds: number[] = [];
    for (let f = first; f < last; f++) {
      for (let r = top; r < bottom; r++) {
        const line = (f * rows + r) * columns;
        pushInterval(bounds, (line + left) * tileTokens, (line + right) * tileTokens);
      }
    }
    return Int32Array.from(bounds);
  });
  const label = `sliding tiles(${canvas.join(" x ")}, ${window.join(" x ")} tiles of ${tile.join(" x ")})`;
  const mask = maskOfRows(
    { label, queries: video, keys: video },
    (query) => rowsOfTiles[Math.floor(query / tileTokens)]!,
  );
  const major = tileMajorLayout(canvas, tile);
  if (text === 0) return { mask, layout: major };
  const behind = [...major.tokenAt, ...Array.from({ length: text }, (_, index) => video + index)];
  return {
    mask: joinText(mask, text, "last"),
    layout: textFirst ? textBehind(major, text) : layout(behind, `${major.label}, text ${text}`),
  };
}

/**
 * A video tile after tile, in raster order within and between tiles.
 *
 * @throws {RangeError} if tiles do not divide the canvas
 */
export function tileMajorLayout(canvas: Extent3, tile: Extent3): Layout {
  const [frames, rows, columns] = tileCounts("order tiles", canvas, tile);
  const order = new Int32Array(canvas[0] * canvas[1] * canvas[2]);
  let place = 0;
  for (let index = 0; index < frames * rows * columns; index++) {
    const corner = [
      Math.floor(index / (rows * columns)) * tile[0],
      Math.floor(index / columns) % rows * tile[1],
      index % columns * tile[2],
    ] as const;
    for (let f = 0; f < tile[0]; f++) {
      for (let r = 0; r < tile[1]; r++) {
        const first = ((corner[0] + f) * canvas[1] + corner[1] + r) * canvas[2] + corner[2];
        for (let c = 0; c < tile[2]; c++) order[place++] = first + c;
      }
    }
  }
  return layout(order, `tiles(${tile.join(" x ")} of ${canvas.join(" x ")})`);
}

/** Tiles from, tiles to. */
type Span = readonly [number, number];

/** Which tiles of one axis each tile sees. */
function tileSpans(count: number, window: number): Span[] {
  const half = Math.floor(window / 2);
  // A window wider than the axis has its centre at the upper limit, even below 0: as torch.clamp does where limits cross.
  const last = count - 1 - half;
  return Array.from({ length: count }, (_, tile) => {
    const centre = Math.min(Math.max(tile, half), last);
    return [Math.max(0, centre - half), Math.max(0, Math.min(count, centre + half + 1))];
  });
}

function tileCounts(what: string, canvas: Extent3, tile: Extent3): [number, number, number] {
  return canvas.map((size, axis) => {
    requireSizes(what, { [`canvas[${axis}]`]: size, [`tile[${axis}]`]: tile[axis]! });
    if (size % tile[axis]! !== 0) {
      throw new RangeError(
        `Cannot ${what} as 'tile' must divide the canvas ${canvas.join(" x ")}: current tile is ${
          tile.join(" x ")
        }`,
      );
    }
    return size / tile[axis]!;
  }) as [number, number, number];
}
