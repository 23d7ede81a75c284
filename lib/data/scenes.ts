/** Still scenes: coloured shapes on a grey gradient with a caption, each a pure function of a 32-bit seed. */

import { drawBackground, drawShade, SceneDraws } from "./_scenes_draws.ts";
import { type Gradient, paint, type SceneShape } from "./_scenes_paint.ts";

export type { Gradient as SceneGradient, SceneShape } from "./_scenes_paint.ts";

/** The colours of still scenes: which of red, green and blue are bright. */
export const sceneColours = {
  red: [1, 0, 0],
  green: [0, 1, 0],
  blue: [0, 0, 1],
  yellow: [1, 1, 0],
  magenta: [1, 0, 1],
  cyan: [0, 1, 1],
} as const;

/** A colour of still scenes. */
export type SceneColour = keyof typeof sceneColours;

/** The names of the colours, in the order in which draws number them. */
export const colourNames = Object.keys(sceneColours) as SceneColour[];

/** Shapes in the order in which draws number them, and their plurals in captions. */
export const shapeNames = ["circle", "square", "triangle", "ring"] as const;
export const pluralNames = ["circles", "squares", "triangles", "rings"] as const;

/** The nine places of a single object, row by row. */
export const placeNames = [
  "top left",
  "top",
  "top right",
  "left",
  "center",
  "right",
  "bottom left",
  "bottom",
  "bottom right",
] as const;

export const relationNames = ["left of", "right of", "above", "below"] as const;
export const sizeNames = ["small", "large"] as const;
export const countNames = ["two", "three"] as const;

/** Pixels on each side of a still scene. */
export const sceneSide = 32;

/** A shape in a scene. */
export interface SceneObject<Colour extends string = SceneColour> {
  readonly shape: SceneShape;
  readonly colour: Colour;
  /** Centre, in pixels from the centre of the upper left pixel. */
  readonly x: number;
  readonly y: number;
  readonly radius: number;
  /** The colour as painted: red, green, blue, 0 to 1. */
  readonly rgb: readonly [number, number, number];
}

/** What a picture shows: a plain value, drawn from a seed or written by hand. */
export interface Scene {
  /** "large red ring top left", "blue circle left of red square" or "three green triangles". */
  readonly caption: string;
  /** From back to front. */
  readonly objects: readonly SceneObject[];
  /** Red, green and blue of the background. */
  readonly background: readonly [Gradient, Gradient, Gradient];
}

/**
 * The scene of a seed: 35% one object in a place, 35% two in a relation, 30% two or three alike.
 *
 * ```ts
 * import { drawScene, renderScene } from "@normlab/normlab/data";
 *
 * const scene = drawScene(0);
 * console.log(scene.caption); // "yellow square left of red square"
 * const pixels = renderScene(scene); // Uint8Array [32, 32, 3]
 * console.log(pixels.length);
 * ```
 *
 * @throws {RangeError} `seed` is not an integer from 0 to 2^32 - 1.
 */
export function drawScene(seed: number): Scene {
  const draws = new SceneDraws(seed);
  const background = drawBackground(draws);
  const kind = draws.below(20);
  const arrange = kind < 7 ? oneObject : kind < 14 ? twoRelated : severalAlike;
  return { ...arrange(draws), background };
}

/**
 * A still scene as bytes, [32, 32, 3], edges anti-aliased.
 *
 * @throws {RangeError} An unknown shape, or a number that is not finite.
 */
export function renderScene(scene: Scene): Uint8Array<ArrayBuffer> {
  return paint(scene.background, scene.objects, sceneSide);
}

/**
 * Standard normal numbers for the start of a sampling run, [count] in channels-first order, by Box and Muller from the
 * scenes' own generator. The published runs of the small checkpoints began with these.
 *
 * @throws {RangeError} `seed` is not an integer from 0 to 2^32 - 1, or `count` not a natural number.
 */
