/** How near a picture is to another: error, PSNR and SSIM, the last by two definitions that differ. Sums are in double. */

/** A picture as numbers, channel by channel in raster order. */
export interface Picture {
  readonly data: Float32Array;
  /** [channels, height, width] */
  readonly shape: readonly [channels: number, height: number, width: number];
}

/** mean((a - b)^2) over all elements. @throws {TypeError} on different sizes */
export function meanSquaredError(a: Float32Array, b: Float32Array): number {
  return sumOver(a, b, (x, y) => (x - y) ** 2) / a.length;
}

/**
 * Peak signal-to-noise ratio in decibels, 10 log10(range^2 / mse), over all elements; Infinity for equal ones.
 * @throws {TypeError} on different sizes
 */
export function psnr(a: Float32Array, b: Float32Array, range = 1): number {
  return psnrOf(meanSquaredError(a, b), range);
}

/** sum |a - b| / sum |a|, `a` being the reference. @throws {TypeError} on different sizes */
export function relativeL1(a: Float32Array, b: Float32Array): number {
  return sumOver(a, b, (x, y) => Math.abs(x - y)) / sumOver(a, a, Math.abs);
}

/** a . b / (|a| |b|). @throws {TypeError} on different sizes */
export function cosineSimilarity(a: Float32Array, b: Float32Array): number {
  const product = (x: number, y: number) => x * y;
  return sumOver(a, b, product) / Math.sqrt(sumOver(a, a, product) * sumOver(b, b, product));
}

/** Half the window: 11 x 11 elements. */
const RADIUS = 5;
const SIGMA = 1.5;
const [K1, K2] = [0.01, 0.03];

/**
 * Structural similarity, mean over channels: Gaussian windows (sigma 1.5, 11 x 11), population covariance, K1 0.01, K2 0.03, mean over the
 * positions whose WINDOW LIES INSIDE the picture. That is scikit-image with `gaussian_weights=True, use_sample_covariance=False, win_size=11`.
 *
 * Source: Wang et al., IEEE TIP 13(4), 2004.
 * @throws {TypeError} on different shapes
 * @throws {RangeError} on a picture of less than 11 rows or columns
 */
export function ssimGaussianValid(a: Picture, b: Picture, range = 1): number {
  const [, height, width] = checkPictures(a, b, 2 * RADIUS + 1);
  return meanOverChannels(a, b, (x, y) => meanSsim(x, y, height, width, range));
}

/**
 * Structural similarity as {@linkcode ssimGaussianValid}, but of the picture REFLECTED at its edges, mean over ALL positions. That is
 * torchmetrics 1.9 with its defaults; on small pictures the two differ by up to 0.1.
 *
 * @throws {TypeError} on different shapes
 * @throws {RangeError} on a picture of less than 6 rows or columns
 */
export function ssimGaussianReflect(a: Picture, b: Picture, range = 1): number {
  const [, height, width] = checkPictures(a, b, RADIUS + 1);
  const padded = (channel: Float32Array) => reflected(channel, height, width);
  return meanOverChannels(
    a,
    b,
    (x, y) => meanSsim(padded(x), padded(y), height + 2 * RADIUS, width + 2 * RADIUS, range),
  );
}

/** A video as numbers, frame by frame. */
export interface Video {
  readonly data: Float32Array;
  /** [frames, channels, height, width] */
  readonly shape: readonly [frames: number, channels: number, height: number, width: number];
}

/** PSNR of a video: the mean of its frames, or of all frames' error at once. They differ where some frames are worse than others. */
export interface VideoPsnr {
  /** [frames] */
  readonly perFrame: readonly number[];
  readonly frameMean: number;
  readonly global: number;
}

/** {@linkcode psnr} frame by frame, and of the whole. @throws {TypeError} on different shapes */
export function videoPsnr(a: Video, b: Video, range = 1): VideoPsnr {
  const perFrame = framePairs(a, b).map(([x, y]) => psnr(x.data, y.data, range));
  return { perFrame, frameMean: mean(perFrame), global: psnr(a.data, b.data, range) };
}

/**
 * SSIM of each frame, [frames], by `ssim`: {@linkcode ssimGaussianValid} or {@linkcode ssimGaussianReflect}.
 * @throws {TypeError} on different shapes
 */
export function videoSsim(
  a: Video,
  b: Video,
  ssim: (a: Picture, b: Picture, range?: number) => number,
  range = 1,
): { readonly perFrame: readonly number[]; readonly frameMean: number } {
  const perFrame = framePairs(a, b).map(([x, y]) => ssim(x, y, range));
  return { perFrame, frameMean: mean(perFrame) };
}

/**
 * How alike the frames of a video are: the mean over the frames from the second of (cos(f, first) + cos(f, frame before)) / 2, of whatever
 * numbers describe a frame. 1: all alike. With image features that is VBench's subject consistency (Huang et al., arXiv 2311.17982);
 * with pixels it is ours, and says less.
 * @throws {RangeError} on fewer than two frames
 * @throws {TypeError} on frames of different sizes
 */
