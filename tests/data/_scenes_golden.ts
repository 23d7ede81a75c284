/** The reference values of tests/golden/scenes, and the spoilt pictures that they are about. */

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { SceneDraws } from "../../lib/data/_scenes_draws.ts";

const folder = new URL("../golden/scenes/", import.meta.url);

/** What scenes.json and moving_scenes.json hold; see the README beside them. */
export interface Golden<Description, Found> {
  scenes: { seed: number; caption: string; sha256: string }[];
  descriptions: (Description & { seed: number; caption: string; background: number[][] })[];
  scores: (Spoiling & { sha256: string; found: Found[]; scores: ({ caption: string } & Scores)[] })[];
  captions: { caption: string; ids: number[]; count: number; sha256: string }[];
  noise: { seed: number; values: number[] };
}

export type Scores = Record<string, number | string>;

export interface Spoiling {
  first: number;
  second: number;
  seed: number;
  mix: number;
  noise: number;
  blurs: number;
}

export interface ReferenceObject {
  colour: number;
  shape: number;
  x: number;
  y: number;
  r: number;
}

export type StillGolden = Golden<
  { objects: (ReferenceObject & { rgb: number[] })[] },
  ReferenceObject & { iou: number; area: number }
>;
export type MovingGolden = Golden<
  { objects: (ReferenceObject & { motion: number; vx: number; vy: number; rgb: number[] })[] },
  {
    colour: number;
    track: ({ x: number; y: number; area: number; fill: number } | null)[];
    path: [motion: number, dx: number, dy: number, error: number];
  }
>;

export async function readGolden<T>(name: string): Promise<T> {
  return JSON.parse(await readFile(new URL(name, folder), "utf8")) as T;
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** `spoil` of tests/golden/scenes/make.py: pictures of `side` x `side`, one or more. */
export function spoil(
  first: Uint8Array,
  second: Uint8Array,
  { seed, mix, noise, blurs }: Spoiling,
  side: number,
): Uint8Array {
  const draws = new SceneDraws(seed);
  let pixels = Uint8Array.from(first, (byte, i) => {
    const value = byte * (1 - mix) + second[i]! * mix + noise * draws.real(-1, 1);
    return Math.floor(Math.min(Math.max(value, 0), 255) + 0.5);
  });
  for (let blur = 0; blur < blurs; blur++) pixels = blurred(pixels, side);
  return pixels;
}

/** The mean of each pixel's nine neighbours, halves up, the edge repeated. */
function blurred(pixels: Uint8Array, side: number): Uint8Array<ArrayBuffer> {
  const inside = (at: number) => Math.min(Math.max(at, 0), side - 1);
  return Uint8Array.from(pixels, (_, i) => {
    const channel = i % 3;
    const x = Math.floor(i / 3) % side;
    const row = Math.floor(i / 3 / side);
    const top = row - row % side;
    let total = 0;
    for (const v of [-1, 0, 1]) {
      for (const u of [-1, 0, 1]) {
        total += pixels[((top + inside(row % side + v)) * side + inside(x + u)) * 3 + channel]!;
      }
    }
    return Math.floor((2 * total + 9) / 18);
  });
}
