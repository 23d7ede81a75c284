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
 * Scenes are pictures and clips that a seed makes, with captions, and a score that says whether a picture shows what its
 * caption says: {@linkcode drawScene}, {@linkcode renderScene}, {@linkcode scoreScene} and {@linkcode sceneBatches}, and
 * the same for {@linkcode drawMovingScene}. {@linkcode tokenizeCaption} and {@linkcode embedCaptions} turn captions into
 * what the small models in `data/checkpoints` read.
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
export { drawScene, renderScene, sceneColours, sceneNoise, sceneSide } from "./scenes.ts";
export type { Scene, SceneColour, SceneGradient, SceneObject, SceneShape } from "./scenes.ts";
export { findSceneObjects, parseSceneCaption, scoreScene } from "./scenes_score.ts";
export type { FoundObject, ScenePixels, SceneScore, SceneWish } from "./scenes_score.ts";
export {
  drawMovingScene,
  movingColours,
  movingFrames,
  movingSide,
  renderMovingScene,
  sceneMotions,
} from "./scenes_moving.ts";
export type { MovingColour, MovingObject, MovingScene, SceneMotion } from "./scenes_moving.ts";
export { parseMovingCaption, scoreMovingScene, trackMovingObjects } from "./scenes_moving_score.ts";
export type { MovingSceneScore, MovingWish, Sighting, Track } from "./scenes_moving_score.ts";
export {
  captionTables,
  embedCaptions,
  movingSceneVocabulary,
  readCaptionVocabulary,
  sceneVocabulary,
  tokenizeCaption,
} from "./scenes_captions.ts";
export type { CaptionTables, CaptionTokens, CaptionVocabulary, EmbeddedCaptions } from "./scenes_captions.ts";
export { movingSceneBatches, samplePixels, sceneBatches } from "./scenes_batches.ts";
export type { ChannelLayout, SceneBatch, SceneBatchOptions } from "./scenes_batches.ts";
