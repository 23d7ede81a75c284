/** Pictures of masks. */
import { percent, requireSizes } from "./_sizes.ts";
import { keptShare, occupancy } from "./tiles.ts";
import type { Mask } from "./types.ts";

/** A mask seen from afar: the kept share of each cell of queries x keys. */
export interface MaskGrid {
  /** Queries and keys of a cell; the last ones may have fewer. */
  readonly cellQueries: number;
  readonly cellKeys: number;
  readonly rows: number;
  readonly columns: number;
  /** [rows, columns], 0 to 1, exact. */
  readonly shares: Float64Array;
}

/**
 * Kept shares in at most `cells` x `cells` cells.
 *
 * @throws {RangeError} on a number of cells that is not whole, or a head that the mask has not
 */
export function maskGrid(
  mask: Mask,
  { cells = 64, head = 0 }: { cells?: number; head?: number } = {},
): MaskGrid {
  requireSizes("draw a mask", { cells });
  requireSizes("draw a mask", { head }, 0);
  const { queries, keys } = mask;
  const [cellQueries, cellKeys] = [Math.ceil(queries / cells), Math.ceil(keys / cells)];
  const [rows, columns] = [Math.ceil(queries / cellQueries), Math.ceil(keys / cellKeys)];
  const shares = new Float64Array(rows * columns);
  for (let query = 0; query < queries; query++) {
    const bounds = mask.intervals(query, head);
    const row = Math.floor(query / cellQueries) * columns;
    for (let i = 0; i < bounds.length; i += 2) {
      for (let from = bounds[i]!; from < bounds[i + 1]!;) {
        const column = Math.floor(from / cellKeys);
        const to = Math.min(bounds[i + 1]!, (column + 1) * cellKeys);
        shares[row + column]! += to - from;
        from = to;
      }
    }
  }
  const sizeOf = (cell: number, size: number, all: number) => Math.min(size, all - cell * size);
  shares.forEach((count, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    shares[i] = count / (sizeOf(row, cellQueries, queries) * sizeOf(column, cellKeys, keys));
  });
  return { cellQueries, cellKeys, rows, columns, shares };
}

/** A picture as data: Vega-Lite with its data inline, and the words around it. */
export interface MaskDrawing {
  /** A name for a file. */
  readonly name: string;
  readonly title: string;
  readonly caption: string;
  readonly alt: string;
  /** Without theme and schema, which whoever shows it adds. */
  readonly spec: object;
}

/** How to draw. */
export interface DrawSettings {
  /** At most so many cells up and across. Default 64. */
  readonly cells?: number;
  /** Which head, where each has its own. Default 0. */
  readonly head?: number;
  /** Pixels up and across. Default 320. */
  readonly size?: number;
  /** Tiles to count in the caption, queries and keys. Default 64. */
  readonly tile?: number;
}

/**
 * Draws a mask: queries downwards, keys to the right, the darker the more is kept. It is titled by its label, and the caption says what
 * share of elements it keeps and of tiles it touches.
 *
 * @throws {RangeError} on numbers that are not whole, or a head that the mask has not
 */
export function drawMask(
  mask: Mask,
  { cells = 64, head = 0, size = 320, tile = 64 }: DrawSettings = {},
): MaskDrawing {
  requireSizes("draw a mask", { size });
  const { cellQueries, cellKeys, columns, shares } = maskGrid(mask, { cells, head });
  const { label, queries, keys, heads } = mask;
  const values = Array.from(shares, (kept, i) => {
    const [top, left] = [Math.floor(i / columns) * cellQueries, i % columns * cellKeys];
    return {
      top,
      bottom: Math.min(queries, top + cellQueries),
      left,
      right: Math.min(keys, left + cellKeys),
      kept: Number(kept.toPrecision(3)),
    };
  }).filter(({ kept }) => kept > 0);
  const place = (field: string, to: string, title: string, count: number, reverse: boolean) => ({
    [field]: {
      field: to === "right" ? "left" : "top",
      type: "quantitative",
      title,
      axis: { grid: false },
      scale: { domain: [0, count], nice: false, reverse },
    },
    [`${field}2`]: { field: to },
  });
  const own = heads === null ? "" : `, head ${head} of ${heads}`;
  const [kept, touched] = [keptShare(mask), occupancy(mask, tile, tile).share].map(percent);
  const caption = `Keeps ${kept} of ${queries} x ${keys} elements and touches ${touched} of its ` +
    `${tile} x ${tile} tiles. A cell is ${cellQueries} x ${cellKeys} elements.`;
  const title = label + own;
  return {
    name: `mask-${label.replaceAll(/[^A-Za-z0-9.]+/g, "-").replaceAll(/^-|-$/g, "")}`.slice(0, 80),
    title,
    caption,
    alt: `The mask ${title}: which keys (across) each query (down) sees. ${caption}`,
    spec: {
      title: {
        // A permuted mask has a long label.
        text: title.split(/ (?=in [A-Za-z]+\()/),
        subtitle: `keeps ${kept}, touches ${touched} of ${tile} x ${tile} tiles`,
      },
      width: size,
      height: Math.round(size * Math.min(2, Math.max(0.5, queries / keys))),
      view: { stroke: "#888888" },
      data: { values },
      mark: { type: "rect" },
      encoding: {
        ...place("x", "right", "key", keys, false),
        ...place("y", "bottom", "query", queries, true),
        color: {
          field: "kept",
          type: "quantitative",
          title: "kept",
          // A root, so that cells with a few elements are seen.
          scale: { type: "sqrt", domain: [0, 1], range: ["#deebf7", "#0072b2"] },
          legend: { format: ".0%" },
        },
        tooltip: [
          { field: "top", title: "queries from" },
          { field: "left", title: "keys from" },
          { field: "kept", title: "kept", format: ".1%" },
        ],
      },
    },
  };
}
