/** How every diffusion transformer runs: into tokens, block after block with one self-attention each, and back. */
import * as tf from "@tensorflow/tfjs";
import { attend } from "../../attention/mod.ts";
import { linear, mergeHeads, projected, type Rotation, Scope } from "./_layers.ts";
import type {
  AsyncSelfAttention,
  DiffusionTransformer,
  ForwardOptions,
  ParameterSpecs,
  Rows,
  Visitor,
  WeightSource,
} from "./types.ts";

/** Tensors that go from block to block, by name. */
export type Carried = Readonly<Record<string, tf.Tensor>>;

/** What a block makes before its attention: what attention sees, and what the rest of the block needs. */
export interface Entered {
  /** [batch, tokens, width] */
  readonly input: tf.Tensor3D;
  readonly carried: Carried;
}

/** What is fixed for a pass: sizes, tables, kept tokens. */
export interface PassFacts {
  /** Of q and k in self-attention; null: none. */
  readonly rotation: Rotation | null;
}

/** A model, less what all have in common. All functions run in a `tf.tidy`. */
export interface Network<Inputs, Config, Facts extends PassFacts> {
  readonly config: Config;
  readonly parameters: ParameterSpecs;
  readonly layers: number;
  readonly heads: number;
  readonly dim: number;
  /** "transformer_blocks" */
  readonly blocks: string;
  readonly tokens: (inputs: Inputs) => number;
  /** Checks the inputs and makes what is fixed; its tensors live as long as the pass. */
  facts(inputs: Inputs): Facts;
  begin(scope: Scope, inputs: Inputs, facts: Facts, visit: Visitor): Carried;
  enter(scope: Scope, layer: number, carried: Carried, facts: Facts): Entered;
  /** Goes on with the output of attention, [batch, tokens, width]. */
  leave(scope: Scope, layer: number, carried: Carried, attended: tf.Tensor3D, facts: Facts): Carried;
  end(scope: Scope, carried: Carried, facts: Facts, visit: Visitor): tf.Tensor;
}

const denseAttention: AsyncSelfAttention = (_layer, q, k, v) => attend(q!, k!, v!).output;

/** Makes a model of what is its own. */
export function makeTransformer<Inputs, Config, Facts extends PassFacts>(
  network: Network<Inputs, Config, Facts>,
  source: WeightSource,
): DiffusionTransformer<Inputs, Config> {
  const { config, parameters, layers, heads, dim, tokens } = network;
  return {
    config,
    parameters,
    layers,
    heads,
    dim,
    tokens,
    forward(inputs, options = {}) {
      if (!source.resident) throw mustWait("weights are read as it runs");
      // One generator serves both ways of running; this one answers everything it asks for at once.
      return tf.tidy(() => {
        const pass = run(network, source, inputs, options as ForwardOptions<AsyncSelfAttention>);
        try {
          let step = pass.next();
          while (!step.done) {
            if (step.value instanceof Promise) {
              step.value.then((late) => tf.dispose(late as tf.Tensor), () => {});
              throw mustWait("attention is a promise");
            }
            step = pass.next(step.value);
          }
          return step.value;
        } finally {
          pass.return(undefined as never);
        }
      });
    },
    async forwardAsync(inputs, options = {}) {
      const pass = run(network, source, inputs, options);
      try {
        let step = pass.next();
        while (!step.done) {
          let answer;
          try {
            answer = await step.value;
          } catch (error) {
            step = pass.throw(error);
            continue;
          }
          step = pass.next(answer);
        }
        return step.value;
      } finally {
        pass.return(undefined as never);
      }
    },
    dispose: () => source.dispose(),
  };
}

function mustWait(found: string): Error {
  return new Error(
    `Cannot run a model at once as nothing must have to be waited for: its ${found}, use forwardAsync`,
  );
}

type Asked = Awaited<ReturnType<WeightSource["block"]>> | tf.Tensor4D;

