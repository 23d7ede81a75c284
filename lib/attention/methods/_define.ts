/** What all methods have in common: the checks, and who owns which tensor. */
import * as tf from "@tensorflow/tfjs";
import type { Mask } from "../types.ts";
import type {
  Calls,
  DirectMethod,
  Held,
  Method,
  MethodContext,
  MethodState,
  Place,
  Reads,
  Stepped,
} from "./types.ts";

/** q, k and v of one call. */
export interface Inputs {
  readonly q: tf.Tensor4D;
  readonly k: tf.Tensor4D;
  readonly v: tf.Tensor4D;
}

/** A method, less what all have in common. */
export interface Definition {
  readonly name: string;
  readonly label: string;
  /** Masks that must fit the tokens and heads of a run. */
  readonly masks?: readonly Mask[];
  /** Sizes that a run must have. */
  readonly sizes?: { readonly steps?: number; readonly layers?: number; readonly heads?: number };
  /** Whether the batch must have two halves. */
  readonly halves?: boolean;
  reads?(place: Place): Reads;
  calls(place: Place): Calls;
  holds?(context: Required<MethodContext>, layer: number, done: number): Record<string, readonly number[]>;
  /**
   * The output of a call and what to hold from then on; `held` is what the layer holds. Tensors of `held` may be given back or left out,
   * and are not to be disposed of. Inputs are null where `reads` says `nothing`. Runs in a `tf.tidy`.
   */
  compute(
    held: Held,
    place: Place,
    inputs: Inputs | null,
    context: Required<MethodContext>,
  ): { output: tf.Tensor4D; held: Held };
}

/** Makes a method of what is its own. */
export function defineMethod(definition: Definition): DirectMethod {
  return {
    ...frame(definition),
    step(state, place, q, k, v) {
      const inputs = check(definition, state, place, q, k, v);
      return commit(
        state,
        place.layer,
        () => definition.compute(state.layers[place.layer]!, place, inputs, state.context),
      );
    },
  };
}

/** Makes a method that prepares each call by reading tensors back; `prepare` owns nothing, `compute` gets what it gives. */
export function defineAsyncMethod<Prepared>(
  definition: Omit<Definition, "compute"> & {
    prepare(place: Place, inputs: Inputs | null): Promise<Prepared> | Prepared;
    compute(prepared: Prepared, place: Place, inputs: Inputs | null): tf.Tensor4D;
  },
): Method {
  return {
    ...frame(definition),
    async step(state, place, q, k, v) {
      const inputs = check(definition, state, place, q, k, v);
      const prepared = await definition.prepare(place, inputs);
      // Another call may have come in between.
      checkPlace(definition.label, state, place);
      return commit(
        state,
        place.layer,
        () => ({ output: definition.compute(prepared, place, inputs), held: {} }),
      );
    },
  };
}

type Frame = Omit<Definition, "compute">;

function frame(definition: Frame): Omit<Method, "step"> {
  const { name, label, calls, reads = () => "all", holds = () => ({}) } = definition;
  return {
    name,
    label,
    reads,
    calls,
    holds: (context, layer, done) => holds(checkContext(definition, context), layer, done),
    begin(context) {
      const checked = checkContext(definition, context);
      return {
        method: label,
        context: checked,
        step: 0,
        done: Array.from({ length: checked.layers }, () => false),
        layers: Array.from({ length: checked.layers }, () => ({})),
        spent: false,
      };
    },
  };
}

function check(
  { label, reads = () => "all" }: Frame,
  state: MethodState,
  place: Place,
  q: tf.Tensor4D | null,
  k: tf.Tensor4D | null,
  v: tf.Tensor4D | null,
): Inputs | null {
  checkPlace(label, state, place);
  return checkInputs(state.context, reads(place), q, k, v);
}

/** Computes, and passes what is held from one state to the next. */
function commit(
  state: MethodState,
  layer: number,
  compute: () => { output: tf.Tensor4D; held: Held },
): Stepped {
  const before = state.layers[layer]!;
  const { output, held } = tf.tidy(() => {
    const { output, held } = compute();
    // An output that is or was held has two owners.
    const shared = [...Object.values(before), ...Object.values(held)].includes(output);
    return { output: shared ? output.clone() : output, held };
  });
  const kept = new Set(Object.values(held));
  for (const tensor of kept) tf.keep(tensor);
  for (const tensor of Object.values(before)) if (!kept.has(tensor)) tensor.dispose();
  return { output, state: advance(state, layer, held) };
}

/** Moves all tensors of `state` into the state that follows it. */
function advance(state: MethodState, layer: number, held: Held): MethodState {
  const layers = state.layers as Held[];
  const done = state.done as boolean[];
  layers[layer] = held;
  done[layer] = true;
  const all = done.every(Boolean);
  (state as { spent: boolean }).spent = true;
  return {
    ...state,
    spent: false,
    step: all ? state.step + 1 : state.step,
    done: all ? done.fill(false) : done,
  };
}

