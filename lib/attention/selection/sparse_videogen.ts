/**
 * Sparse VideoGen (Xi et al., ICML 2025; https://github.com/svg-project/Sparse-VideoGen), CogVideoX form, text first: each head either
 * looks within frames (spatial) or at the same place of all frames (temporal), whichever comes closer to full attention on a few
 * sampled queries. Temporal heads get their tokens in token-major order, so that one band serves both kinds.
 */
import * as tf from "@tensorflow/tfjs";
import { stream } from "../../tensor/mod.ts";
import { attend } from "../attend.ts";
import { pushInterval } from "../_intervals.ts";
import { requireSizes } from "../_sizes.ts";
import { layout, tokenMajorLayout } from "../layouts.ts";
import { type FrameShape, maskOfRows } from "../masks.ts";
import type { Implementation, Mask } from "../types.ts";
import { requireOneOf, requireTensors } from "./_inputs.ts";
import { read } from "./blocks.ts";
import type { Selection } from "./selection.ts";

/** What profiling masks do with text: see {@link profilingMask}. */
export type TextRule = "dense" | "official";

/** Settings of {@link chooseHeads}. */
export interface HeadChoiceSettings {
  /** Queries to compare on. Default 32, drawn with replacement. */
  readonly sampled?: number;
  /** Where the drawn queries come from; one seed, one draw. Default 0. */
  readonly seed?: number | string;
  /** The queries themselves, instead of a draw. */
  readonly rows?: Int32Array;
  /**
   * `dense` (default): text sees and is seen by everything in both masks. `official`: in the temporal mask text is nobody's key and has
   * none, so that the error of every head is NaN once a text query is drawn, and all of them become temporal.
   */
  readonly textRule?: TextRule;
  readonly implementation?: Implementation;
}

/** Settings of {@link sparseVideoGen}. */
export interface SparseVideoGenSettings extends FrameShape, HeadChoiceSettings {
  /** Share of keys wanted, text included; what is kept is less, see {@link videoGenBand}. */
  readonly density: number;
}

/** A choice for each head. */
export interface HeadChoice {
  /** 0 spatial, 1 temporal: [batch, heads]. */
  readonly choice: Uint8Array;
  /** Mean squared errors of spatial attention, then of temporal attention: [2, batch, heads]. */
  readonly errors: Float32Array;
  /** The queries that were compared. */
  readonly rows: Int32Array;
}

/** The kernel and the profiling masks count in blocks of this many tokens. */
const BLOCK = 128;

/**
 * Chooses each head's kind and gives the band that `density` affords, with tokens of temporal heads in token-major order. q, k and v
 * [batch, heads, tokens, dim].
 *
 * @throws {TypeError} on tensors of other shapes
 * @throws {RangeError} on settings out of range
 */
export async function sparseVideoGen(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  { density, ...settings }: SparseVideoGenSettings,
): Promise<Selection & HeadChoice & { readonly band: number }> {
  const band = videoGenBand(density, settings);
  const chosen = await chooseHeads(q, k, v, settings);
  const { tokens, tokenAt } = tokenMajorLayout(settings);
  const order = Int32Array.from({ length: chosen.choice.length * tokens }, (_, place) => {
    const first = place - place % tokens;
    return chosen.choice[first / tokens] ? first + tokenAt[place % tokens]! : place;
  });
  const label = `token-major where temporal (${chosen.choice.join("")})`;
  return { mask: videoGenMask(settings, band), layout: layout(order, label), band, ...chosen };
}

/**
 * The width, in frames, of a band that with the text keeps the share `density` of all elements if it is counted without its corners:
 * `(1 - sqrt(1 - (density - 2 text / tokens))) tokens / frameTokens`. The official code calls the density "sparsity".
 *
 * @throws {RangeError} on a density that the text alone exceeds, or above 1
 */
export function videoGenWidth(density: number, shape: FrameShape): number {
  const tokens = tokensOf(shape);
  const textShare = 2 * (shape.text ?? 0) / tokens;
  const video = density - textShare;
  if (!(video >= 0 && video <= 1)) {
    throw new RangeError(
      `Cannot size a band as 'density' must be from ${textShare} (the text) to 1: current density is ${density}`,
    );
  }
  return (1 - Math.sqrt(1 - video)) * tokens / shape.frameTokens;
}

/**
 * The band that the kernel uses for `density`, in tokens: {@link videoGenWidth}, down to a multiple of 128. It may be 0: then video sees
 * only text.
 */
export function videoGenBand(density: number, shape: FrameShape): number {
  return bandOfWidth(videoGenWidth(density, shape), shape);
}

/** A width in frames as tokens, down to a multiple of 128. */
export function bandOfWidth(width: number, { frameTokens }: FrameShape): number {
  return Math.floor(width * frameTokens / BLOCK) * BLOCK;
}

/** The kernel's mask: |query - key| < band, text rows and columns dense. */
export function videoGenMask(shape: FrameShape, band: number): Mask {
  const what = "make a Sparse VideoGen mask";
  const tokens = tokensOf(shape);
  const { text = 0, frames, frameTokens } = shape;
  requireSizes(what, { band }, 0);
  const label = `Sparse VideoGen(band ${band}, ${frames} frames x ${frameTokens}, text ${text})`;
  const all = Int32Array.of(0, tokens);
  return maskOfRows(
    { label, queries: tokens, keys: tokens },
    (query) =>
      query < text
        ? all
        : withText(text, [[Math.max(text, query - band + 1), Math.min(tokens, query + band)]]),
  );
}

