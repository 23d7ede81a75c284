/**
 * Diffusion transformers that run the checkpoints of diffusers: PixArt, Hunyuan-DiT, CogVideoX and DiT, and the autoencoder that turns their
 * latents into pictures.
 *
 * {@linkcode loadTransformer} makes a model of a folder. Its self-attention is an argument of each pass, which {@linkcode methodAttention}
 * makes of a method of the room `attention` and its state.
 */
export {
  type Autoencoder,
  autoencoder,
  type AutoencoderConfig,
  autoencoderConfig,
  autoencoderParameters,
  loadAutoencoder,
} from "./autoencoder.ts";
export {
  type Checkpoint,
  CheckpointError,
  type LoadOptions,
  loadWeights,
  openCheckpoint,
  residentWeights,
  streamWeights,
} from "./checkpoint.ts";
export {
  cogvideox,
  type CogVideoXConfig,
  cogvideoxConfig,
  type CogVideoXInputs,
  cogvideoxParameters,
} from "./cogvideox.ts";
export type { RawConfig } from "./config.ts";
export { dit, type DiTConfig, ditConfig, type DiTInputs, ditParameters } from "./dit.ts";
export * from "./embeddings.ts";
export {
  hunyuan,
  type HunyuanConfig,
  hunyuanConfig,
  type HunyuanInputs,
  hunyuanParameters,
} from "./hunyuan.ts";
export { type LoadedTransformer, loadTransformer, type LoadTransformerOptions } from "./load.ts";
export {
  type AsyncMethodAttention,
  asyncMethodAttention,
  type MethodAttention,
  methodAttention,
} from "./method_attention.ts";
export { pixart, type PixArtConfig, pixartConfig, type PixArtInputs, pixartParameters } from "./pixart.ts";
export type {
  AsyncSelfAttention,
  DiffusionTransformer,
  ForwardOptions,
  ParameterSpec,
  ParameterSpecs,
  Rows,
  SelfAttention,
  Visitor,
  Weights,
  WeightSource,
} from "./types.ts";
