/** The score of a still picture: does it show what its caption says? */

import { coverage } from "./_scenes_paint.ts";
import { hueBits, hues, type ScenePixels, unitPixels } from "./_scenes_pixels.ts";
import { pairwiseSum } from "./_scenes_sums.ts";
import {
  colourNames,
  countNames,
  placeNames,
  pluralNames,
  relationNames,
  type SceneColour,
  sceneColours,
  sceneSide,
  shapeNames,
  sizeNames,
} from "./scenes.ts";
import type { SceneShape } from "./_scenes_paint.ts";

export type { ScenePixels } from "./_scenes_pixels.ts";

/** What a caption asks for. */
export type SceneWish =
  & { readonly objects: readonly { readonly colour: SceneColour; readonly shape: SceneShape }[] }
  & (
    | { readonly kind: "one"; readonly size: "small" | "large"; readonly place: typeof placeNames[number] }
    | { readonly kind: "relation"; readonly relation: typeof relationNames[number] }
    | { readonly kind: "count" }
  );

const oneOf = (names: readonly string[]) => `(${names.join("|")})`;
const thing = `${oneOf(colourNames)} ${oneOf(shapeNames)}`;
const single = new RegExp(`^${oneOf(sizeNames)} ${thing} ${oneOf(placeNames)}$`);
const several = new RegExp(`^${oneOf(countNames)} ${oneOf(colourNames)} ${oneOf(pluralNames)}$`);
const related = new RegExp(`^${thing} ${oneOf(relationNames)} ${thing}$`);

/**
 * What a caption of still scenes asks for.
 *
 * @throws {SyntaxError} It is not a caption of still scenes.
 */
export function parseSceneCaption(caption: string): SceneWish {
  const object = (colour: string | undefined, shape: string | undefined) => ({
    colour: colour as SceneColour,
    shape: shape as SceneShape,
  });
  const one = single.exec(caption);
  if (one) {
    const [, size, colour, shape, place] = one;
    return {
      kind: "one",
      size: size as typeof sizeNames[number],
      place: place as typeof placeNames[number],
      objects: [object(colour, shape)],
    };
  }
  const alike = several.exec(caption);
  if (alike) {
    const shape = shapeNames[pluralNames.findIndex((plural) => plural === alike[3])];
    const count = alike[1] === "two" ? 2 : 3;
    return { kind: "count", objects: Array.from({ length: count }, () => object(alike[2], shape)) };
  }
  const two = related.exec(caption);
  if (two) {
    return {
      kind: "relation",
      relation: two[3] as typeof relationNames[number],
      objects: [object(two[1], two[2]), object(two[4], two[5])],
    };
  }
  throw new SyntaxError(
    "Cannot read a caption as it must be 'SIZE COLOUR SHAPE PLACE', 'two|three COLOUR SHAPES' or " +
      `'COLOUR SHAPE RELATION COLOUR SHAPE': current caption is ${JSON.stringify(caption.slice(0, 80))}`,
  );
}

/** An object seen in a picture. */
export interface FoundObject {
  readonly colour: SceneColour;
  readonly shape: SceneShape;
  readonly x: number;
  readonly y: number;
  readonly radius: number;
  /** Overlap of the pixels with the best template: intersection over union, 0 to 1. */
  readonly overlap: number;
  /** Pixels that it covers. */
  readonly area: number;
}

/** A pixel with less difference between its channels has no colour; fewer pixels together are no object. */
const leastChroma = 0.36;
const leastArea = 10;

/**
 * The objects of a picture: connected pixels of one hue, and the shape, size and height that fit them best.
 *
 * @throws {TypeError} `pixels` is not [32, 32, 3].
 */
export function findSceneObjects(pixels: ScenePixels): FoundObject[] {
  const { chroma, bits } = hues(unitPixels(pixels, [sceneSide, sceneSide, 3]), 0, sceneSide * sceneSide);
  const found: FoundObject[] = [];
  for (const colour of colourNames) {
    const wanted = hueBits(sceneColours[colour]);
    const mask = Uint8Array.from(chroma, (value, i) => value > leastChroma && bits[i] === wanted ? 1 : 0);
    for (const part of connectedParts(mask)) {
      if (part.length >= leastArea) found.push({ colour, ...bestTemplate(part), area: part.length });
    }
  }
  return found;
}

/** The parts of a mask that hang together, corners included, each as the indices of its pixels. */
function connectedParts(mask: Uint8Array): number[][] {
  const left = mask.slice();
  const parts: number[][] = [];
  for (let start = 0; start < left.length; start++) {
    if (left[start] === 0) continue;
    const part = [start];
    left[start] = 0;
    for (let next = 0; next < part.length; next++) {
      const x = part[next]! % sceneSide;
      const y = (part[next]! - x) / sceneSide;
      for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, sceneSide - 1); v++) {
        for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, sceneSide - 1); u++) {
          const neighbour = v * sceneSide + u;
          if (left[neighbour] === 0) continue;
          left[neighbour] = 0;
          part.push(neighbour);
        }
      }
    }
    parts.push(part);
  }
  return parts;
}

type Fit = Pick<FoundObject, "shape" | "x" | "y" | "radius" | "overlap">;

