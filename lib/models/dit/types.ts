/** What diffusion transformers have in common, whatever they are conditioned on. */
import type * as tf from "@tensorflow/tfjs";

/**
 * Self-attention of one layer: q, k, v [batch, heads, tokens, dim] -> [batch, heads, tokens, dim], the caller's own. Tensors are null or of
 * half the batch where `reads` says so.
 */
export interface SelfAttention {
  (layer: number, q: tf.Tensor4D | null, k: tf.Tensor4D | null, v: tf.Tensor4D | null): tf.Tensor4D;
  /** Which rows of the batch `layer` needs; the others are not projected. Default: all. */
  readonly reads?: (layer: number) => Rows;
}

/** As {@linkcode SelfAttention}, where the device is read back. */
export interface AsyncSelfAttention {
  (
    layer: number,
    q: tf.Tensor4D | null,
    k: tf.Tensor4D | null,
    v: tf.Tensor4D | null,
  ): tf.Tensor4D | Promise<tf.Tensor4D>;
  readonly reads?: (layer: number) => Rows;
}

/** Rows of a batch. */
export type Rows = "all" | "first half" | "second half" | "nothing";

/** Looks at the tensors of a forward pass, which stay the model's: `pos_embed`, `block3`, `block3.attn1`, ... */
export type Visitor = (name: string, tensor: tf.Tensor) => void;

/** Settings of a forward pass. */
export interface ForwardOptions<Attention = SelfAttention> {
  /** Default: to all keys. */
  readonly attention?: Attention;
  readonly visit?: Visitor;
}

/** A parameter of a model. */
export interface ParameterSpec {
  /** As in the file. */
  readonly shape: readonly number[];
  /**
   * How it is held: `linear` [out, ...in] as [in, out], in flattened; `convolution` [out, in, height, width] as
   * [height, width, in, out]; `plain` as it is.
   */
  readonly layout: "plain" | "linear" | "convolution";
}

/** The parameters of a model by their names in diffusers. */
export type ParameterSpecs = ReadonlyMap<string, ParameterSpec>;

/** The parameters themselves, each as its spec says; variables where a model is trained. */
export type Weights = ReadonlyMap<string, tf.Tensor>;

/** Where the weights of a model come from as it runs. */
export interface WeightSource {
  /** Whether all are in memory, so that nothing has to be waited for. */
  readonly resident: boolean;
  /** Of everything outside of the blocks. */
  readonly outer: Weights;
  /** Of a block, by full names; its own until `release`. */
  block(layer: number): Weights | Promise<Weights>;
  release(layer: number, weights: Weights): void;
  dispose(): void;
}

/** A diffusion transformer that is ready to run. */
export interface DiffusionTransformer<Inputs, Config = unknown> {
  readonly config: Config;
  readonly parameters: ParameterSpecs;
  /** Blocks, each with one self-attention. */
  readonly layers: number;
  readonly heads: number;
  /** Channels of a head. */
  readonly dim: number;
  /** Tokens of self-attention, text first where it takes part. */
  tokens(inputs: Inputs): number;
  /**
   * What the model predicts of `inputs`, shaped like the sample (with `out_channels` channels); the caller's own.
   * @throws {TypeError} on inputs of other shapes
   * @throws {Error} if the weights are read from a file as it runs: {@linkcode DiffusionTransformer.forwardAsync}
   */
  forward(inputs: Inputs, options?: ForwardOptions): tf.Tensor;
  /** The same with attention, or weights, that have to be waited for. */
  forwardAsync(inputs: Inputs, options?: ForwardOptions<AsyncSelfAttention>): Promise<tf.Tensor>;
  /** Frees the weights. */
  dispose(): void;
}
