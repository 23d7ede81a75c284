/**
 * Radial attention (Li et al., 2025; https://github.com/mit-han-lab/radial-attention): the farther apart two frames are, the narrower
 * the window of places that see each other.
 */
import { requireSizes } from "../_sizes.ts";
import { rasterLayout } from "../layouts.ts";
import { requireOneOf } from "./_inputs.ts";
import { type BlockMap, blockMapMask } from "./blocks.ts";
import { type Selection, textBehind } from "./selection.ts";

/** Settings of {@link radialAttention}. */
export interface RadialSettings {
  readonly frames: number;
  readonly frameTokens: number;
  /** Text tokens, which see and are seen by everything. Default 0. */
  readonly text?: number;
  /** Whether text comes before the video in q, k and v; the selection then puts it behind. Default false. */
  readonly textFirst?: boolean;
  /** Tokens of a block, and the narrowest window. Default 128. */
  readonly block?: number;
  /** Scales windows. Default 1. */
  readonly decay?: number;
  /** `wan`: everything sees the first frame. Default `hunyuan`: not so. */
  readonly model?: "wan" | "hunyuan";
}

/** Below this window length, whatever the block, only some distances between frames are kept. */
const SPLIT = 128;

/**
 * A fixed mask of blocks. Frames at distance t see each other's places closer than `width(t)`, and only where `keeps(t)`; a block is
 * kept if more than 0.6 of its columns that hold any of these elements hold more than a third of theirs.
 *
 * @throws {RangeError} on settings out of range
 */
export function radialAttention(settings: RadialSettings): Selection & { readonly blocks: BlockMap } {
  const { frames, frameTokens, text = 0, textFirst = false, block = 128, decay = 1, model = "hunyuan" } =
    settings;
  const what = "make a radial mask";
  requireSizes(what, { frames, frameTokens, block });
  requireSizes(what, { text }, 0);
  requireOneOf(what, "model", model, ["wan", "hunyuan"]);
  if (!(decay > 0 && decay < Infinity)) {
    throw new RangeError(`Cannot ${what} as 'decay' must be above 0: current decay is ${decay}`);
  }
  const video = frames * frameTokens;
  const tokens = video + text;
  const size = Math.ceil(tokens / block);
  const kept = new Uint8Array(size * size);
  // Rows and columns from the first block with text, or with what a whole block of video leaves over.
  const border = Math.floor(video / block);
  for (let row = 0; row < size; row++) {
    kept.fill(1, row * size + (row < border ? border : 0), (row + 1) * size);
  }
  for (let row = 0; row < frames; row++) {
    for (let column = 0; column < frames; column++) {
      const distance = Math.abs(row - column);
      const sink = model === "wan" && column === 0;
      if (!sink && !radialKeeps(distance, frameTokens)) continue;
      const width = sink ? frameTokens : radialWidth(distance, { frameTokens, block, decay });
      const blocks = denseBlocks(
        row * frameTokens % block,
        column * frameTokens % block,
        frameTokens,
        width,
        block,
      );
      const [fromRow, fromColumn] = [row, column].map((frame) => Math.floor(frame * frameTokens / block)) as [
        number,
        number,
      ];
      for (const [i, j] of blocks) {
        if (fromRow + i < size && fromColumn + j < size) kept[(fromRow + i) * size + fromColumn + j] = 1;
      }
    }
  }
  const blocks = { heads: 1, queries: tokens, keys: tokens, blockQueries: block, blockKeys: block, kept };
  const mask = blockMapMask(
    `radial ${frames} frames x ${frameTokens}, decay ${decay}, ${model}: blocks`,
    blocks,
  );
  return { mask, layout: textFirst && text > 0 ? textBehind(rasterLayout(video), text) : null, blocks };
}

/** 2^(bits of frameTokens) / 2^(bits of distance). */
function length(distance: number, frameTokens: number): number {
  const bits = (value: number) => 32 - Math.clz32(value);
  return 2 ** (bits(frameTokens) - bits(distance));
}

/** How far apart places of two frames may be that see each other: everything up to the next frame, then ever less. */
export function radialWidth(
  distance: number,
  { frameTokens, block = 128, decay = 1 }: Pick<RadialSettings, "frameTokens" | "block" | "decay">,
): number {
  return distance <= 1 ? frameTokens : Math.max(block, length(distance, frameTokens) * decay);
}

/** Whether frames at `distance` see each other at all: where windows would be narrower than 128, only some distances do. */
export function radialKeeps(distance: number, frameTokens: number): boolean {
  const window = length(distance, frameTokens);
  return window >= SPLIT || distance % Math.floor(SPLIT / window) === 0;
}

/**
 * The blocks of one pair of frames that are dense enough. The frames begin `rowOffset` and `columnOffset` tokens into their first
 * blocks; what reaches beyond ceil(tokens / block) blocks is not looked at, as in the official code.
 */
function denseBlocks(
  rowOffset: number,
  columnOffset: number,
  tokens: number,
  width: number,
  block: number,
): [number, number][] {
  const blocks = Math.ceil(tokens / block);
  const dense: [number, number][] = [];
  for (let i = 0; i < blocks; i++) {
    const [top, bottom] = [Math.max(0, i * block - rowOffset), Math.min(tokens, (i + 1) * block - rowOffset)];
    for (let j = 0; j < blocks; j++) {
      const [left, right] = [
        Math.max(0, j * block - columnOffset),
        Math.min(tokens, (j + 1) * block - columnOffset),
      ];
      let [some, many] = [0, 0];
      for (let column = left; column < right; column++) {
        const from = Math.max(top, Math.ceil(column - width));
        const rows = Math.min(bottom, Math.floor(column + width) + 1) - from;
        if (rows > 0) some++;
        if (rows * 3 > block) many++;
      }
      if (many * 5 > some * 3) dense.push([i, j]);
    }
  }
  return dense;
}