/** Of all shapes, a little larger and smaller, higher and lower than the box around the pixels, the best overlap. */
function bestTemplate(part: readonly number[]): Fit {
  const mask = new Float64Array(sceneSide * sceneSide);
  for (const pixel of part) mask[pixel] = 1;
  const columns = part.map((pixel) => pixel % sceneSide);
  const rows = part.map((pixel) => Math.floor(pixel / sceneSide));
  const [left, right] = [Math.min(...columns), Math.max(...columns)];
  const [top, bottom] = [Math.min(...rows), Math.max(...rows)];
  const half = Math.max(right - left, bottom - top) / 2 + 0.5;
  const x = (left + right) / 2;
  const middle = (top + bottom) / 2;
  const template = new Float64Array(mask.length);
  const common = new Float64Array(mask.length);
  let best: Fit | undefined;
  for (const shape of shapeNames) {
    const size = shape === "square" ? half / 0.9 : shape === "triangle" ? half / 0.95 : half;
    const centre = shape === "triangle" ? middle + 0.05 * half : middle;
    for (const scale of [0.88, 0.94, 1, 1.06]) {
      for (const shift of [-0.4, 0, 0.4]) {
        const fit = { shape, x, y: centre + shift, radius: size * scale };
        coverage(fit, sceneSide, template);
        for (let i = 0; i < mask.length; i++) common[i] = Math.min(template[i]!, mask[i]!);
        const both = pairwiseSum(common);
        const overlap = both / (pairwiseSum(template) + part.length - both);
        if (best === undefined || overlap > best.overlap) best = { ...fit, overlap };
      }
    }
  }
  return best!;
}

/** What of a caption a picture shows: 1 or 0 each, so that scores can be averaged. */
export interface SceneScore {
  /** As many objects as asked for. */
  readonly count: number;
  /** Objects of the colours asked for, no others. */
  readonly colour: number;
  /** Objects of the colours and shapes asked for, no others. */
  readonly shape: number;
  /** The single object is in its place, or the two stand in their relation; 1 for other captions. */
  readonly place: number;
  /** The single object is small or large as asked; 1 for other captions (0 with `place` where the object is missing). */
  readonly size: number;
  /** All of these. */
  readonly all: number;
}

/**
 * The score of a picture for a caption.
 *
 * ```ts
 * import { drawScene, renderScene, scoreScene } from "@normlab/normlab/data";
 *
 * const scene = drawScene(0);
 * console.log(scoreScene(renderScene(scene), scene.caption).all); // 1
 * ```
 *
 * @throws {TypeError} `pixels` is not [32, 32, 3].
 * @throws {SyntaxError} As {@linkcode parseSceneCaption}.
 */
export function scoreScene(pixels: ScenePixels, caption: string): SceneScore {
  const wish = parseSceneCaption(caption);
  const found = findSceneObjects(pixels);
  const names = (objects: readonly { colour: string; shape: string }[], shapes: boolean) =>
    objects.map(({ colour, shape }) => shapes ? `${colour} ${shape}` : colour).sort().join();
  const count = found.length === wish.objects.length;
  const colour = names(found, false) === names(wish.objects, false);
  const shape = names(found, true) === names(wish.objects, true);
  const { place, size } = placeAndSize(wish, found);
  const all = count && colour && shape && place && size;
  return {
    count: Number(count),
    colour: Number(colour),
    shape: Number(shape),
    place: Number(place),
    size: Number(size),
    all: Number(all),
  };
}

function placeAndSize(wish: SceneWish, found: readonly FoundObject[]): { place: boolean; size: boolean } {
  if (wish.kind === "count") return { place: true, size: true };
  const [a, b] = wish.objects.map(({ colour }) => largest(found, colour));
  if (wish.kind === "one") {
    if (!a) return { place: false, size: false };
    const third = (at: number) => at < 11.5 ? 0 : at < 20.5 ? 1 : 2;
    return {
      place: placeNames[3 * third(a.y) + third(a.x)] === wish.place,
      size: (a.radius > 4.8) === (wish.size === "large"),
    };
  }
  return { place: a !== undefined && b !== undefined && inRelation(a, b, wish.relation), size: true };
}

/** Whether a stands to b as said: more than 6 pixels away, and further along the relation's axis than across it. */
function inRelation(a: FoundObject, b: FoundObject, relation: typeof relationNames[number]): boolean {
  const [dx, dy] = [a.x - b.x, a.y - b.y];
  const sideways = Math.abs(dx) > Math.abs(dy);
  const upright = Math.abs(dy) > Math.abs(dx);
  switch (relation) {
    case "left of":
      return dx < -6 && sideways;
    case "right of":
      return dx > 6 && sideways;
    case "above":
      return dy < -6 && upright;
    case "below":
      return dy > 6 && upright;
  }
}

/** The largest object of a colour, the first of several. */
function largest(found: readonly FoundObject[], colour: SceneColour): FoundObject | undefined {
  let best: FoundObject | undefined;
  for (const object of found) {
    if (object.colour === colour && (best === undefined || object.area > best.area)) best = object;
  }
  return best;
}
