/**
 * Position and time embeddings of diffusion transformers, as tables of numbers: what diffusers computes
 * (`diffusers.models.embeddings`, 0.42), with its channel order and its roundings to float32.
 */

/** A table of float32 numbers in C order. */
export interface EmbeddingTable {
  readonly data: Float32Array;
  /** [rows, width] */
  readonly shape: [number, number];
}

/** Cosines and sines of a rotary embedding, each [tokens, dim]; both channels of a pair hold the same angle. */
export interface RotaryTables {
  readonly cos: EmbeddingTable;
  readonly sin: EmbeddingTable;
}

/** The part of the model's own grid that a grid of tokens is stretched over: (row, column) where it starts and stops. */
export interface CropRegion {
  readonly start: readonly [row: number, column: number];
  readonly stop: readonly [row: number, column: number];
}

const f32 = Math.fround;

/** How {@linkcode timestepEmbedding} orders and scales its frequencies. */
export interface TimestepEmbeddingOptions {
  /** Cosines first, as all published transformers have it. Default true. */
  readonly cosinesFirst?: boolean;
  /** Frequencies are maxPeriod^(-i / (dim/2 - frequencyShift)): 1 in DiT, else 0. Default 0. */
  readonly frequencyShift?: number;
  /** Default 10000. */
  readonly maxPeriod?: number;
}

/**
 * Sinusoidal embedding of denoising times, [times, dim]: cos(t w_i), sin(t w_i), w_i = maxPeriod^(-i / (dim/2 - shift)).
 *
 * Source: Vaswani et al., arXiv 1706.03762; `get_timestep_embedding` of diffusers.
 * @throws {RangeError} `dim` is no even positive number.
 */
export function timestepEmbedding(
  times: ArrayLike<number>,
  dim: number,
  { cosinesFirst = true, frequencyShift = 0, maxPeriod = 10000 }: TimestepEmbeddingOptions = {},
): EmbeddingTable {
  requireMultiple("times", "dim", dim, 2);
  const half = dim / 2;
  const data = new Float32Array(times.length * dim);
  for (let i = 0; i < half; i++) {
    // In float32 as there: at t = 999 the rounding of the angle shows in the fifth digit.
    const exponent = f32(f32(f32(-Math.log(maxPeriod)) * i) / f32(half - frequencyShift));
    const frequency = f32(Math.exp(exponent));
    for (let row = 0; row < times.length; row++) {
      const angle = f32(f32(times[row]!) * frequency);
      data[row * dim + i + (cosinesFirst ? half : 0)] = Math.sin(angle);
      data[row * dim + i + (cosinesFirst ? 0 : half)] = Math.cos(angle);
    }
  }
  return { data, shape: [times.length, dim] };
}

/** The grid of {@linkcode sinCos2d}. */
export interface SinCos2dOptions {
  readonly height: number;
  readonly width: number;
  /** Rows and columns of the grid that positions are counted in: the training sample / patch size. */
  readonly baseSize: number;
  /** Positions are divided by it. Default 1. */
  readonly interpolationScale?: number;
}

/**
 * Sine-cosine positions of an image, [height * width, dim] in raster order: the first half of the channels tells the column, the second
 * the row; in each, sines come first. Positions are column / (width / baseSize) / interpolationScale.
 *
 * Source: He et al., arXiv 2111.06377; `get_2d_sincos_pos_embed` of diffusers (PixArt, DiT).
 * @throws {RangeError} `dim` is no multiple of 4, or the grid is empty.
 */
export function sinCos2d(dim: number, options: SinCos2dOptions): EmbeddingTable {
  const { height, width, baseSize, interpolationScale = 1 } = options;
  requireMultiple("positions", "dim", dim, 4);
  const scaled = (size: number) =>
    Float32Array.from({ length: size }, (_, i) => f32(f32(i / f32(size / baseSize)) / interpolationScale));
  return planeTable(dim, scaled(requireSize("height", height)), scaled(requireSize("width", width)));
}

/** The grid of {@linkcode sinCos3d}. */
export interface SinCos3dOptions {
  readonly frames: number;
  readonly height: number;
  readonly width: number;
  /** Default 1. */
  readonly spatialInterpolationScale?: number;
  /** Default 1. */
  readonly temporalInterpolationScale?: number;
}

/**
 * Sine-cosine positions of a video, [frames * height * width, dim], frame by frame in raster order: the first quarter of the channels
 * tells the frame, the rest is as {@linkcode sinCos2d} with positions divided by the scale alone.
 *
 * Source: `get_3d_sincos_pos_embed` of diffusers (CogVideoX-2B).
 * @throws {RangeError} `dim` is no multiple of 16, or the grid is empty.
 */
