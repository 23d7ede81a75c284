/** The group `mask_stats`: how much published masks keep, and which tiles they touch. Whole numbers: no tolerance. */
import { readFile } from "node:fs/promises";
import {
  band,
  frameBand,
  keptElements,
  type Layout,
  type Mask,
  occupancy,
  padText,
  permuted,
  rasterLayout,
  tileLayout,
  tileWindow,
  tokenMajorLayout,
} from "../../lib/attention/mod.ts";
import { compare, type Comparison } from "./report.ts";

/** A mask and what it keeps. */
export interface MaskRecord {
  name: string;
  N: number;
  kind: "band" | "frame_band" | "tile2d";
  kept: number;
  sequence_with_padding?: number;
  sparsity?: number;
  half?: number;
  ctx?: number;
  frames?: number;
  frame_size?: number;
  order?: "frame_major" | "token_major";
  text_padded_to?: number | null;
  /** By queries x keys of a tile: "128x64". */
  tiles?: Record<string, { kept: number; total: number }>;
  /** Instead of `tiles`: of 64 x 64, with tokens in tiles of 8 x 8. */
  tiles_kept?: number;
  tiles_total?: number;
}

/** Compares every record of `FOLDER.json`; no backend is needed. */
export async function checkMaskStats(
  folder: string,
): Promise<{ comparisons: Comparison[]; skipped: string[] }> {
  const { records }: { records: MaskRecord[] } = JSON.parse(await readFile(`${folder}.json`, "utf8"));
  return { comparisons: records.flatMap(checkRecord), skipped: [] };
}

function checkRecord(record: MaskRecord): Comparison[] {
  const { name, N, sequence_with_padding = N, kept, sparsity, order, text_padded_to } = record;
  const mask = maskOfRecord(record);
  const details = [sparsity, order, text_padded_to && `padded to ${text_padded_to}`].filter(Boolean);
  const where = ["mask_stats", [name, ...details].join(", ")].join("/");
  const grids = record.tiles ?? { "64x64": { kept: record.tiles_kept!, total: record.tiles_total! } };
  return [
    equal(`${where}/tokens`, [mask.queries], [sequence_with_padding]),
    equal(`${where}/kept`, [keptElements(mask)], [kept]),
    ...Object.entries(grids).map(([tile, grid]) => {
      const [tileQueries, tileKeys] = tile.split("x").map(Number);
      const { touched, total } = occupancy(mask, tileQueries!, tileKeys!);
      return equal(`${where}/tiles ${tile}`, [touched, total], [grid.kept, grid.total]);
    }),
  ];
}

/** The mask of a record, in its order of tokens. */
export function maskOfRecord(record: MaskRecord): Mask {
  if (record.kind === "band") return band(record.N, record.half!);
  if (record.kind === "tile2d") {
    // tile2d_HEIGHTxWIDTH_tHEIGHTxWIDTH_rRADIUS
    const [height, width, tileHeight, tileWidth, radius] = record.name.match(/\d+/g)!.slice(1).map(
      Number,
    ) as [
      number,
      number,
      number,
      number,
      number,
    ];
    const shape = { height, width, tileHeight, tileWidth };
    return permuted(tileWindow({ ...shape, radiusHeight: radius, radiusWidth: radius }), tileLayout(shape));
  }
  const shape = { frames: record.frames!, frameTokens: record.frame_size!, text: record.ctx! };
  const mask = frameBand({ ...shape, half: record.half! });
  const order = layoutOfRecord(record);
  return order ? permuted(mask, order) : mask;
}

function layoutOfRecord(record: MaskRecord): Layout | null {
  const { N, ctx, frames, frame_size, order, text_padded_to } = record;
  const layout = order === "token_major"
    ? tokenMajorLayout({ frames: frames!, frameTokens: frame_size!, text: ctx! })
    : rasterLayout(N);
  if (text_padded_to) return padText(layout, ctx!, text_padded_to);
  return order === "token_major" ? layout : null;
}

function equal(name: string, measured: readonly number[], expected: readonly number[]): Comparison {
  return compare(name, measured, expected, [expected.length], 0);
}
