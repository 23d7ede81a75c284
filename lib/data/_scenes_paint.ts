/**
 * Painting of scenes: shapes with soft edges over a linear background. Only + - * / sqrt, min, max and abs on doubles,
 * in one order, so that pixels are the same bytes everywhere.
 */

/** What an object can look like. */
export type SceneShape = "circle" | "square" | "triangle" | "ring";

/** One channel of the background: base + slopeX (x - c) / side + slopeY (y - c) / side, c the image's centre. */
export interface Gradient {
  readonly base: number;
  readonly slopeX: number;
  readonly slopeY: number;
}

/** What the painter needs of an object. */
export interface Painted {
  readonly shape: SceneShape;
  /** Centre, in pixels from the centre of the upper left pixel. */
  readonly x: number;
  readonly y: number;
  readonly radius: number;
  /** Red, green, blue, 0 to 1. */
  readonly rgb: readonly [number, number, number];
}

/** 1 / sqrt(5): turns the height above a side of slope 2 into a distance. */
const slope = 0.4472135954999579;

/**
 * How far (dx, dy) from its centre lies outside of a shape, negative inside. Circle: radius r. Square: half side
 * 0.9 r. Triangle: apex at (0, -r), base at y = 0.9 r, half base 0.95 r. Ring: from 0.5 r to r.
 */
function signedDistance(shape: SceneShape, dx: number, dy: number, radius: number): number {
  switch (shape) {
    case "circle":
      return Math.sqrt(dx * dx + dy * dy) - radius;
    case "square":
      return Math.max(Math.abs(dx), Math.abs(dy)) - 0.9 * radius;
    case "triangle":
      return Math.max((2 * Math.abs(dx) - dy - radius) * slope, dy - 0.9 * radius);
    case "ring":
      return Math.abs(Math.sqrt(dx * dx + dy * dy) - 0.75 * radius) - 0.25 * radius;
  }
}

/** How much of each pixel a shape covers, 0 to 1: clamp(0.5 - signed distance), [side, side]. */
export function coverage(
  { shape, x, y, radius }: Omit<Painted, "rgb">,
  side: number,
  out: Float64Array<ArrayBuffer> = new Float64Array(side * side),
): Float64Array<ArrayBuffer> {
  let at = 0;
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const distance = signedDistance(shape, column - x, row - y, radius);
      out[at++] = Math.min(Math.max(0.5 - distance, 0), 1);
    }
  }
  return out;
}

/** Objects over a background, the later ones on top: bytes, [side, side, 3]. */
export function paint(
  background: readonly [Gradient, Gradient, Gradient],
  objects: readonly Painted[],
  side: number,
): Uint8Array<ArrayBuffer> {
  for (const object of objects) requirePaintable(object);
  const image = new Float64Array(side * side * 3);
  const middle = (side - 1) / 2;
  background.forEach(({ base, slopeX, slopeY }, channel) => {
    let at = channel;
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++, at += 3) {
        image[at] = base + slopeX * ((x - middle) / side) + slopeY * ((y - middle) / side);
      }
    }
  });
  const covered = new Float64Array(side * side);
  for (const object of objects) {
    coverage(object, side, covered);
    for (let i = 0; i < covered.length; i++) {
      const share = covered[i]!;
      for (let channel = 0; channel < 3; channel++) {
        const at = 3 * i + channel;
        image[at] = image[at]! * (1 - share) + object.rgb[channel]! * share;
      }
    }
  }
  return Uint8Array.from(image, (value) => Math.floor(Math.min(Math.max(value, 0), 1) * 255 + 0.5));
}

const shapes: readonly string[] = ["circle", "square", "triangle", "ring"];

function requirePaintable({ shape, x, y, radius, rgb }: Painted): void {
  if (!shapes.includes(shape)) {
    throw new RangeError(
      `Cannot render a scene as 'shape' must be one of ${shapes.join(", ")}: current shape is ${shape}`,
    );
  }
  if ([x, y, radius, ...rgb].every(Number.isFinite) && rgb.length === 3) return;
  throw new RangeError(
    "Cannot render a scene as 'x', 'y', 'radius' and the three numbers of 'rgb' must be finite: " +
      `current values are ${[x, y, radius].join(", ")} and [${rgb.join(", ")}]`,
  );
}