export function sinCos3d(dim: number, options: SinCos3dOptions): EmbeddingTable {
  const { frames, height, width, spatialInterpolationScale = 1, temporalInterpolationScale = 1 } = options;
  requireMultiple("positions", "dim", dim, 16);
  const scaled = (size: number, scale: number) => Float32Array.from({ length: size }, (_, i) => i / scale);
  const timeDim = dim / 4;
  const time = lineTable(
    timeDim,
    scaled(requireSize("frames", frames), temporalInterpolationScale),
  );
  const plane = planeTable(
    dim - timeDim,
    scaled(requireSize("height", height), spatialInterpolationScale),
    scaled(requireSize("width", width), spatialInterpolationScale),
  );
  const area = height * width;
  const data = new Float32Array(frames * area * dim);
  for (let frame = 0; frame < frames; frame++) {
    for (let token = 0; token < area; token++) {
      const at = (frame * area + token) * dim;
      data.set(time.data.subarray(frame * timeDim, (frame + 1) * timeDim), at);
      data.set(plane.data.subarray(token * plane.shape[1], (token + 1) * plane.shape[1]), at + timeDim);
    }
  }
  return { data, shape: [frames * area, dim] };
}

/** [height * width, dim]: columns in the first half of the channels, rows in the second. */
function planeTable(dim: number, rows: Float32Array, columns: Float32Array): EmbeddingTable {
  const half = dim / 2;
  const [row, column] = [lineTable(half, rows).data, lineTable(half, columns).data];
  const data = new Float32Array(rows.length * columns.length * dim);
  for (let y = 0, at = 0; y < rows.length; y++) {
    for (let x = 0; x < columns.length; x++, at += dim) {
      data.set(column.subarray(x * half, (x + 1) * half), at);
      data.set(row.subarray(y * half, (y + 1) * half), at + half);
    }
  }
  return { data, shape: [rows.length * columns.length, dim] };
}

/** [positions, dim]: sines, then cosines of position * 10000^(-2i / dim), in double as there. */
function lineTable(dim: number, positions: Float32Array): EmbeddingTable {
  const half = dim / 2;
  const data = new Float32Array(positions.length * dim);
  for (let i = 0; i < half; i++) {
    const frequency = 1 / 10000 ** (i / half);
    for (let row = 0; row < positions.length; row++) {
      const angle = positions[row]! * frequency;
      data[row * dim + i] = Math.sin(angle);
      data[row * dim + half + i] = Math.cos(angle);
    }
  }
  return { data, shape: [positions.length, dim] };
}

/**
 * The part of a model's own grid that has the proportions of another grid, whole and in its middle.
 *
 * Source: `get_resize_crop_region_for_grid` of the Hunyuan-DiT and CogVideoX pipelines of diffusers.
 */
export function cropRegion(
  grid: { readonly height: number; readonly width: number },
  own: { readonly height: number; readonly width: number },
): CropRegion {
  const tall = grid.height / grid.width > own.height / own.width;
  const height = tall ? own.height : roundHalfEven(own.width / grid.width * grid.height);
  const width = tall ? roundHalfEven(own.height / grid.height * grid.width) : own.width;
  const start = [roundHalfEven((own.height - height) / 2), roundHalfEven((own.width - width) / 2)] as const;
  return { start, stop: [start[0] + height, start[1] + width] };
}

/** The grid of {@linkcode rotary2d}. */
export interface Rotary2dOptions {
  readonly height: number;
  readonly width: number;
  /** What of the model's grid the rows and columns are stretched over: {@linkcode cropRegion}. */
  readonly crop: CropRegion;
}

/**
 * Rotary positions of an image, [height * width, dim] in raster order: the first half of the channels turns with the column, the second
 * with the row, by position * 10000^(-2i / (dim/2)). Row i lies at start + i (stop (height-1) / height - start) / (height-1).
 *
 * Source: Su et al., arXiv 2104.09864; `get_2d_rotary_pos_embed` of diffusers (Hunyuan-DiT).
 * @throws {RangeError} `dim` is no multiple of 4, or the grid is empty.
 */
export function rotary2d(dim: number, { height, width, crop }: Rotary2dOptions): RotaryTables {
  requireMultiple("rotary positions", "dim", dim, 4);
  requireSize("height", height);
  requireSize("width", width);
  return rotaryTables(dim, height * width, [
    { dim: dim / 2, positions: stretched(crop, 1, width), position: (token) => token % width },
    { dim: dim / 2, positions: stretched(crop, 0, height), position: (token) => Math.floor(token / width) },
  ]);
}

