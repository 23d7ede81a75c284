/** The score of a clip: does it show what its caption says, moving as said, and the same thing throughout? */

import { type ScenePixels, unitPixels } from "./_scenes_pixels.ts";
import { median, pairwiseMean, pairwiseSum } from "./_scenes_sums.ts";
import { pathOf, type Track, trackColours } from "./_scenes_track.ts";
import {
  motionNames,
  type MovingColour,
  movingColourNames,
  movingFrames,
  movingShapeNames,
  movingSide,
  type SceneMotion,
} from "./scenes_moving.ts";

export type { Sighting, Track } from "./_scenes_track.ts";

/**
 * Where the objects of a clip are, by colour: a sighting for each frame in which enough pixels have the colour.
 *
 * @throws {TypeError} `pixels` is not [8, 16, 16, 3].
 */
export function trackMovingObjects(pixels: ScenePixels): Map<MovingColour, Track> {
  return trackColours(unitPixels(pixels, [movingFrames, movingSide, movingSide, 3]));
}

/** What a caption asks of one object. */
export interface MovingWish {
  readonly colour: MovingColour;
  readonly shape: "circle" | "square";
  readonly motion: SceneMotion;
}

/**
 * What a caption of moving scenes asks for.
 *
 * @throws {SyntaxError} It is not a caption of moving scenes.
 */
export function parseMovingCaption(caption: string): MovingWish[] {
  const words = caption.split(" ");
  const isIn = (names: readonly string[], word: string | undefined) => names.includes(word ?? "");
  const wishes: MovingWish[] = [];
  for (let i = 0; i < words.length; i += 3) {
    const [colour, shape, motion] = words.slice(i, i + 3);
    if (
      words.length > 6 || !isIn(movingColourNames, colour) || !isIn(movingShapeNames, shape) ||
      !isIn(motionNames, motion)
    ) {
      throw new SyntaxError(
        "Cannot read a caption as it must be 'COLOUR SHAPE MOTION', once or twice: " +
          `current caption is ${JSON.stringify(caption.slice(0, 80))}`,
      );
    }
    wishes.push({ colour, shape, motion } as MovingWish);
  }
  return wishes;
}

/** What of a caption a clip shows: 1 or 0 each, so that scores can be averaged; `subject` is graded. */
export interface MovingSceneScore {
  /** Exactly the colours asked for are seen, in 3 frames or more. */
  readonly colour: number;
  /** Every object has the shape asked for: its median fill lies on that side of 0.89. */
  readonly shape: number;
  /** Every object's path is the motion asked for. */
  readonly motion: number;
  /** Every object is seen in all frames, its area within a factor of 1.35, its shape the same in 6 or more. */
  readonly consistent: number;
  /** All of these. */
  readonly all: number;
  /** How much each object looks like itself in the frame before and in the first one: mean cosine, -1 to 1. */
  readonly subject: number;
}

/** Between the fill of a disc, pi / 4, and that of a square, 1. */
const fillOfSquare = 0.89;

/**
 * The score of a clip for a caption.
 *
 * ```ts
 * import { drawMovingScene, renderMovingScene, scoreMovingScene } from "@normlab/normlab/data";
 *
 * const scene = drawMovingScene(0);
 * console.log(scoreMovingScene(renderMovingScene(scene), scene.caption).all); // 1
 * ```
 *
 * @throws {TypeError} `pixels` is not [8, 16, 16, 3].
 * @throws {SyntaxError} As {@linkcode parseMovingCaption}.
 */
export function scoreMovingScene(pixels: ScenePixels, caption: string): MovingSceneScore {
  const wishes = parseMovingCaption(caption);
  const clip = unitPixels(pixels, [movingFrames, movingSide, movingSide, 3]);
  const tracks = trackColours(clip);
  const seen = [...tracks].filter(([, track]) => track.filter(Boolean).length >= 3).map(([colour]) => colour);
  const colour = seen.sort().join() === wishes.map((wish) => wish.colour).sort().join();
  const judged = wishes.map((wish) => judge(wish, tracks.get(wish.colour) ?? [], clip));
  const shape = judged.every((object) => object.shape);
  const motion = judged.every((object) => object.motion);
  const consistent = judged.every((object) => object.consistent);
  return {
    colour: Number(colour),
    shape: Number(shape),
    motion: Number(motion),
    consistent: Number(consistent),
    all: Number(colour && shape && motion && consistent),
    subject: pairwiseMean(judged.map((object) => object.subject)),
  };
}

function judge(wish: MovingWish, track: Track, clip: Float64Array) {
  const sightings = track.filter((sighting) => sighting !== undefined);
  if (sightings.length < 5) return { shape: false, motion: false, consistent: false, subject: 0 };
  const isSquare = median(sightings.map(({ fill }) => fill)) > fillOfSquare;
  const areas = sightings.map(({ area }) => area);
  const agreeing = sightings.filter(({ fill }) => fill > fillOfSquare === isSquare).length;
  return {
    shape: isSquare === (wish.shape === "square"),
    motion: pathOf(track).motion === wish.motion,
    consistent: sightings.length === movingFrames && agreeing >= 6 &&
      Math.max(...areas) <= 1.35 * Math.min(...areas),
    subject: likeness(track, clip),
  };
}

/** Mean cosine of an object's patch with that of the frame before and of the first frame; 0 where it is not seen. */
function likeness(track: Track, clip: Float64Array): number {
  const patches = track.map((sighting, frame) => sighting && patch(clip, frame, sighting.x, sighting.y));
  const cosines: number[] = [];
  for (let frame = 1; frame < movingFrames; frame++) {
    for (const earlier of [frame - 1, 0]) {
      const [a, b] = [patches[frame], patches[earlier]];
      cosines.push(a && b ? pairwiseSum(a.map((value, i) => value * b[i]!)) : 0);
    }
  }
  return pairwiseMean(cosines);
}

/**
 * The 7x7 pixels around (x, y), bilinear, the edge repeated, less each pixel's grey, of length 1: [7, 7, 3]. Without
 * the grey the background does not count.
 */
function patch(clip: Float64Array, frame: number, x: number, y: number): Float64Array {
  const result = new Float64Array(7 * 7 * 3);
  for (let row = 0; row < 7; row++) {
    const { at: top, part: down } = position(y + row - 3);
    for (let column = 0; column < 7; column++) {
      const { at: left, part: across } = position(x + column - 3);
      const to = (row * 7 + column) * 3;
      const from = ((frame * movingSide + top) * movingSide + left) * 3;
      const below = from + movingSide * 3;
      for (let channel = 0; channel < 3; channel++) {
        result[to + channel] = clip[from + channel]! * (1 - down) * (1 - across) +
          clip[from + 3 + channel]! * (1 - down) * across +
          clip[below + channel]! * down * (1 - across) +
          clip[below + 3 + channel]! * down * across;
      }
      const grey = (result[to]! + result[to + 1]! + result[to + 2]!) / 3;
      for (let channel = 0; channel < 3; channel++) result[to + channel]! -= grey;
    }
  }
  const length = Math.max(Math.sqrt(pairwiseSum(result.map((value) => value * value))), 1e-6);
  return result.map((value) => value / length);
}

/** A coordinate inside of the frame: the pixel before it, and how far it is towards the next. */
function position(coordinate: number): { at: number; part: number } {
  const inside = Math.min(Math.max(coordinate, 0), movingSide - 1);
  const at = Math.min(Math.floor(inside), movingSide - 2);
  return { at, part: inside - at };
}
