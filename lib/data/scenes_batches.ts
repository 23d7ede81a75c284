/** Scenes as training examples: batches of pixels in [-1, 1] with token ids, and a model's samples back as pixels. */

import type { DrawStream } from "./images.ts";
import {
  type CaptionVocabulary,
  movingSceneVocabulary,
  sceneVocabulary,
  tokenizeCaption,
} from "./scenes_captions.ts";
import { drawScene, renderScene, sceneSide } from "./scenes.ts";
import { drawMovingScene, movingFrames, movingSide, renderMovingScene } from "./scenes_moving.ts";

/** Where the channels are: [.., 3, height, width] as diffusion transformers read them, or [.., height, width, 3]. */
export type ChannelLayout = "channels-first" | "channels-last";

/** A batch of scenes. It owns its arrays. */
export interface SceneBatch {
  /** Pixels, byte / 127.5 - 1, of `shape`. */
  readonly pixels: Float32Array<ArrayBuffer>;
  /** [size, 3, 32, 32] for still scenes, [size, 8, 3, 16, 16] for moving ones; or channels last. */
  readonly shape: readonly number[];
  /** Token ids, [size, slots]. */
  readonly ids: Int32Array<ArrayBuffer>;
  /** 1 on tokens, 0 on padding, [size, slots]. */
  readonly mask: Float32Array<ArrayBuffer>;
  /** The captions behind `ids`; "" where the caption was dropped. */
  readonly captions: readonly string[];
  /** Seed of the first scene; the others follow. */
  readonly seed: number;
  /** Number of the batch, from 0. */
  readonly step: number;
}

/** How to draw batches of scenes. */
export interface SceneBatchOptions {
  /** Scenes per batch. */
  readonly size: number;
  /** Which captions are dropped comes from it, step by step. */
  readonly stream: DrawStream;
  /** Share of the captions replaced by the empty one, for guidance; default 0.1. */
  readonly captionDropout?: number;
  /** Seed of the first scene of step 0; default 1,000,000: the seeds below are for tests. */
  readonly firstSeed?: number;
  /** Default channels-first. */
  readonly layout?: ChannelLayout;
  /** The step to begin with: a training that goes on takes the batches it would have had; default 0. */
  readonly firstStep?: number;
  /** Stop after this many batches; default when the seeds run out. */
  readonly steps?: number;
}

/**
 * Batches of still scenes, each scene once: step k holds the seeds from firstSeed + k size on. A batch depends only on
 * the options and its step.
 *
 * ```ts
 * import { sceneBatches } from "@normlab/normlab/data";
 * import { stream } from "@normlab/normlab/tensor";
 *
 * for (const { pixels, ids } of sceneBatches({ size: 16, stream: stream(0).child("data"), steps: 2 })) {
 *   console.log(pixels.length, ids.length); // Float32Array [16, 3, 32, 32], Int32Array [16, 16]
 * }
 * ```
 *
 * @throws {RangeError} A size, step, seed or share that cannot be met.
 */
export function sceneBatches(options: SceneBatchOptions): Generator<SceneBatch, void, void> {
  return batchesOf(stillScenes, options);
}

/**
 * Batches of moving scenes, as {@linkcode sceneBatches}.
 *
 * @throws {RangeError} A size, step, seed or share that cannot be met.
 */
export function movingSceneBatches(options: SceneBatchOptions): Generator<SceneBatch, void, void> {
  return batchesOf(movingScenes, options);
}

/**
 * A model's samples, about -1 to 1, as pixels from 0 to 1 with the channels last: what the scores take and pictures
 * are made of. Out of range is clipped.
 *
 * @param shape [.., 3, height, width]
 * @throws {RangeError} `samples` have not the size of `shape`, or it has not three channels.
 */
export function samplePixels(samples: Float32Array, shape: readonly number[]): Float32Array<ArrayBuffer> {
  const [channels, height, width] = shape.slice(-3);
  const size = shape.reduce((product, length) => product * length, 1);
  if (shape.length < 3 || channels !== 3 || size !== samples.length) {
    throw new RangeError(
      `Cannot turn samples into pixels as 'shape' must be [.., 3, height, width] with ${samples.length} elements: ` +
        `current shape is [${shape.join(", ")}]`,
    );
  }
  const pixels = new Float32Array(samples.length);
  const area = height! * width!;
  for (let i = 0; i < pixels.length; i++) {
    const image = Math.floor(i / (3 * area));
    const pixel = Math.floor(i / 3) % area;
    const sample = samples[(3 * image + i % 3) * area + pixel]!;
    pixels[i] = (Math.min(Math.max(sample, -1), 1) + 1) / 2;
  }
  return pixels;
}

