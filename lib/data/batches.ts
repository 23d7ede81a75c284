/** Batches of normalised float images: shuffled and augmented for training, in order for evaluation. */

import type { ChannelMoments, DrawStream, ImageSplit } from "./images.ts";

/** A batch ready to become a tensor. It owns its arrays: a tensor library may keep them without copying. */
export interface Batch {
  /** Normalised pixels, (pixel / 255 - mean) / std per channel, [size, height, width, channels]. */
  readonly images: Float32Array<ArrayBuffer>;
  /** Class indices, [size]. */
  readonly labels: Int32Array<ArrayBuffer>;
  readonly size: number;
  readonly height: number;
  readonly width: number;
  readonly channels: number;
  /** The pass over the data that the batch belongs to, from 0. */
  readonly epoch: number;
}

/** Random changes to a training image. */
export interface Augmentation {
  /** Black pixels added on every side before cropping; default 0. */
  readonly pad?: number;
  /** Side of the square cut out at a random place; default the whole image. */
  readonly crop?: number;
  /** Mirror left to right half of the time; default no. */
  readonly flip?: boolean;
}

/** CIFAR's usual augmentation: pad by 4, crop 32x32 anywhere, mirror (He et al. 2016, section 4.2). */
export const standardAugmentation: Augmentation = { pad: 4, crop: 32, flip: true };

/** The proxy task's augmentation: 24x24 crops of the 32x32 image, mirror (EvoNorm's search). */
export const proxyAugmentation: Augmentation = { crop: 24, flip: true };

/** How to draw training batches. */
export interface BatchOptions extends ChannelMoments {
  /** Images per batch. */
  readonly size: number;
  /** Everything random comes from it; the draws of an epoch depend only on the stream and the epoch's number. */
  readonly stream: DrawStream;
  /** Default none: whole images as they are. */
  readonly augment?: Augmentation;
  /** Stop after this many passes; default never. */
  readonly epochs?: number;
  /** Stop after this many batches, whichever comes first; default never. */
  readonly steps?: number;
  /** Leave out the last batch of an epoch if it is not full; default true, so that all have one shape. */
  readonly dropRemainder?: boolean;
}

/**
 * Training batches, endless unless `epochs` or `steps` says otherwise: each epoch is a new random order of the split,
 * each image cropped and mirrored by its own draws. The same split, options and stream give the same bytes.
 *
 * ```ts
 * import { batches, channelMoments, loadImages, standardAugmentation } from "@normlab/normlab/data";
 * import { stream } from "@normlab/normlab/tensor";
 *
 * const { train } = await loadImages("cifar10-mini");
 * const options = { size: 128, stream: stream(0).child("batches"), augment: standardAugmentation, steps: 2 };
 * for (const { images, labels } of batches(train, { ...options, ...channelMoments(train) })) {
 *   // images: Float32Array [128, 32, 32, 3]; labels: Int32Array [128]
 *   console.log(images.length, labels.length);
 * }
 * ```
 *
 * @throws {RangeError} if size, crop, pad, epochs or steps cannot be met, or mean and std do not fit the channels
 */
export function batches(split: ImageSplit, options: BatchOptions): Generator<Batch, void, void> {
  // Checked here, not in the generator, whose body runs only at the first next().
  const { pad = 0, crop, flip = false } = options.augment ?? {};
  const window = cropWindow(split, pad, crop);
  const table = normalisationTable(split, options);
  requireCount("batch size", options.size, 1, split.count);
  if (options.epochs !== undefined) requireCount("number of epochs", options.epochs, 0);
  if (options.steps !== undefined) requireCount("number of steps", options.steps, 0);
  return draw(split, options, { pad, flip, window, table });
}

/**
 * Batches in the split's own order, each image once, the last one as small as need be; `crop` takes the central square.
 *
 * @throws {RangeError} if size or crop cannot be met, or mean and std do not fit the channels
 */
export function evaluationBatches(
  split: ImageSplit,
  size: number,
  options: ChannelMoments & { crop?: number },
): Generator<Batch, void, void> {
  const window = cropWindow(split, 0, options.crop);
  const table = normalisationTable(split, options);
  requireCount("batch size", size, 1);
  return inOrder(split, size, window, table);
}

/** The square (or whole image) that is cut out, and how far it can move inside the padded image. */
interface Window {
  readonly height: number;
  readonly width: number;
  readonly freedomY: number;
  readonly freedomX: number;
}

function cropWindow(split: ImageSplit, pad: number, crop: number | undefined): Window {
  requireCount("padding", pad, 0);
  if (crop !== undefined) requireCount("crop", crop, 1, Math.min(split.height, split.width) + 2 * pad);
  const height = crop ?? split.height;
  const width = crop ?? split.width;
  return {
    height,
    width,
    freedomY: split.height + 2 * pad - height,
    freedomX: split.width + 2 * pad - width,
  };
}

