/** Reference selections of methods for videos: Sparse VideoGen, radial attention, sliding tiles. */
import * as tf from "@tensorflow/tfjs";
import {
  bandOfWidth,
  chooseHeads,
  type Implementation,
  keptElements,
  profilingMask,
  radialAttention,
  radialKeeps,
  radialWidth,
  slidingTiles,
  tokenMajorLayout,
  videoGenBand,
  videoGenMask,
  videoGenWidth,
} from "../../lib/attention/mod.ts";
import { type Inputs, keptOf, packed, type Rival, TOLERANCE } from "./_rival.ts";

/** Bands of published shapes, and masks of small ones. */
export async function checkVideoGenMasks(rival: Rival): Promise<Rival> {
  const meta = await rival.json<{
    sparsity_to_width: {
      shape: string;
      ctx: number;
      frames: number;
      frame_size: number;
      density_asked: number;
      width_frames: number;
      width_tokens: number;
      band: number;
      kept: number;
      real_density: number;
    }[];
    small_masks: {
      key: string;
      ctx: number;
      frames: number;
      frame_size: number;
      kernel_mul: number;
      kernel_band: number;
    }[];
  }>();
  for (const { ctx: text, frames, frame_size: frameTokens, ...row } of meta.sparsity_to_width) {
    const name = `${row.shape} ${row.density_asked}`;
    const shape = { text, frames, frameTokens };
    const width = videoGenWidth(row.density_asked, shape);
    rival.numbers(`${name}/width`, [width], [row.width_frames], 1e-12);
    const band = videoGenBand(row.density_asked, shape);
    rival.numbers(`${name}/band`, [band], [row.band]);
    rival.numbers(`${name}/kept`, [keptElements(videoGenMask(shape, band))], [row.kept]);
  }
  await rival.load("svg_masks");
  for (const { key, ctx: text, frames, frame_size: frameTokens, ...row } of meta.small_masks) {
    const shape = { text, frames, frameTokens };
    const band = bandOfWidth(row.kernel_mul, shape);
    rival.numbers(`${key}/band`, [band], [row.kernel_band]);
    rival.tensor(`${key}.kernel_packed`, packed(videoGenMask(shape, band)));
    rival.tensor(`${key}.spatial_packed`, packed(profilingMask("spatial", shape)));
    rival.tensor(`${key}.temporal_packed`, packed(profilingMask("temporal", shape, "official")));
    rival.tensor(`${key}.temporal_text_dense_packed`, packed(profilingMask("temporal", shape)));
    const { tokenAt, placeOf } = tokenMajorLayout(shape);
    rival.tensor(`${key}.to_token_major`, tokenAt);
    rival.tensor(`${key}.to_frame_major`, placeOf);
  }
  return rival;
}

/** Which heads are temporal, with and without a text query among the sampled ones. */
export async function checkHeadChoice(
  rival: Rival,
  implementations: readonly Implementation[],
): Promise<Rival> {
  const { head_choice: choice, small_masks: masks } = await rival.json<{
    head_choice: {
      masks_key: string;
      results: Record<string, Record<string, (number | string)[][][] & number[][]>>;
    };
    small_masks: { key: string; ctx: number; frames: number; frame_size: number }[];
  }>();
  const { ctx: text, frames, frame_size: frameTokens } = masks.find(({ key }) => key === choice.masks_key)!;
  await rival.load("svg_head_choice");
  const [q, k, v] = ["q", "k", "v"].map((name) => rival.input(name)) as Inputs;
  for (const [name, result] of Object.entries(choice.results)) {
    const rows = rival.reference(`${name}.rows`).data as Int32Array;
    for (const implementation of implementations) {
      for (
        const [textRule, errors, best] of [
          ["official", "mse_spatial_temporal", "best_official"],
          ["dense", "mse_text_dense", "best_text_dense"],
        ] as const
      ) {
        const settings = { text, frames, frameTokens, rows, textRule, implementation };
        const chosen = await chooseHeads(q, k, v, settings);
        const reference = result[errors]!.flat(2).map(Number);
        rival.numbers(`${name} ${implementation}/${errors}`, chosen.errors, reference, TOLERANCE);
        rival.numbers(`${name} ${implementation}/${best}`, chosen.choice, result[best]!.flat());
      }
    }
  }
  tf.dispose([q, k, v]);
  return rival;
}

/** Windows of pairs of frames, and the blocks that come of them. */
export async function checkRadial(rival: Rival): Promise<Rival> {
  const { cases } = await rival.json<{
    cases: {
      key: string;
      tokens_per_frame: number;
      frames: number;
      block: number;
      decay: number;
      model_type: "wan" | "hunyuan";
      text_tokens: number;
      window_width: number[][];
      frame_pair_kept: boolean[][];
    }[];
  }>();
  await rival.load();
  for (
    const { key, frames, tokens_per_frame: frameTokens, block, decay, model_type: model, ...row } of cases
  ) {
    const settings = { frames, frameTokens, text: row.text_tokens, block, decay, model };
    const { blocks } = radialAttention(settings);
    const pairs = Array.from(
      { length: frames ** 2 },
      (_, pair) => Math.abs(pair % frames - Math.floor(pair / frames)),
    );
    rival.numbers(
      `${key}/window_width`,
      pairs.map((distance) => radialWidth(distance, settings)),
      row.window_width.flat(),
    );
    rival.numbers(
      `${key}/frame_pair_kept`,
      pairs.map((distance) => Number(radialKeeps(distance, frameTokens))),
      row.frame_pair_kept.flat().map(Number),
    );
    rival.tensor(`${key}.block_mask`, blocks.kept);
  }
  return rival;
}

/** Which tiles see each other, and the order of tokens. */
export async function checkSlidingTiles(rival: Rival): Promise<Rival> {
  type Extent = readonly [number, number, number];
  const { cases } = await rival.json<{
    cases: {
      key: string;
      canvas: Extent;
      tile: Extent;
      kernel_tiles: Extent;
      text: number;
      tile_tokens: number;
    }[];
  }>();
  await rival.load();
  for (const { key, canvas, tile, kernel_tiles: window, text, tile_tokens: tokens } of cases) {
    const { mask, layout } = slidingTiles({ canvas, tile, window, text });
    const video = mask.queries - text;
    rival.tensor(`${key}.raster_of_tile_major`, layout.tokenAt.subarray(0, video));
    // One query of each tile, one key of each; then text.
    const dense = Array.from({ length: video / tokens }, (_, row) => row * tokens).flatMap((query) => {
      const kept = keptOf(mask, query);
      return Array.from({ length: video / tokens }, (_, column) => kept[column * tokens]!);
    });
    rival.tensor(`${key}.tile_mask`, dense);
    const textRows = Array.from({ length: text }, (_, index) => keptOf(mask, video + index));
    const seen = [keptOf(mask, 0).subarray(video), ...textRows].flatMap((flags) => [...flags]);
    rival.numbers(`${key}/text`, seen, seen.map(() => 1));
  }
  return rival;
}
