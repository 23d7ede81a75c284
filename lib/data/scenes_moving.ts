/** Moving scenes: one or two coloured shapes that move straight ahead or stay, each clip a pure function of a seed. */

import { drawBackground, drawShade, SceneDraws } from "./_scenes_draws.ts";
import { type Gradient, paint } from "./_scenes_paint.ts";
import type { SceneObject } from "./scenes.ts";

/** The colours of moving scenes: which of red, green and blue are bright. */
export const movingColours = {
  red: [1, 0, 0],
  green: [0, 1, 0],
  blue: [0, 0, 1],
  yellow: [1, 1, 0],
} as const;

/** A colour of moving scenes. */
export type MovingColour = keyof typeof movingColours;

/** The directions, in pixels per frame and unit of speed, y downwards. */
export const sceneMotions = {
  left: [-1, 0],
  right: [1, 0],
  up: [0, -1],
  down: [0, 1],
  still: [0, 0],
} as const;

/** How an object of a moving scene moves. */
export type SceneMotion = keyof typeof sceneMotions;

/** Names in the order in which draws number them. */
export const movingColourNames = Object.keys(movingColours) as MovingColour[];
export const movingShapeNames = ["circle", "square"] as const;
export const motionNames = Object.keys(sceneMotions) as SceneMotion[];

/** Pixels on each side of a frame, and frames of a clip. */
export const movingSide = 16;
export const movingFrames = 8;

/** A shape that moves; its `x` and `y` are those of the first frame. */
export interface MovingObject extends SceneObject<MovingColour> {
  readonly shape: "circle" | "square";
  readonly motion: SceneMotion;
  /** Pixels per frame. */
  readonly velocityX: number;
  readonly velocityY: number;
}

/** What a clip shows: a plain value, drawn from a seed or written by hand. */
export interface MovingScene {
  /** "red circle left", or two such one after the other in different colours. */
  readonly caption: string;
  /** From back to front. */
  readonly objects: readonly MovingObject[];
  /** Red, green and blue of the background. */
  readonly background: readonly [Gradient, Gradient, Gradient];
}

/**
 * The moving scene of a seed: 80% one object; else two of different colours, each in its half of the frame, moving
 * along the border between them. Objects stay inside of the frame throughout.
 *
 * ```ts
 * import { drawMovingScene, renderMovingScene } from "@normlab/normlab/data";
 *
 * const scene = drawMovingScene(0);
 * const clip = renderMovingScene(scene); // Uint8Array [8, 16, 16, 3]
 * console.log(scene.caption, clip.length);
 * ```
 *
 * @throws {RangeError} `seed` is not an integer from 0 to 2^32 - 1.
 */
export function drawMovingScene(seed: number): MovingScene {
  const draws = new SceneDraws(seed);
  const background = drawBackground(draws);
  const objects = draws.below(5) < 4 ? [oneObject(draws)] : twoObjects(draws);
  const caption = objects.map(({ colour, shape, motion }) => `${colour} ${shape} ${motion}`).join(" ");
  return { caption, objects, background };
}

/**
 * A moving scene as bytes, [8, 16, 16, 3], edges anti-aliased, objects between pixels where they happen to be.
 *
 * @throws {RangeError} An unknown shape, or a number that is not finite.
 */
export function renderMovingScene(scene: MovingScene): Uint8Array<ArrayBuffer> {
  const frame = movingSide * movingSide * 3;
  const clip = new Uint8Array(movingFrames * frame);
  for (let i = 0; i < movingFrames; i++) {
    const objects = scene.objects.map((object) => ({
      ...object,
      x: object.x + object.velocityX * i,
      y: object.y + object.velocityY * i,
    }));
    clip.set(paint(scene.background, objects, movingSide), i * frame);
  }
  return clip;
}

/** Pixel centres of the first and last column and row that an object may touch. */
interface Box {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

function oneObject(draws: SceneDraws): MovingObject {
  const colour = draws.below(4);
  const motion = draws.below(5);
  const radius = draws.real(3, 4);
  return drawObject(draws, { colour, motion, radius }, { left: 0, right: 15, top: 0, bottom: 15 });
}

function twoObjects(draws: SceneDraws): MovingObject[] {
  const first = draws.below(4);
  const second = (first + 1 + draws.below(3)) % 4;
  const sideBySide = draws.below(2) === 1;
  const swapped = draws.below(2);
  return [first, second].map((colour, i) => {
    // 0 and 1 are the two directions along the border, 2 is still.
    const choice = draws.below(3);
    const motion = choice === 2 ? 4 : sideBySide ? 2 + choice : choice;
    const start = 8 * ((i + swapped) % 2);
    const radius = draws.real(2.6, 3.2);
    const box = sideBySide
      ? { left: start, right: start + 7, top: 0, bottom: 15 }
      : { left: 0, right: 15, top: start, bottom: start + 7 };
    return drawObject(draws, { colour, motion, radius }, box);
  });
}

/** An object by the numbers of its colour and motion, placed so that it stays inside of `box` in every frame. */
function drawObject(
  draws: SceneDraws,
  look: { colour: number; motion: number; radius: number },
  box: Box,
): MovingObject {
  const { radius } = look;
  const shape = movingShapeNames[draws.below(2)]!;
  const motion = motionNames[look.motion]!;
  const speed = motion === "still" ? 0 : draws.real(0.55, 1.05);
  const [directionX, directionY] = sceneMotions[motion];
  const path = (movingFrames - 1) * speed;
  const start = (first: number, last: number, direction: number) => {
    const low = first - 0.5 + radius;
    const high = last + 0.5 - radius;
    const at = draws.real(low, direction === 0 ? high : high - path);
    return direction < 0 ? at + path : at;
  };
  const x = start(box.left, box.right, directionX);
  const y = start(box.top, box.bottom, directionY);
  const colour = movingColourNames[look.colour]!;
  const rgb = drawShade(draws, movingColours[colour]);
  return {
    shape,
    colour,
    motion,
    x,
    y,
    velocityX: directionX * speed,
    velocityY: directionY * speed,
    radius,
    rgb,
  };
}