/** The grid of {@linkcode rotary3d}. */
export interface Rotary3dOptions {
  readonly frames: number;
  readonly height: number;
  readonly width: number;
  /** What of the model's grid the rows and columns are stretched over. Left out: positions 0, 1, ... as in CogVideoX 1.5. */
  readonly crop?: CropRegion;
}

/**
 * Rotary positions of a video, [frames * height * width, dim], frame by frame in raster order: a quarter of the channels turns with the
 * frame, three eighths with the row, three eighths with the column.
 *
 * Source: `get_3d_rotary_pos_embed` of diffusers (CogVideoX-5B with `crop`; CogVideoX 1.5, grid type "slice", without).
 * @throws {RangeError} `dim` is no multiple of 16, or the grid is empty.
 */
export function rotary3d(dim: number, { frames, height, width, crop }: Rotary3dOptions): RotaryTables {
  requireMultiple("rotary positions", "dim", dim, 16);
  for (const [name, size] of Object.entries({ frames, height, width })) requireSize(name, size);
  const whole = (size: number) => Float32Array.from({ length: size }, (_, i) => i);
  const spatialDim = dim / 8 * 3;
  const area = height * width;
  return rotaryTables(dim, frames * area, [
    { dim: dim / 4, positions: whole(frames), position: (token) => Math.floor(token / area) },
    {
      dim: spatialDim,
      positions: crop ? stretched(crop, 0, height) : whole(height),
      position: (token) => Math.floor(token / width) % height,
    },
    {
      dim: spatialDim,
      positions: crop ? stretched(crop, 1, width) : whole(width),
      position: (token) => token % width,
    },
  ]);
}

/** Some channels of a rotary embedding, and the coordinate that turns them. */
interface RotaryAxis {
  readonly dim: number;
  readonly positions: Float32Array;
  /** Index into `positions`. */
  position(token: number): number;
}

function rotaryTables(dim: number, tokens: number, axes: readonly RotaryAxis[]): RotaryTables {
  const cos = new Float32Array(tokens * dim);
  const sin = new Float32Array(tokens * dim);
  let channel = 0;
  for (const axis of axes) {
    const [axisCos, axisSin] = rotaryLine(axis);
    for (let token = 0; token < tokens; token++) {
      const from = axis.position(token) * axis.dim;
      cos.set(axisCos.subarray(from, from + axis.dim), token * dim + channel);
      sin.set(axisSin.subarray(from, from + axis.dim), token * dim + channel);
    }
    channel += axis.dim;
  }
  return { cos: { data: cos, shape: [tokens, dim] }, sin: { data: sin, shape: [tokens, dim] } };
}

/** Cosines and sines of one coordinate, [positions, dim] each; angles in float32 as there. */
function rotaryLine({ dim, positions }: RotaryAxis): [cos: Float32Array, sin: Float32Array] {
  const cos = new Float32Array(positions.length * dim);
  const sin = new Float32Array(positions.length * dim);
  for (let i = 0; i < dim; i += 2) {
    const frequency = f32(1 / f32(10000 ** f32(i / dim)));
    for (let row = 0; row < positions.length; row++) {
      const angle = f32(positions[row]! * frequency);
      cos.fill(Math.cos(angle), row * dim + i, row * dim + i + 2);
      sin.fill(Math.sin(angle), row * dim + i, row * dim + i + 2);
    }
  }
  return [cos, sin];
}

/** `count` positions evenly from where the crop starts, the last one a step before where it stops: torch.linspace in float32. */
function stretched({ start, stop }: CropRegion, axis: 0 | 1, count: number): Float32Array {
  const [first, last] = [start[axis], f32(stop[axis] * (count - 1) / count)];
  const step = count === 1 ? 0 : f32((last - first) / (count - 1));
  return Float32Array.from(
    { length: count },
    (_, i) => i < count / 2 ? first + step * i : last - step * (count - 1 - i),
  );
}

/** As Python rounds: halves to the even neighbour. */
function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

function requireMultiple(what: string, name: string, value: number, divisor: number): void {
  if (Number.isInteger(value) && value > 0 && value % divisor === 0) return;
  throw new RangeError(
    `Cannot embed ${what} as '${name}' must be a positive multiple of ${divisor}: current ${name} is ${value}`,
  );
}

function requireSize(name: string, value: number): number {
  if (Number.isInteger(value) && value > 0) return value;
  throw new RangeError(
    `Cannot embed positions as '${name}' must be a positive whole number: current ${name} is ${value}`,
  );
}