export function frameConsistency(frames: readonly Float32Array[]): number {
  if (frames.length < 2) {
    throw new RangeError(
      `Cannot compare frames as 'frames' must be two or more: current number is ${frames.length}`,
    );
  }
  const similar = frames.slice(1).map((frame, i) =>
    (cosineSimilarity(frame, frames[0]!) + cosineSimilarity(frame, frames[i]!)) / 2
  );
  return mean(similar);
}

/** The frames of a video, views into its numbers. */
export function framesOf({ data, shape: [frames, channels, height, width] }: Video): Picture[] {
  const size = channels * height * width;
  return Array.from({ length: frames }, (_, i) => ({
    data: data.subarray(i * size, (i + 1) * size),
    shape: [channels, height, width],
  }));
}

function framePairs(a: Video, b: Video): [Picture, Picture][] {
  if (a.shape.join() !== b.shape.join()) throw unequal(a.shape, b.shape);
  const other = framesOf(b);
  return framesOf(a).map((frame, i) => [frame, other[i]!]);
}

function psnrOf(error: number, range: number): number {
  return 10 * Math.log10(range * range / error);
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function sumOver(a: Float32Array, b: Float32Array, term: (x: number, y: number) => number): number {
  if (a.length !== b.length) throw unequal([a.length], [b.length]);
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += term(a[i]!, b[i]!);
  return sum;
}

function meanOverChannels(
  { data, shape: [channels, height, width] }: Picture,
  b: Picture,
  measure: (x: Float32Array, y: Float32Array) => number,
): number {
  const area = height * width;
  const channel = (data: Float32Array, i: number) => data.subarray(i * area, (i + 1) * area);
  return mean(Array.from({ length: channels }, (_, i) => measure(channel(data, i), channel(b.data, i))));
}

/** Mean of the SSIM map of one channel, over the positions whose window lies inside. */
function meanSsim(a: Float32Array, b: Float32Array, height: number, width: number, range: number): number {
  const filtered = (term: (i: number) => number) => blurred(term, height, width);
  const meanA = filtered((i) => a[i]!);
  const meanB = filtered((i) => b[i]!);
  const squareA = filtered((i) => a[i]! * a[i]!);
  const squareB = filtered((i) => b[i]! * b[i]!);
  const product = filtered((i) => a[i]! * b[i]!);
  const [c1, c2] = [(K1 * range) ** 2, (K2 * range) ** 2];
  let sum = 0;
  for (let i = 0; i < meanA.length; i++) {
    const [x, y] = [meanA[i]!, meanB[i]!];
    const variances = squareA[i]! - x * x + (squareB[i]! - y * y);
    const covariance = product[i]! - x * y;
    sum += (2 * x * y + c1) * (2 * covariance + c2) / ((x * x + y * y + c1) * (variances + c2));
  }
  return sum / meanA.length;
}

/** The weights of the window in one direction, [11], of sum 1. */
const weights = (() => {
  const raw = Float64Array.from(
    { length: 2 * RADIUS + 1 },
    (_, i) => Math.exp(-((i - RADIUS) ** 2) / (2 * SIGMA * SIGMA)),
  );
  const total = raw.reduce((sum, weight) => sum + weight, 0);
  return raw.map((weight) => weight / total);
})();

/** Weighted means of `term` over all windows inside, [height - 10, width - 10]: along rows, then along columns. */
function blurred(term: (i: number) => number, height: number, width: number): Float64Array {
  const inner = width - 2 * RADIUS;
  const rows = new Float64Array(height * inner);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < inner; x++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) sum += weights[k]! * term(y * width + x + k);
      rows[y * inner + x] = sum;
    }
  }
  const result = new Float64Array((height - 2 * RADIUS) * inner);
  for (let i = 0; i < result.length; i++) {
    let sum = 0;
    for (let k = 0; k < weights.length; k++) sum += weights[k]! * rows[i + k * inner]!;
    result[i] = sum;
  }
  return result;
}

/** A channel with 5 elements more on each side, mirrored at the edge elements, which are not repeated. */
function reflected(channel: Float32Array, height: number, width: number): Float32Array {
  const mirror = (i: number, size: number) => (i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i);
  const [rows, columns] = [height + 2 * RADIUS, width + 2 * RADIUS];
  const padded = new Float32Array(rows * columns);
  for (let y = 0; y < rows; y++) {
    const row = mirror(y - RADIUS, height) * width;
    for (let x = 0; x < columns; x++) padded[y * columns + x] = channel[row + mirror(x - RADIUS, width)]!;
  }
  return padded;
}

function checkPictures(a: Picture, b: Picture, least: number): Picture["shape"] {
  if (a.shape.join() !== b.shape.join()) throw unequal(a.shape, b.shape);
  const [channels, height, width] = a.shape;
  for (const { data } of [a, b]) {
    if (data.length !== channels * height * width) throw unequal(a.shape, [data.length]);
  }
  if (height < least || width < least) {
    throw new RangeError(
      `Cannot compare pictures as they must have ${least} rows and columns or more: current shape is [${
        a.shape.join(", ")
      }]`,
    );
  }
  return a.shape;
}

function unequal(a: readonly number[], b: readonly number[]): TypeError {
  return new TypeError(
    `Cannot compare as both sides must be of one shape: current shapes are [${a.join(", ")}] and [${
      b.join(", ")
    }]`,
  );
}
