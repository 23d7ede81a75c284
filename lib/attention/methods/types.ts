/** What an attention method of a sampling run is, and what it remembers. */
import type * as tf from "@tensorflow/tfjs";

/** The run that a state serves. Guided runs: `batch` counts both halves, concatenated; each row has statistics of its own. */
export interface MethodContext {
  /** Names the model, so that a state is restored for no other. Default "". */
  readonly model?: string;
  /** Attention layers that share the state. Default 1. */
  readonly layers?: number;
  readonly batch: number;
  readonly heads: number;
  readonly tokens: number;
  readonly dim: number;
  /** Denoising steps. */
  readonly steps: number;
}

/** Tensors that a layer remembers, by name. */
export type Held = Readonly<Record<string, tf.Tensor>>;

/**
 * All that a method remembers between two calls, of all layers of a model. A state owns its tensors. Each step takes them over into the
 * state that it gives back: the old one is `spent`. What is left in the end goes with `disposeState`.
 */
export interface MethodState {
  /** The label of the method that began it. */
  readonly method: string;
  readonly context: Required<MethodContext>;
  /** The denoising step that layers are at. */
  readonly step: number;
  /** The layers that have made that step, [layers]. */
  readonly done: readonly boolean[];
  /** [layers] */
  readonly layers: readonly Held[];
  /** Whether a later state has its tensors. */
  readonly spent: boolean;
}

/** Which call this is: both count from 0. */
export interface Place {
  readonly layer: number;
  readonly step: number;
}

/** What a call gives back. */
export interface Stepped {
  /** Attention per head, before the output projection, [batch, heads, tokens, dim]; the caller's own. */
  readonly output: tf.Tensor4D;
  readonly state: MethodState;
}

/** What a call makes of its inputs. */
export interface Calls {
  /** Attention over all keys, times. */
  readonly dense: number;
  /** Attention over the keys of the mask, times. */
  readonly sparse: number;
  /** Part of the batch that these are made for. */
  readonly share: number;
}

/**
 * Which rows of q, k and v a call needs: `conditional` is the conditional half of a guided batch. A model may give whole tensors all the
 * same; else it saves their projections.
 */
export type Reads = "all" | "conditional" | "nothing";

/**
 * Self-attention over a sampling run: one call per layer and denoising step, in any order of layers, no layer more than one step ahead.
 * A method itself remembers nothing: samplings with states of their own can take turns.
 *
 * ```ts
 * import * as tf from "@tensorflow/tfjs";
 * import { fullAttention, type Method } from "@normlab/normlab/attention";
 * import { useBackend } from "@normlab/normlab/tensor";
 *
 * await useBackend("wasm");
 * const method: Method = fullAttention();
 * let state = method.begin({ layers: 1, batch: 2, heads: 4, tokens: 64, dim: 8, steps: 20 });
 * const q = tf.zeros<tf.Rank.R4>([2, 4, 64, 8]);
 * // in layer 0, at the first denoising step
 * const stepped = await method.step(state, { layer: 0, step: 0 }, q, q, q);
 * state = stepped.state;
 * ```
 */
export interface Method {
  /** "rettention" */
  readonly name: string;
  /** The name with all settings. Methods with equal labels can go on with each other's states. */
  readonly label: string;
  /**
   * The state before the first step. Holds no tensors yet.
   * @throws {RangeError} on sizes that are no whole numbers, or a schedule or mask of another size
   */
  begin(context: MethodContext): MethodState;
  /**
   * Attention of `layer` at denoising step `step`. q, k, v [batch, heads, tokens, dim] stay the caller's; null where {@linkcode
   * Method.reads} says `nothing`, of half the batch where it says `conditional`.
   * @throws {TypeError} on tensors of other shapes than the state is for, or a state of another method
   * @throws {RangeError} on a step out of order, or a state that is spent
   */
  step(
    state: MethodState,
    place: Place,
    q: tf.Tensor4D | null,
    k: tf.Tensor4D | null,
    v: tf.Tensor4D | null,
  ): Stepped | Promise<Stepped>;
  reads(place: Place): Reads;
  calls(place: Place): Calls;
  /** The shapes of the tensors that `layer` remembers when it has made `done` steps. */
  holds(context: MethodContext, layer: number, done: number): Readonly<Record<string, readonly number[]>>;
}

/** A method that needs to read nothing back from the device, and so can be called within a `tf.tidy`. */
export interface DirectMethod extends Method {
  step(
    state: MethodState,
    place: Place,
    q: tf.Tensor4D | null,
    k: tf.Tensor4D | null,
    v: tf.Tensor4D | null,
  ): Stepped;
}
