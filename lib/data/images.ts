/** Labelled images as plain bytes: the types, and what can be asked of a split without a tensor library. */

/**
 * A source of draws, split by name: what `Stream` of the tensor room offers. Only this much of it is needed here,
 * so that data can be read and batched without loading a tensor library.
 */
export interface DrawStream {
  /** An independent stream named below this one; the same name always gives the same stream. */
  child(name: string | number): DrawStream;
  /** A random order of 0 .. n-1. */
  permutation(n: number): Int32Array;
  /** n integers, each in [0, below). */
  integers(n: number, below: number): Int32Array;
}

/** Images of one size with a class index each. */
export interface ImageSplit {
  /** Pixels, 0 to 255, [count, height, width, channels]. */
  readonly images: Uint8Array;
  /** Class indices, [count]. */
  readonly labels: Uint8Array;
  readonly count: number;
  readonly height: number;
  readonly width: number;
  readonly channels: number;
}

/** A labelled image data set with the official division into train and test. */
export interface ImageDataset {
  readonly name: string;
  /** Where the pixels come from, in words, for the record. */
  readonly source: string;
  /** Class names; a label is an index into them. */
  readonly classes: readonly string[];
  readonly train: ImageSplit;
  readonly test: ImageSplit;
}

/** Mean and standard deviation of each channel, of pixels scaled to [0, 1]. */
export interface ChannelMoments {
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

/**
 * Mean and (biased) standard deviation of each channel over all images and positions, pixels scaled to [0, 1].
 * Exact: the sums are taken over integers.
 *
 * ```ts
 * import { channelMoments, loadImages } from "@normlab/normlab/data";
 *
 * const { train } = await loadImages("cifar10-mini");
 * const { mean, std } = channelMoments(train); // mean about [0.49, 0.48, 0.45]
 * ```
 */
export function channelMoments(images: ImageSplit): ChannelMoments {
  const { channels } = images;
  const histogram = new Float64Array(channels * 256);
  const pixels = images.images;
  for (let i = 0; i < pixels.length; i += channels) {
    for (let c = 0; c < channels; c++) histogram[c * 256 + pixels[i + c]!]!++;
  }
  const n = pixels.length / channels;
  const mean: number[] = [];
  const std: number[] = [];
  for (let c = 0; c < channels; c++) {
    let sum = 0;
    let squares = 0;
    for (let value = 0; value < 256; value++) {
      const times = histogram[c * 256 + value]!;
      sum += times * value;
      squares += times * value * value;
    }
    mean.push(sum / n / 255);
    std.push(Math.sqrt(squares / n - (sum / n) ** 2) / 255);
  }
  return { mean, std };
}

/**
 * The images at `indices`, in that order, copied.
 *
 * @throws {RangeError} if an index is outside the split
 */
export function subset(images: ImageSplit, indices: ArrayLike<number>): ImageSplit {
  const size = images.height * images.width * images.channels;
  const pixels = new Uint8Array(indices.length * size);
  const labels = new Uint8Array(indices.length);
  for (let i = 0; i < indices.length; i++) {
    const from = indices[i]!;
    if (!(Number.isInteger(from) && from >= 0 && from < images.count)) {
      throw new RangeError(
        `Cannot take a subset as every index must be an integer in [0, ${images.count}): current index is ${from}`,
      );
    }
    pixels.set(images.images.subarray(from * size, (from + 1) * size), i * size);
    labels[i] = images.labels[from]!;
  }
  return { ...images, images: pixels, labels, count: indices.length };
}

/**
 * Holds out `validation` images, the same number of each class (one more for some, drawn, where it does not divide),
 * the rest being for training. Which ones depends only on the labels and the stream. Both parts keep the order.
 *
 * ```ts
 * import { loadImages, split } from "@normlab/normlab/data";
 * import { stream } from "@normlab/normlab/tensor";
 *
 * const { train } = await loadImages("cifar10-mini");
 * const parts = split(train, { validation: 500, stream: stream(0).child("validation") });
 * // parts.validation.count is 500, 50 of each class; parts.train.count is 4500
 * ```
 *
 * @throws {RangeError} if `validation` is not an integer in (0, count) or a class has too few images
 */
export function split(
  images: ImageSplit,
  options: { validation: number; stream: DrawStream },
): { train: ImageSplit; validation: ImageSplit } {
  const { validation, stream } = options;
  if (!(Number.isInteger(validation) && validation > 0 && validation < images.count)) {
    throw new RangeError(
      `Cannot split off validation images as their number must be an integer between 1 and ${
        images.count - 1
      }: current number is ${validation}`,
    );
  }
  const members = indicesByClass(images.labels);
  const quota = quotas(members.size, validation, stream.child("quota"));
  const held = new Uint8Array(images.count);
  let nth = 0;
  for (const [label, indices] of members) {
    const share = quota[nth++]!;
    if (indices.length < share) {
      throw new RangeError(
        `Cannot split off ${validation} validation images as each of ${members.size} classes must give ${share}: ` +
          `current class ${label} has ${indices.length}`,
      );
    }
    const order = stream.child("class").child(label).permutation(indices.length);
    for (let i = 0; i < share; i++) held[indices[order[i]!]!] = 1;
  }
  const all = Array.from(held.keys());
  return {
    train: subset(images, all.filter((i) => held[i] === 0)),
    validation: subset(images, all.filter((i) => held[i] === 1)),
  };
}

function indicesByClass(labels: Uint8Array): Map<number, number[]> {
  const members = new Map<number, number[]>();
  for (const label of [...new Set(labels)].sort((a, b) => a - b)) members.set(label, []);
  labels.forEach((label, i) => members.get(label)!.push(i));
  return members;
}

/** `total` in `parts` near-equal shares; which parts get one more is drawn. */
function quotas(parts: number, total: number, stream: DrawStream): number[] {
  const shares = new Array<number>(parts).fill(Math.floor(total / parts));
  const order = stream.permutation(parts);
  for (let i = 0; i < total % parts; i++) shares[order[i]!]!++;
  return shares;
}
