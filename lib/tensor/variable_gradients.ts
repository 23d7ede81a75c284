/** Gradients of a loss to variables, by a reverse sweep that lets go of each tensor once nothing needs it any more. */
import * as tf from "@tensorflow/tfjs";
import { addInto } from "./_add_into.ts";

/** One recorded operation on TensorFlow.js's tape. */
interface TapeNode {
  readonly kernelName: string;
  readonly inputs: Readonly<Record<string, tf.Tensor>>;
  readonly outputs: readonly tf.Tensor[];
  /** Kept tensors of the node alone: clones, which share the data of what the operation read or wrote. */
  readonly saved: readonly tf.Tensor[];
  /** Gradients to the inputs, each computed when called. */
  readonly gradient?: (upstream: (tf.Tensor | null)[]) => Record<string, () => tf.Tensor>;
}

/** What the sweep uses of TensorFlow.js's engine beyond its interface. */
interface Engine {
  readonly state: {
    activeTape: TapeNode[] | null;
    readonly gradientDepth: number;
    readonly activeScope: { readonly id: number };
  };
  startTape(): void;
  endTape(): void;
}

/**
 * A loss and its gradients by the variables' TensorFlow.js names, without those that the loss does not depend on. An alias, since
 * tf.tidy takes no interface for a container of tensors.
 */
export type VariableGradients = { value: tf.Scalar; grads: tf.NamedTensorMap };

/**
 * The value of `f` and its gradients to the given trainable variables, as `tf.variableGrads` computes them, in less memory.
 *
 * TensorFlow.js keeps every tensor that an operation saved for its gradient, and every gradient in between, until all of them are
 * computed. Here each goes as soon as the sweep has passed the operation, and gradients that meet are summed in place
 * where nothing else sees their data. What `f` makes and does not save lives until `f` ends: `tf.tidy` inside of `f` shortens that.
 *
 * Inside of another gradient, where the sweep itself must be recorded, this is `tf.variableGrads`. With `mayBeConstant` a loss that
 * depends on none of the variables has no gradients, elsewhere than there; else it is an error.
 *
 * @example
 * ```ts
 * import * as tf from "@tensorflow/tfjs";
 * import { useBackend, variableGradients } from "@normlab/normlab/tensor";
 * await useBackend("wasm");
 * const w = tf.variable(tf.tensor1d([1, 2]));
 * const { value, grads } = variableGradients(() => tf.sum(tf.square(w)), [w]);
 * console.log(value.dataSync()[0], grads[w.name]!.dataSync()); // 5, [2, 4]
 * ```
 * @throws {Error} if the loss is no scalar or depends on none of the variables, or an operation has no gradient
 */
export function variableGradients(
  f: () => tf.Scalar,
  variables: tf.Variable[],
  { mayBeConstant = false }: { mayBeConstant?: boolean } = {},
): VariableGradients {
  const engine = tf.engine() as unknown as Engine;
  if (engine.state.gradientDepth > 0) return tf.variableGrads(f, variables);
  const trained = variables.filter(({ trainable }) => trainable);
  return tf.tidy(() => {
    let nodes: readonly TapeNode[] = [];
    try {
      const value = record(engine, f);
      nodes = engine.state.activeTape!;
      if (value.rank !== 0) {
        throw new Error(`Cannot take gradients as 'f' must give a scalar: current shape is [${value.shape}]`);
      }
      const grads = sweep(engine, nodes, trained, value);
      if (!mayBeConstant && Object.keys(grads).length === 0) {
        throw new Error(
          `Cannot take gradients as the value of 'f' must depend on a trainable variable: it depends on none of the ` +
            `${variables.length} given`,
        );
      }
      return { value, grads };
    } finally {
      // What a failed sweep or forward pass has left.
      for (const { saved } of engine.state.activeTape ?? nodes) tf.dispose([...saved]);
      engine.state.activeTape = null;
    }
  });
}

