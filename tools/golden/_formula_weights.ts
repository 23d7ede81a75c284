/** The weights of the reference networks: numbers made from a tensor's name. */

/** FNV-1a of the UTF-8 bytes of a name. */
export function seedOf(name: string): number {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(name)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

/** Number `index` of a tensor, uniform in [low, high), rounded to float32 by whoever stores it. */
function numberAt(seed: number, index: number, low: number, high: number): number {
  let h = seed + Math.imul(index, 0x9e3779b9) | 0;
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  h ^= h >>> 16;
  return low + (high - low) * ((h >>> 8) * 2 ** -24);
}

/** The tensor of a name, in its own order. */
export function formulaTensor(name: string, size: number, low: number, high: number): Float32Array {
  const seed = seedOf(name);
  return Float32Array.from({ length: size }, (_, index) => numberAt(seed, index, low, high));
}

/**
 * The weight of a convolution [kh, kw, in, out], a depthwise one [kh, kw, channels, 1] or a dense layer [in, out], whose numbers are those
 * of PyTorch's layout: [out, in, kh, kw], [channels, 1, kh, kw], [out, in]. Uniform in +-sqrt(3 / fan_in).
 */
export function formulaKernel(name: string, shape: readonly number[]): Float32Array {
  const [height, width, input, output] = (shape.length === 2 ? [1, 1, ...shape] : shape) as [
    number,
    number,
    number,
    number,
  ];
  // A depthwise filter has one input; a convolution to one channel would too, but no network here has one.
  const depthwise = shape.length === 4 && output === 1;
  const [rows, columns] = depthwise ? [input, 1] : [output, input];
  const bound = Math.sqrt(3 / (columns * height * width));
  const seed = seedOf(name);
  const values = new Float32Array(rows * columns * height * width);
  const pixels = height * width;
  let at = 0;
  for (let pixel = 0; pixel < pixels; pixel++) {
    for (let column = 0; column < columns; column++) {
      for (let row = 0; row < rows; row++) {
        values[at++] = numberAt(seed, (row * columns + column) * pixels + pixel, -bound, bound);
      }
    }
  }
  return values;
}