/**
 * What a head is compared by. Blocks of 128 tokens, those less than 1.5 frames apart. `spatial`: counted from the first token, text
 * included, one for each 128 of the video, so that tokens at the end may lie outside of them all and see only text. `temporal`: counted
 * over the video in token-major order. Text rows and columns are dense, but with `official` none of them is kept in the temporal mask.
 */
export function profilingMask(
  kind: "spatial" | "temporal",
  shape: FrameShape,
  textRule: TextRule = "dense",
): Mask {
  const tokens = tokensOf(shape);
  const { text = 0, frames, frameTokens } = shape;
  const apart = Math.floor(1.5 * frameTokens / BLOCK);
  const counted = Math.ceil(frames * frameTokens / BLOCK) * BLOCK;
  const range = (place: number): [number, number] => {
    const block = Math.floor(place / BLOCK);
    return [Math.max(0, block - apart + 1) * BLOCK, Math.max(0, block + apart) * BLOCK];
  };
  const spatial = (query: number) => {
    if (query >= counted) return withText(text, []);
    const [from, to] = range(query);
    return withText(text, [[Math.max(text, from), Math.min(tokens, counted, to)]]);
  };
  const temporal = (query: number) => {
    const own = query - text;
    const [from, to] = range(own % frameTokens * frames + Math.floor(own / frameTokens));
    // Of a frame, the places p with from <= p frames + frame < to.
    const kept = Array.from({ length: frames }, (_, frame): [number, number] => {
      const place = (bound: number) =>
        Math.min(frameTokens, Math.max(0, Math.ceil((bound - frame) / frames)));
      return [text + frame * frameTokens + place(from), text + frame * frameTokens + place(to)];
    });
    return withText(textRule === "dense" ? text : 0, kept);
  };
  const inText = kind === "spatial" || textRule === "dense" ? Int32Array.of(0, tokens) : new Int32Array(0);
  const label =
    `Sparse VideoGen ${kind} profile(${frames} frames x ${frameTokens}, text ${text} ${textRule})`;
  return maskOfRows(
    { label, queries: tokens, keys: tokens },
    (query) => query < text ? inText : kind === "spatial" ? spatial(query) : temporal(query),
  );
}

/**
 * Each head's kind: the one whose attention has the smaller mean squared error to full attention, over sampled queries.
 *
 * @throws {TypeError} on tensors of other shapes
 * @throws {RangeError} on settings out of range
 */
export async function chooseHeads(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  { sampled = 32, seed = 0, rows, textRule = "dense", implementation = "auto", ...shape }:
    & HeadChoiceSettings
    & FrameShape,
): Promise<HeadChoice> {
  const what = "choose spatial and temporal heads";
  const { batch, heads, tokens } = requireTensors(what, { q, k, v });
  if (tokensOf(shape) !== tokens) {
    throw new TypeError(
      `Cannot ${what} as text + frames x frameTokens must be ${tokens} tokens: current sum is ${
        tokensOf(shape)
      }`,
    );
  }
  requireSizes(what, { sampled });
  requireOneOf(what, "textRule", textRule, ["dense", "official"]);
  const drawn = rows ?? stream("Sparse VideoGen").child(seed).integers(sampled, tokens);
  const outside = drawn.find((row) => row < 0 || row >= tokens);
  if (outside !== undefined || drawn.length === 0) {
    throw new RangeError(
      `Cannot ${what} as 'rows' must be some of ${tokens} tokens: current row is ${outside ?? "none"}`,
    );
  }

  const masks = [profilingMask("spatial", shape, textRule), profilingMask("temporal", shape, textRule)];
  const errors = await read(tf.tidy(() => {
    const some = tf.gather(q, tf.tensor1d(drawn, "int32"), 2);
    const full = attend(some, k, v, { implementation }).output;
    return tf.stack(masks.map((mask) => {
      const { output } = attend(some, k, v, { mask: rowsOf(mask, drawn), implementation });
      return tf.mean(tf.squaredDifference(output, full), [2, 3]);
    }));
  }));
  const count = batch * heads;
  masks.forEach((mask, kind) => {
    // softmax of no keys at all, in the official code.
    if (drawn.some((row) => mask.intervals(row, 0).length === 0)) {
      errors.fill(NaN, kind * count, (kind + 1) * count);
    }
  });
  const choice = Uint8Array.from(
    { length: count },
    (_, head) => Number(!(errors[head]! <= errors[count + head]!)),
  );
  return { choice, errors, rows: drawn };
}

/** Some rows of a mask. */
function rowsOf(mask: Mask, rows: Int32Array): Mask {
  return maskOfRows(
    { ...mask, label: `${mask.label} rows ${rows.join(",")}`, queries: rows.length },
    (query, head) => mask.intervals(rows[query]!, head),
  );
}

/** Text keys from 0, then the parts. */
function withText(text: number, parts: readonly (readonly [number, number])[]): Int32Array {
  const bounds: number[] = [];
  pushInterval(bounds, 0, text);
  for (const [from, to] of parts) pushInterval(bounds, from, to);
  return Int32Array.from(bounds);
}

/** @throws {RangeError} on sizes that are no counts */
function tokensOf({ text = 0, frames, frameTokens }: FrameShape): number {
  requireSizes("lay out a video", { text }, 0);
  requireSizes("lay out a video", { frames, frameTokens });
  return text + frames * frameTokens;
}