function record(engine: Engine, f: () => tf.Scalar): tf.Scalar {
  engine.startTape();
  try {
    return tf.tidy(f);
  } finally {
    engine.endTape();
  }
}

/** The gradients by the variables' names. */
function sweep(
  engine: Engine,
  nodes: readonly TapeNode[],
  variables: readonly tf.Variable[],
  value: tf.Scalar,
): tf.NamedTensorMap {
  const { needed, dependent } = between(nodes, variables, value);
  for (const node of nodes) if (!needed.has(node)) tf.dispose([...node.saved]);
  const gradients = new Map<number, tf.Tensor>([[value.id, tf.onesLike(value)]]);
  for (const node of nodes.toReversed()) {
    if (!needed.has(node)) continue;
    const upstream = node.outputs.map(({ id }) => gradients.get(id) ?? null);
    const found = tf.tidy(() => inputGradients(engine, node, upstream, dependent));
    // Every operation that reads an output comes later on the tape: no more is added to these gradients.
    for (const { id } of node.outputs) gradients.delete(id);
    tf.dispose([...upstream.filter((gradient) => gradient !== null), ...node.saved]);
    for (const [name, gradient] of found) {
      const { id } = node.inputs[name]!;
      const sum = gradients.get(id);
      gradients.set(id, sum === undefined ? gradient : addInto(sum, gradient));
    }
  }
  return Object.fromEntries(variables.flatMap((variable) => {
    const gradient = gradients.get(variable.id);
    return gradient === undefined ? [] : [[variable.name, gradient]];
  }));
}

/** The nodes on a path from a variable to the value, and the tensors that depend on a variable. */
function between(
  nodes: readonly TapeNode[],
  variables: readonly tf.Variable[],
  value: tf.Tensor,
): { needed: ReadonlySet<TapeNode>; dependent: ReadonlySet<number> } {
  const dependent = new Set(variables.map(({ id }) => id));
  const candidates = nodes.filter(({ inputs, outputs }) => {
    const depends = Object.values(inputs).some(({ id }) => dependent.has(id));
    if (depends) { for (const { id } of outputs) dependent.add(id); }
    return depends;
  });
  const leading = new Set([value.id]);
  const needed = new Set(
    candidates.reverse().filter(({ inputs, outputs }) => {
      const leads = outputs.some(({ id }) => leading.has(id));
      if (leads) { for (const { id } of Object.values(inputs)) leading.add(id); }
      return leads;
    }),
  );
  return { needed, dependent };
}

/** The gradients of a node to those of its inputs that depend on a variable, each a tensor of its own. */
function inputGradients(
  engine: Engine,
  { kernelName, inputs, gradient, saved }: TapeNode,
  upstream: (tf.Tensor | null)[],
  dependent: ReadonlySet<number>,
): [string, tf.Tensor][] {
  if (gradient === undefined) {
    throw new Error(`Cannot take gradients as ${kernelName} must have a gradient: none is registered`);
  }
  const scope = engine.state.activeScope.id;
  const taken = new Set<tf.Tensor | null>([...upstream, ...saved]);
  const thunks = gradient(upstream);
  return Object.entries(inputs).filter(([, { id }]) => dependent.has(id)).map(([name, input]) => {
    const thunk = thunks[name];
    if (thunk === undefined) {
      throw new Error(
        `Cannot take gradients as ${kernelName} must have one to its input ${name}: it has none`,
      );
    }
    const computed = tf.tidy(thunk);
    if (computed.dtype !== "float32" || !tf.util.arraysEqual(computed.shape, input.shape)) {
      throw new Error(
        `Cannot take gradients as that of ${kernelName} to its input ${name} must be float32 [${input.shape}]: it is ` +
          `${computed.dtype} [${computed.shape}]`,
      );
    }
    // Disposed when the sweep is done with it, so it may be no tensor that is someone else's.
    const owned = !computed.kept && (computed as unknown as { scopeId: number }).scopeId === scope;
    const own = owned && !taken.has(computed) ? computed : computed.clone();
    taken.add(own);
    return [name, own];
  });
}