/** Normalised value of every byte in every channel, [channels, 256]. */
function normalisationTable(split: ImageSplit, { mean, std }: ChannelMoments): Float32Array {
  const { channels } = split;
  const fits = (values: readonly number[]) => values.length === channels && values.every(Number.isFinite);
  if (!fits(mean) || !fits(std) || !std.every((value) => value > 0)) {
    throw new RangeError(
      `Cannot make batches as mean and std must be ${channels} finite numbers each, std above 0: ` +
        `current mean is [${mean}], std is [${std}]`,
    );
  }
  return Float32Array.from(
    { length: channels * 256 },
    (_, i) => ((i & 255) / 255 - mean[i >> 8]!) / std[i >> 8]!,
  );
}

function requireCount(what: string, value: number, least: number, most = Infinity): void {
  if (Number.isInteger(value) && value >= least && value <= most) return;
  const range = most === Infinity ? `an integer of at least ${least}` : `an integer from ${least} to ${most}`;
  throw new RangeError(`Cannot make batches as the ${what} must be ${range}: current ${what} is ${value}`);
}

interface Drawing {
  readonly pad: number;
  readonly flip: boolean;
  readonly window: Window;
  readonly table: Float32Array;
}

function* draw(split: ImageSplit, options: BatchOptions, drawing: Drawing): Generator<Batch, void, void> {
  const { size, stream, epochs = Infinity, steps = Infinity, dropRemainder = true } = options;
  const { pad, flip, window, table } = drawing;
  const imageSize = window.height * window.width * split.channels;
  let step = 0;
  for (let epoch = 0; epoch < epochs && step < steps; epoch++) {
    const draws = stream.child("epoch").child(epoch);
    const order = draws.child("order").permutation(split.count);
    const top = draws.child("top").integers(split.count, window.freedomY + 1);
    const left = draws.child("left").integers(split.count, window.freedomX + 1);
    const mirror = draws.child("mirror").integers(split.count, 2);
    const end = dropRemainder ? split.count - (split.count % size) : split.count;
    for (let start = 0; start < end && step < steps; start += size, step++) {
      const batch = emptyBatch(split, Math.min(size, end - start), window, epoch);
      for (let i = 0; i < batch.size; i++) {
        const nth = start + i;
        const index = order[nth]!;
        const x = left[nth]! - pad;
        copyImage(split, index, top[nth]! - pad, x, flip && mirror[nth] === 1, table, batch, i * imageSize);
        batch.labels[i] = split.labels[index]!;
      }
      yield batch;
    }
  }
}

function* inOrder(split: ImageSplit, size: number, window: Window, table: Float32Array): Generator<Batch> {
  const imageSize = window.height * window.width * split.channels;
  const y = window.freedomY >> 1;
  const x = window.freedomX >> 1;
  for (let start = 0; start < split.count; start += size) {
    const batch = emptyBatch(split, Math.min(size, split.count - start), window, 0);
    for (let i = 0; i < batch.size; i++) {
      copyImage(split, start + i, y, x, false, table, batch, i * imageSize);
      batch.labels[i] = split.labels[start + i]!;
    }
    yield batch;
  }
}

function emptyBatch(split: ImageSplit, size: number, window: Window, epoch: number): Batch {
  const { height, width } = window;
  const images = new Float32Array(size * height * width * split.channels);
  const labels = new Int32Array(size);
  return { images, labels, size, height, width, channels: split.channels, epoch };
}

/**
 * Writes the window at (y, x) of one image, mirrored or not, normalised. Outside of the image is black (byte 0, as
 * torchvision's RandomCrop pads before normalising), not the mean.
 */
function copyImage(
  split: ImageSplit,
  index: number,
  y: number,
  x: number,
  mirrored: boolean,
  table: Float32Array,
  batch: Batch,
  offset: number,
): void {
  const { images, height, width, channels } = split;
  const out = batch.images;
  const rowSize = batch.width * channels;
  const step = mirrored ? -channels : channels;
  let to = offset;
  for (let row = 0; row < batch.height; row++, to += rowSize) {
    const inside = y + row >= 0 && y + row < height;
    // Columns [first, last) of the window lie inside of the image.
    const first = inside ? Math.max(0, -x) : batch.width;
    const last = inside ? Math.min(batch.width, width - x) : batch.width;
    for (let c = 0; c < channels; c++) {
      const base = c << 8;
      const black = table[base]!;
      let at = to + c + (mirrored ? rowSize - channels : 0);
      let from = ((index * height + y + row) * width + x + first) * channels + c;
      let column = 0;
      for (; column < first; column++, at += step) out[at] = black;
      for (; column < last; column++, at += step, from += channels) out[at] = table[base + images[from]!]!;
      for (; column < batch.width; column++, at += step) out[at] = black;
    }
  }
}
