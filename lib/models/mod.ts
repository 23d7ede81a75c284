/**
 * The networks that the kit runs.
 *
 * Convolutional networks that take any layer graph as their normalization-activation: {@linkcode resnet}, {@linkcode mobileNet} and
 * {@linkcode efficientNet}, each for small images and for large ones; {@linkcode anchor} builds the forms that a search tries its layers in.
 *
 * Diffusion transformers that load the checkpoints of diffusers, and take any attention method: {@linkcode loadTransformer}.
 *
 * @module
 */
export {
  anchor,
  type AnchorForm,
  type AnchorName,
  type AnchorOptions,
  anchors,
  type AnchorScale,
} from "./anchors.ts";
export {
  type CropRegion,
  cropRegion,
  type EmbeddingTable,
  rotary2d,
  type Rotary2dOptions,
  rotary3d,
  type Rotary3dOptions,
  type RotaryTables,
  sinCos2d,
  type SinCos2dOptions,
  sinCos3d,
  type SinCos3dOptions,
  timestepEmbedding,
  type TimestepEmbeddingOptions,
} from "./dit/embeddings.ts";
export { efficientNet, type EfficientNetConfig } from "./efficientnet.ts";
export type { InvertedOptions } from "./_inverted.ts";
export { mobileNet, type MobileNetConfig } from "./mobilenet.ts";
export { type ImageModel, type ImageSize, type Padding, parameterCount, type StageVisitor } from "./model.ts";
export { resnet, type ResNetConfig } from "./resnet.ts";
export * from "./dit/mod.ts";