/** A procedural data set: what a seed shows. */
interface Source {
  readonly vocabulary: CaptionVocabulary;
  readonly frames: readonly number[];
  readonly side: number;
  /** Bytes, [.., side, side, 3]. */
  draw(seed: number): { readonly caption: string; readonly bytes: Uint8Array };
}

const stillScenes: Source = {
  vocabulary: sceneVocabulary,
  frames: [],
  side: sceneSide,
  draw(seed) {
    const scene = drawScene(seed);
    return { caption: scene.caption, bytes: renderScene(scene) };
  },
};

const movingScenes: Source = {
  vocabulary: movingSceneVocabulary,
  frames: [movingFrames],
  side: movingSide,
  draw(seed) {
    const scene = drawMovingScene(seed);
    return { caption: scene.caption, bytes: renderMovingScene(scene) };
  },
};

const seeds = 2 ** 32;
/** Resolution of the draws that decide whether a caption is dropped. */
const draws = 2 ** 24;

function batchesOf(source: Source, options: SceneBatchOptions): Generator<SceneBatch, void, void> {
  const { size, captionDropout = 0.1, firstSeed = 1_000_000, firstStep = 0, steps } = options;
  requireCount("size", size, 1);
  requireCount("firstStep", firstStep, 0);
  requireCount("firstSeed", firstSeed, 0, seeds - size);
  const available = Math.floor((seeds - firstSeed) / size);
  if (steps !== undefined) requireCount("steps", steps, 0, Math.max(available - firstStep, 0));
  if (!(captionDropout >= 0 && captionDropout <= 1)) {
    throw new RangeError(
      `Cannot make batches as 'captionDropout' must be a share from 0 to 1: current share is ${captionDropout}`,
    );
  }
  const last = steps === undefined ? available : firstStep + steps;
  return run(source, { ...options, captionDropout, firstSeed }, firstStep, last);
}

function* run(
  source: Source,
  options: SceneBatchOptions & { captionDropout: number; firstSeed: number },
  first: number,
  last: number,
): Generator<SceneBatch, void, void> {
  for (let step = first; step < last; step++) yield batchOf(source, options, step);
}

/** Byte k as a model reads it, in [-1, 1]. */
const normalised = Float32Array.from({ length: 256 }, (_, byte) => byte / 127.5 - 1);

function batchOf(
  { vocabulary, frames, side, draw }: Source,
  options: SceneBatchOptions & { captionDropout: number; firstSeed: number },
  step: number,
): SceneBatch {
  const { size, stream, captionDropout, firstSeed, layout = "channels-first" } = options;
  const { slots } = vocabulary;
  const image = layout === "channels-first" ? [3, side, side] : [side, side, 3];
  const shape = [size, ...frames, ...image];
  const pixels = new Float32Array(shape.reduce((product, length) => product * length, 1));
  const ids = new Int32Array(size * slots);
  const mask = new Float32Array(size * slots);
  const captions: string[] = [];
  const seed = firstSeed + step * size;
  const chances = stream.child("caption dropout").child(step).integers(size, draws);
  for (let i = 0; i < size; i++) {
    const { caption, bytes } = draw(seed + i);
    copyPixels(bytes, pixels, i * bytes.length, side * side, layout);
    const shown = chances[i]! < captionDropout * draws ? "" : caption;
    const tokens = tokenizeCaption(shown, vocabulary);
    ids.set(tokens.ids, i * slots);
    mask.fill(1, i * slots, i * slots + tokens.count);
    captions.push(shown);
  }
  return { pixels, shape, ids, mask, captions, seed, step };
}

/** Normalises images of `area` pixels, channels last, into `pixels` from `offset` on. */
function copyPixels(
  bytes: Uint8Array,
  pixels: Float32Array,
  offset: number,
  area: number,
  layout: ChannelLayout,
): void {
  if (layout === "channels-last") {
    for (let i = 0; i < bytes.length; i++) pixels[offset + i] = normalised[bytes[i]!]!;
    return;
  }
  for (let start = 0; start < bytes.length; start += 3 * area) {
    for (let channel = 0; channel < 3; channel++) {
      const to = offset + start + channel * area;
      for (let i = 0; i < area; i++) pixels[to + i] = normalised[bytes[start + 3 * i + channel]!]!;
    }
  }
}

function requireCount(name: string, value: number, least: number, most: number = Infinity): void {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return;
  const range = most === Infinity ? `an integer of at least ${least}` : `an integer from ${least} to ${most}`;
  throw new RangeError(`Cannot make batches as '${name}' must be ${range}: current value is ${value}`);
}
