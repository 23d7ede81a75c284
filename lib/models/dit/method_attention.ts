/** Attention methods of a sampling run as the self-attention of a model. */
import type * as tf from "@tensorflow/tfjs";
import {
  copyState,
  type DirectMethod,
  disposeState,
  type Method,
  type MethodState,
} from "../../attention/mod.ts";
import type { AsyncSelfAttention, Rows, SelfAttention } from "./types.ts";

/** A method at work in one sampling run. */
export interface MethodAttention {
  readonly method: DirectMethod;
  /** Where the run is. The next pass spends it. */
  readonly state: MethodState;
  /** Self-attention of the pass that comes next: denoising step `state.step`. */
  readonly attention: SelfAttention;
  /** A second run from here on, with a state of its own. */
  copy(method?: DirectMethod): MethodAttention;
  dispose(): void;
}

/** As {@linkcode MethodAttention}, of methods that read the device back. */
export interface AsyncMethodAttention {
  readonly method: Method;
  readonly state: MethodState;
  readonly attention: AsyncSelfAttention;
  dispose(): void;
}

/** Which half of a guided batch is the conditional one. */
export interface MethodAttentionOptions {
  /** Default `second half`: unconditional first, as in most pipelines of diffusers. */
  readonly conditional?: "first half" | "second half";
}

/**
 * Binds a method and the state of a run (`method.begin(...)`, or one read back) to a model: each pass is one denoising step.
 *
 * ```ts
 * import { band, publishedSchedule, rettention } from "@normlab/normlab/attention";
 * import { methodAttention } from "@normlab/normlab/models";
 *
 * const schedule = publishedSchedule("pixart", { steps: 20 });
 * const method = rettention({ mask: band(256, 4), schedule });
 * const state = method.begin({ layers: 6, batch: 2, heads: 4, tokens: 256, dim: 32, steps: 20 });
 * const run = methodAttention(method, state); // model.forward(inputs, { attention: run.attention })
 * console.log(run.state.step); // 0
 * ```
 */
export function methodAttention(
  method: DirectMethod,
  begun: MethodState,
  options: MethodAttentionOptions = {},
): MethodAttention {
  let state = begun;
  const attend = (layer: number, q: tf.Tensor4D | null, k: tf.Tensor4D | null, v: tf.Tensor4D | null) => {
    const stepped = method.step(state, { layer, step: state.step }, q, k, v);
    state = stepped.state;
    return stepped.output;
  };
  return {
    method,
    get state() {
      return state;
    },
    attention: Object.assign(attend, { reads: readsOf(method, () => state, options) }),
    copy: (other = method) => methodAttention(other, copyState(state), options),
    dispose: () => disposeState(state),
  };
}

/** {@linkcode methodAttention} for any method, to be used with `forwardAsync`. */
export function asyncMethodAttention(
  method: Method,
  begun: MethodState,
  options: MethodAttentionOptions = {},
): AsyncMethodAttention {
  let state = begun;
  const attend = async (
    layer: number,
    q: tf.Tensor4D | null,
    k: tf.Tensor4D | null,
    v: tf.Tensor4D | null,
  ) => {
    const stepped = await method.step(state, { layer, step: state.step }, q, k, v);
    state = stepped.state;
    return stepped.output;
  };
  return {
    method,
    get state() {
      return state;
    },
    attention: Object.assign(attend, { reads: readsOf(method, () => state, options) }),
    dispose: () => disposeState(state),
  };
}

function readsOf(
  method: Method,
  state: () => MethodState,
  { conditional = "second half" }: MethodAttentionOptions,
): (layer: number) => Rows {
  return (layer) => {
    const reads = method.reads({ layer, step: state().step });
    return reads === "conditional" ? conditional : reads;
  };
}