/** The steps that `layer` has made. */
export function stepsDone(state: MethodState, layer: number): number {
  return state.step + (state.done[layer] ? 1 : 0);
}

/**
 * @throws {TypeError} on a model that is not text
 * @throws {RangeError} on sizes that are no whole numbers, or that a mask, schedule or plan does not fit
 */
function checkContext(definition: Frame, context: MethodContext): Required<MethodContext> {
  const { model = "", layers = 1, batch, heads, tokens, dim, steps } = context;
  const sizes = { layers, batch, heads, tokens, dim, steps };
  const cannot = `Cannot begin ${definition.name} as`;
  if (typeof model !== "string") {
    throw new TypeError(`${cannot} 'model' must be text: current model is ${model}`);
  }
  for (const [key, value] of Object.entries(sizes)) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new RangeError(`${cannot} '${key}' must be a whole number above 0: current ${key} is ${value}`);
    }
  }
  for (const mask of definition.masks ?? []) {
    if (mask.queries !== tokens || mask.keys !== tokens) {
      throw new RangeError(
        `${cannot} the mask must have ${tokens} queries and keys: current mask is ${mask.label} of [${mask.queries}, ${mask.keys}]`,
      );
    }
    if (mask.heads !== null && mask.heads !== heads) {
      throw new RangeError(
        `${cannot} the mask must have ${heads} heads or serve any: current mask is ${mask.label} of ${mask.heads} heads`,
      );
    }
  }
  for (const [key, wanted] of Object.entries(definition.sizes ?? {})) {
    if (wanted !== sizes[key as keyof typeof sizes]) {
      throw new RangeError(
        `${cannot} the run must have the ${wanted} ${key} that it was made for: current ${key} are ${
          sizes[key as keyof typeof sizes]
        }`,
      );
    }
  }
  if (definition.halves && batch % 2 !== 0) {
    throw new RangeError(`${cannot} 'batch' must be even, as its halves share: current batch is ${batch}`);
  }
  return { model, ...sizes };
}

/** That `state` belongs to the method, is not used up, and that the call comes next. */
function checkPlace(label: string, state: MethodState, { layer, step }: Place): void {
  const cannot = "Cannot step as";
  if (state.method !== label) {
    throw new TypeError(
      `${cannot} 'state' must be one of ${label}: current state is of ${state.method}`,
    );
  }
  if (state.spent) {
    throw new RangeError(
      `${cannot} 'state' must be the one that the last call gave back: current state is an earlier one, or disposed of`,
    );
  }
  const { layers, steps } = state.context;
  if (!(Number.isSafeInteger(layer) && layer >= 0 && layer < layers)) {
    throw new RangeError(`${cannot} 'layer' must be one of ${layers} from 0: current layer is ${layer}`);
  }
  if (state.step >= steps) {
    throw new RangeError(`${cannot} the run must have steps left: all ${steps} are made`);
  }
  if (step !== state.step || state.done[layer]) {
    const open = state.done.flatMap((done, index) => (done ? [] : [index]));
    throw new RangeError(
      `${cannot} steps must come in order, now step ${state.step} of layer ${open.join(", ")}: ` +
        `current call is step ${step} of layer ${layer}`,
    );
  }
}

function checkInputs(
  { batch, heads, tokens, dim }: Required<MethodContext>,
  reads: Reads,
  q: tf.Tensor4D | null,
  k: tf.Tensor4D | null,
  v: tf.Tensor4D | null,
): Inputs | null {
  if (reads === "nothing") return null;
  if (reads === "conditional" && batch % 2 !== 0) {
    throw new RangeError(`Cannot step as the batch must have two halves: current batch is ${batch}`);
  }
  const batches = reads === "conditional" ? [batch, batch / 2] : [batch];
  const rows = q?.shape?.[0];
  const shape = [rows !== undefined && batches.includes(rows) ? rows : batch, heads, tokens, dim];
  for (const [name, tensor] of Object.entries({ q, k, v })) {
    const cannot = `Cannot step as '${name}' must be`;
    if (!Array.isArray(tensor?.shape)) {
      throw new TypeError(`${cannot} a tensor [batch, heads, tokens, dim]: current ${name} is ${tensor}`);
    }
    if (tensor.shape.length !== 4 || shape.some((size, axis) => size !== tensor.shape[axis])) {
      throw new TypeError(
        `${cannot} [batch, heads, tokens, dim] = [${shape.join(", ")}], which the state is for: ` +
          `current shape is [${tensor.shape.join(", ")}]`,
      );
    }
    if (tensor.dtype !== "float32") {
      throw new TypeError(`${cannot} of dtype float32: current dtype is ${tensor.dtype}`);
    }
  }
  return { q: q!, k: k!, v: v! };
}