/** A pass that yields what may have to be waited for: weights of blocks, outputs of attention. Frees what it made as it goes. */
function* run<Inputs, Config, Facts extends PassFacts>(
  network: Network<Inputs, Config, Facts>,
  source: WeightSource,
  inputs: Inputs,
  { attention = denseAttention, visit = () => {} }: ForwardOptions<AsyncSelfAttention>,
): Generator<Asked | Promise<Asked>, tf.Tensor, Asked> {
  const outer = new Scope(source.outer);
  const facts = tidied(() => kept(network.facts(inputs)));
  let carried: Carried = {};
  let open: { layer: number; weights: Awaited<ReturnType<WeightSource["block"]>> } | null = null;
  try {
    carried = tidied(() => kept(network.begin(outer, inputs, facts, visit)));
    for (let layer = 0; layer < network.layers; layer++) {
      const weights = (yield source.block(layer)) as Awaited<ReturnType<WeightSource["block"]>>;
      open = { layer, weights };
      const scope = new Scope(weights, `${network.blocks}.${layer}.`);
      const { q, k, v, ...entered } = tidied(() => {
        const { input, carried: within } = network.enter(scope, layer, carried, facts);
        const rows = halfOf(input, attention.reads?.(layer) ?? "all");
        const projection = { heads: network.heads, rotation: facts.rotation };
        const [q, k, v] = (["q", "k", "v"] as const).map((part) =>
          rows ? tf.keep(projected(scope.in("attn1"), part, rows, projection)) : null
        );
        return { q: q!, k: k!, v: v!, carried: kept(within) };
      });
      carried = replaced(carried, entered.carried);
      let output;
      try {
        output = (yield attention(layer, q, k, v)) as tf.Tensor4D;
      } finally {
        for (const tensor of [q, k, v]) tensor?.dispose();
      }
      const left = tidied(() => {
        const attended = linear(scope.in("attn1"), "to_out.0", mergeHeads(output));
        visit(`block${layer}.attn1`, attended);
        return kept(network.leave(scope, layer, carried, attended, facts));
      });
      output.dispose();
      carried = replaced(carried, left);
      source.release(layer, weights);
      open = null;
      for (const [name, tensor] of Object.entries(carried)) visit(`block${layer}.${name}`, tensor);
    }
    return tf.tidy(() => network.end(outer, carried, facts, visit));
  } finally {
    if (open) source.release(open.layer, open.weights);
    dropped(carried);
    dropped(facts as unknown as Carried);
  }
}

/** The rows that attention needs; null: none. */
function halfOf(x: tf.Tensor3D, rows: Rows): tf.Tensor3D | null {
  if (rows === "nothing") return null;
  if (rows === "all") return x;
  const [batch, tokens, width] = x.shape;
  if (batch % 2 !== 0) {
    throw new RangeError(`Cannot attend for half of a batch as it must be even: current batch is ${batch}`);
  }
  return tf.slice(x, [rows === "first half" ? 0 : batch / 2, 0, 0], [batch / 2, tokens, width]);
}

/** `tf.tidy` of what holds other things than tensors too. */
function tidied<T>(compute: () => T): T {
  return tf.tidy(compute as () => tf.TensorContainer) as T;
}

/** Keeps every tensor in `values`, one level deep or two, over the end of a `tf.tidy`. */
function kept<T extends object>(values: T): T {
  for (const tensor of tensorsOf(values)) tf.keep(tensor);
  return values;
}

/** Frees the tensors of `before` that are not in `after` too. */
function replaced(before: Carried, after: Carried): Carried {
  const going = new Set(tensorsOf(after));
  for (const tensor of tensorsOf(before)) if (!going.has(tensor)) tensor.dispose();
  return after;
}

function dropped(values: Carried): void {
  for (const tensor of tensorsOf(values)) tensor.dispose();
}

function tensorsOf(values: object): tf.Tensor[] {
  return Object.values(values).flatMap((value) => {
    if (value instanceof tf.Tensor) return [value];
    return value !== null && typeof value === "object" && value.constructor === Object
      ? tensorsOf(value)
      : [];
  });
}