export function sceneNoise(
  seed: number,
  count: number = 3 * sceneSide * sceneSide,
): Float64Array<ArrayBuffer> {
  if (!(Number.isSafeInteger(count) && count >= 0)) {
    throw new RangeError(
      `Cannot draw noise as 'count' must be an integer of at least 0: current count is ${count}`,
    );
  }
  const draws = new SceneDraws(seed);
  const noise = new Float64Array(count);
  for (let i = 0; i < count; i += 2) {
    const radius = Math.sqrt(-2 * Math.log((draws.next() + 0.5) / 2 ** 32));
    const angle = 2 * Math.PI * (draws.next() / 2 ** 32);
    noise[i] = radius * Math.cos(angle);
    if (i + 1 < count) noise[i + 1] = radius * Math.sin(angle);
  }
  return noise;
}

type Arrangement = Pick<Scene, "caption" | "objects">;

/** An object by the numbers of its colour and shape; its shade is drawn. */
function drawObject(
  draws: SceneDraws,
  look: { colour: number; shape: number },
  x: number,
  y: number,
  radius: number,
): SceneObject {
  const colour = colourNames[look.colour]!;
  const rgb = drawShade(draws, sceneColours[colour]);
  return { shape: shapeNames[look.shape]!, colour, x, y, radius, rgb };
}

function oneObject(draws: SceneDraws): Arrangement {
  const size = draws.below(2);
  const colour = draws.below(6);
  const shape = draws.below(4);
  const place = draws.below(9);
  const x = 7 + 9 * (place % 3) + draws.real(-1, 1);
  const y = 7 + 9 * Math.floor(place / 3) + draws.real(-1, 1);
  const radius = size ? draws.real(5.6, 6.4) : draws.real(3.4, 4);
  return {
    caption: [sizeNames[size], colourNames[colour], shapeNames[shape], placeNames[place]].join(" "),
    objects: [drawObject(draws, { colour, shape }, x, y, radius)],
  };
}

function twoRelated(draws: SceneDraws): Arrangement {
  const relation = draws.below(4);
  const first = { colour: draws.below(6), shape: draws.below(4) };
  const second = { colour: (first.colour + 1 + draws.below(5)) % 6, shape: draws.below(4) };
  const near = draws.real(7, 9);
  const far = draws.real(23, 25);
  // Across the relation's axis the two are less than 3 pixels apart.
  const acrossFirst = draws.real(9, 23);
  const acrossSecond = Math.min(Math.max(acrossFirst + draws.real(-3, 3), 8), 24);
  const [alongFirst, alongSecond] = relation % 2 === 0 ? [near, far] : [far, near];
  const radiusFirst = draws.real(4.2, 5.6);
  const radiusSecond = draws.real(4.2, 5.6);
  const put = (look: typeof first, along: number, across: number, radius: number) =>
    relation < 2
      ? drawObject(draws, look, along, across, radius)
      : drawObject(draws, look, across, along, radius);
  const name = (look: typeof first) => `${colourNames[look.colour]} ${shapeNames[look.shape]}`;
  return {
    caption: `${name(first)} ${relationNames[relation]} ${name(second)}`,
    objects: [
      put(first, alongFirst, acrossFirst, radiusFirst),
      put(second, alongSecond, acrossSecond, radiusSecond),
    ],
  };
}

/** The quadrants that two objects take. */
const pairs = [[0, 1], [2, 3], [0, 3], [1, 2]] as const;

function severalAlike(draws: SceneDraws): Arrangement {
  const count = draws.below(2);
  const look = { colour: draws.below(6), shape: draws.below(4) };
  const choice = draws.below(4);
  const quadrants = count === 0 ? pairs[choice]! : [0, 1, 2, 3].filter((quadrant) => quadrant !== choice);
  const objects = quadrants.map((quadrant) => {
    const x = 8.5 + 15 * (quadrant % 2) + draws.real(-1.5, 1.5);
    const y = 8.5 + 15 * Math.floor(quadrant / 2) + draws.real(-1.5, 1.5);
    return drawObject(draws, look, x, y, draws.real(4, 5.2));
  });
  return { caption: `${countNames[count]} ${colourNames[look.colour]} ${pluralNames[look.shape]}`, objects };
}
