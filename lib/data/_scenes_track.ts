/** Following the objects of a clip: centre, size and shape in each frame, finer than a pixel. */

import { hueBits, hues } from "./_scenes_pixels.ts";
import { pairwiseMean, pairwiseSum } from "./_scenes_sums.ts";
import {
  type MovingColour,
  movingColourNames,
  movingColours,
  movingFrames,
  movingSide,
  type SceneMotion,
} from "./scenes_moving.ts";

/** An object in one frame. */
export interface Sighting {
  /** Centre, in pixels from the centre of the upper left pixel. */
  readonly x: number;
  readonly y: number;
  /** Pixels that it covers, parts of pixels counted. */
  readonly area: number;
  /** area / (widest row * widest column): pi / 4 for a disc, 1 for a square. */
  readonly fill: number;
}

/** An object's sightings, one for each frame, undefined where it is not seen. */
export type Track = readonly (Sighting | undefined)[];

const leastChroma = 0.3;
const leastArea = 8;
/** What is left of an edge pixel below this difference between channels is background. */
const backgroundChroma = 0.06;
const pixels = movingSide * movingSide;

/** The tracks of all colours that are seen in any frame of a clip, 0 to 1, [8, 16, 16, 3]. */
export function trackColours(clip: Float64Array): Map<MovingColour, Track> {
  const frames = Array.from({ length: movingFrames }, (_, frame) => hues(clip, frame * pixels, pixels));
  const tracks = new Map<MovingColour, Track>();
  for (const colour of movingColourNames) {
    const wanted = hueBits(movingColours[colour]);
    const track = frames.map(({ chroma, bits }) => sight(chroma, bits, wanted));
    if (track.some((sighting) => sighting !== undefined)) tracks.set(colour, track);
  }
  return tracks;
}

/** The object of one hue in a frame: its coverage is chroma relative to that of its own inner pixels. */
function sight(chroma: Float64Array, bits: Uint8Array, wanted: number): Sighting | undefined {
  const core = Uint8Array.from(chroma, (value, i) => value > leastChroma && bits[i] === wanted ? 1 : 0);
  const inner = chroma.filter((_, i) => core[i] === 1).sort();
  if (inner.length < leastArea) return undefined;
  const full = pairwiseMean(inner.subarray(inner.length >> 1));
  const scale = Math.max(full - backgroundChroma, 1e-3);
  const near = dilated(core);
  const covered = Float64Array.from(chroma, (value, i) => {
    const another = value > leastChroma && core[i] === 0;
    return near[i] === 1 && !another ? Math.min(Math.max(value - backgroundChroma, 0) / scale, 1) : 0;
  });
  const area = pairwiseSum(covered);
  const rows = Float64Array.from(
    { length: movingSide },
    (_, y) => pairwiseSum(covered, y * movingSide, movingSide),
  );
  const columns = new Float64Array(movingSide);
  covered.forEach((value, i) => columns[i % movingSide]! += value);
  return {
    x: pairwiseSum(covered.map((value, i) => value * (i % movingSide))) / area,
    y: pairwiseSum(covered.map((value, i) => value * Math.floor(i / movingSide))) / area,
    area,
    fill: area / (meanOfLargestTwo(rows) * meanOfLargestTwo(columns)),
  };
}

/** The mask and its neighbours, corners included. */
function dilated(mask: Uint8Array): Uint8Array {
  const result = new Uint8Array(mask.length);
  for (let y = 0; y < movingSide; y++) {
    for (let x = 0; x < movingSide; x++) {
      if (mask[y * movingSide + x] === 0) continue;
      for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, movingSide - 1); v++) {
        result.fill(
          1,
          v * movingSide + Math.max(x - 1, 0),
          v * movingSide + Math.min(x + 1, movingSide - 1) + 1,
        );
      }
    }
  }
  return result;
}

function meanOfLargestTwo(values: Float64Array): number {
  return pairwiseMean(values.toSorted().subarray(-2));
}

/** The straight line through an object's centres. */
export interface Path {
  /** What motion it is; undefined if none in particular. */
  readonly motion: SceneMotion | undefined;
  /** Pixels from the first frame to the last. */
  readonly dx: number;
  readonly dy: number;
  /** Root mean square distance of the centres from the line; Infinity if the object is seen in fewer than 5 frames. */
  readonly error: number;
}

/** Fits a straight line to a track by least squares. */
export function pathOf(track: Track): Path {
  const seen = track.flatMap((sighting, frame) => sighting ? [{ ...sighting, frame }] : []);
  if (seen.length < 5) return { motion: undefined, dx: 0, dy: 0, error: Infinity };
  const centred = (values: number[]) => {
    const mean = pairwiseMean(values);
    return values.map((value) => value - mean);
  };
  const time = centred(seen.map(({ frame }) => frame));
  const x = centred(seen.map((sighting) => sighting.x));
  const y = centred(seen.map((sighting) => sighting.y));
  const spread = pairwiseSum(time.map((value) => value * value));
  // The slopes come from the centres themselves, not from the centred ones, which would round otherwise.
  const speed = (of: (sighting: Sighting) => number) =>
    pairwiseSum(seen.map((sighting, i) => time[i]! * of(sighting))) / spread;
  const speedX = speed((sighting) => sighting.x);
  const speedY = speed((sighting) => sighting.y);
  const squares = time.map((t, i) => (x[i]! - speedX * t) ** 2 + (y[i]! - speedY * t) ** 2);
  const error = Math.sqrt(pairwiseMean(squares));
  const dx = (movingFrames - 1) * speedX;
  const dy = (movingFrames - 1) * speedY;
  return { motion: error > 0.8 ? undefined : nameOf(dx, dy), dx, dy, error };
}

function nameOf(dx: number, dy: number): SceneMotion | undefined {
  const far = Math.max(Math.abs(dx), Math.abs(dy));
  if (far < 1.6) return "still";
  // Neither still nor far enough, or too slanted.
  if (far < 2.2 || Math.min(Math.abs(dx), Math.abs(dy)) > 0.5 * far) return undefined;
  if (Math.abs(dx) > Math.abs(dy)) return dx < 0 ? "left" : "right";
  return dy < 0 ? "up" : "down";
}
