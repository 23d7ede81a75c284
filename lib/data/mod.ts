/**
 * Data sets as typed bytes and streams of batches.
 *
 * {@linkcode loadImages} finds a data set by name or path, reads it with suspicion (sizes, labels, checksums) and gives
 * two splits of byte images, [count, height, width, channels], with their labels. {@linkcode split} holds out a
 * class-balanced validation part; {@linkcode channelMoments} measures what to normalise by.
 *
 * {@linkcode batches} turns a split into an endless (or stated) sequence of float batches: a new order each epoch,
 * random crops and mirroring, normalised per channel; {@linkcode evaluationBatches} goes through a split once, in
 * order. All draws come from the stream that the caller passes, epoch by epoch, so the same seed gives the same bytes.
 *
 * Nothing here needs a tensor library: a batch's arrays become tensors where training happens.
 *
 * @module
 */

export { channelMoments, split, subset } from "./images.ts";
export type { ChannelMoments, DrawStream, ImageDataset, ImageSplit } from "./images.ts";
export { batches, evaluationBatches, proxyAugmentation, standardAugmentation } from "./batches.ts";
export type { Augmentation, Batch, BatchOptions } from "./batches.ts";
export { cifar10Release, imageSources, loadImages } from "./load.ts";
export type { LoadOptions, Release } from "./load.ts";
export type { Progress } from "./_download.ts";
