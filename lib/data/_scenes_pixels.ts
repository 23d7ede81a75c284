/** Pixels as the scores see them. */

/** Bytes (0 to 255) or floats (0 to 1), channels last. */
export type ScenePixels = Uint8Array | Uint8ClampedArray | Float32Array | Float64Array;

/**
 * The pixels as doubles from 0 to 1, [height, width, 3] or [frames, height, width, 3].
 *
 * @throws {TypeError} They have not the size of `shape`.
 */
export function unitPixels(pixels: ScenePixels, shape: readonly number[]): Float64Array {
  const length = shape.reduce((product, size) => product * size, 1);
  if (pixels.length !== length) {
    throw new TypeError(
      `Cannot score a scene as 'pixels' must be [${shape.join(", ")}], ${length} numbers: ` +
        `current pixels are ${pixels.length}`,
    );
  }
  const bytes = pixels instanceof Uint8Array || pixels instanceof Uint8ClampedArray;
  return Float64Array.from(pixels, bytes ? (value) => value / 255 : (value) => value);
}

/** The hue of every pixel: how colourful it is, and which of its channels are bright. */
export interface Hues {
  /** Largest channel less smallest, [pixels]. */
  readonly chroma: Float64Array;
  /** Bit c is set where channel c lies above the middle of largest and smallest, [pixels]. */
  readonly bits: Uint8Array;
}

/** The hues of `count` pixels from pixel `start` on. */
export function hues(pixels: Float64Array, start: number, count: number): Hues {
  const chroma = new Float64Array(count);
  const bits = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    const at = 3 * (start + i);
    const [red, green, blue] = [pixels[at]!, pixels[at + 1]!, pixels[at + 2]!];
    const high = Math.max(red, green, blue);
    const low = Math.min(red, green, blue);
    const middle = (high + low) / 2;
    chroma[i] = high - low;
    bits[i] = (red > middle ? 1 : 0) | (green > middle ? 2 : 0) | (blue > middle ? 4 : 0);
  }
  return { chroma, bits };
}

/** A colour's bright channels as the bits of {@linkcode hues}. */
export function hueBits([red, green, blue]: readonly [number, number, number]): number {
  return red | (green << 1) | (blue << 2);
}
