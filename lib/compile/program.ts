/** From a layer to the programs of its kernels: forward, backward and backward once more, in training and in inference form. */
import {
  type Aggregation,
  batchMoments,
  differentiate,
  type ExtendedGraph,
  forward,
  initialNodes,
  layerDerivative,
  layerForward,
  type LayerGraph,
  type Mode,
  type PublishedLayer,
  statisticName,
} from "../graph/mod.ts";
import { dependsOn, ValueBuilder } from "./_value_builder.ts";
import { isReduction, type Program, type Value } from "./value.ts";

/** The trained vectors that a layer may read. */
export const vectorNames = ["v0", "v1", "gamma", "beta", "tau"] as const;

/** The name of a trained vector. */
export type VectorName = typeof vectorNames[number];

/** A moment over the batch that training measures and inference is given, by its node in the layer's graph. */
export interface BatchMoment {
  readonly node: number;
  readonly op: Aggregation;
}

/** The programs of a layer in one mode. */
export interface LayerPrograms {
  /**
   * From x (and, in inference, `statistic<node>`, the moving moment [C] before any root) to y; in training also
   * `moment<node>`, the raw moments of the batch [C].
   */
  readonly forward: Program;
  /** From x, dy and what the forward pass saved to `x` [N, H, W, C] and the gradients of the vectors read. */
  readonly backward: Program;
  /** The vectors that the layer reads. */
  readonly vectors: readonly VectorName[];
  /** The moments over the batch. */
  readonly moments: readonly BatchMoment[];
}

/** The name of a raw moment over the batch among a training program's vectors. */
export function momentName(node: number): string {
  return `moment${node}`;
}

const reluGraph: LayerGraph = { nodes: [{ op: "Max", inputs: [0, 1] }] };

/** Whether a graph is max(x, 0) as it is written in the published layers. */
export function isRelu(graph: LayerGraph): boolean {
  return JSON.stringify(graph.nodes) === JSON.stringify(reluGraph.nodes);
}

/**
 * The programs of `y = post(gamma * graph(x) + beta)`. Statistics of x are computed by the forward pass and saved for
 * the backward pass. A post graph max(x, 0) is the ReLU of libraries, with gradient 0 at 0.
 *
 * @throws TypeError in inference mode if the post graph has a moment over the batch: it keeps no statistics
 */
export function layerPrograms(layer: LayerSource, mode: Mode = "training", epsilon = 1e-5): LayerPrograms {
  const { builder, y, dx, gradients, raw, saved, vectors, moments } = layerValues(layer, mode);
  return {
    forward: builder.finish({ images: [{ name: "y", value: y }], vectors: raw, saved, epsilon }),
    backward: cutAt(builder, saved).finish({
      images: [{ name: "x", value: dx }],
      vectors: gradients,
      saved: [],
      epsilon,
    }),
    vectors,
    moments,
  };
}

/**
 * The program of the gradients of the backward program's results: from x, dy, what the forward pass saved, and for each result
 * r of {@link LayerPrograms.backward} an upstream gradient `ddr`, to the gradients of sum over r of sum(r * ddr) to `x` and
 * `dy` [N, H, W, C] and to the vectors that the layer reads.
 *
 * @throws as {@link layerPrograms}
 */
export function secondGradientProgram(
  layer: LayerSource,
  mode: Mode = "training",
  epsilon = 1e-5,
): Program {
  const { builder, bare, upstream, gate, saved, vectors, moments } = layerValues(layer, mode);
  const graph = differentiate(layerDerivative(bare, mode), ["x", "dy", ...vectors]);
  const at = append(builder, graph, moments, upstream);
  const of = (name: "x" | "dy" | VectorName) => at[graph.outputs[name]]!;
  const dy = gate(of("dy"));
  const images = [{ name: "x", value: of("x") }, { name: "dy", value: dy }];
  const gradients = vectors.map((name) => ({ name, value: of(name) }));
  // A kernel finds a saved value by those before it: all are inputs, read or not.
  return cutAt(builder, saved).finish(
    { images, vectors: gradients, saved: [], epsilon },
    saved.map(({ value }) => value),
  );
}

type LayerSource = Pick<PublishedLayer, "graph" | "post">;

/** A layer and its gradient as values of one builder, in which what they have in common is made once. */
function layerValues(layer: LayerSource, mode: Mode) {
  const relu = layer.post !== undefined && isRelu(layer.post);
  const bare: LayerSource = relu ? { graph: layer.graph } : layer;
  const moments = batchMoments(layer.graph).map((node) => ({
    node,
    op: layer.graph.nodes[node - initialNodes.length]!.op as Aggregation,
  }));

  const builder = new ValueBuilder();
  const forwardGraph = layerForward(bare, mode);
  const forwardAt = append(builder, forwardGraph, moments);
  const affine = forwardAt[forwardGraph.outputs.y]!;
  const y = relu ? builder.make("Relu", [affine]) : affine;

  // Back through the ReLU behind the graph: linear, so that it is its own gradient.
  const gate = (value: number) => relu ? builder.make("PassAbove", [value, affine]) : value;
  const upstream = gate(builder.input("dy", true));
  const backwardGraph = layerDerivative(bare, mode);
  const backwardAt = append(builder, backwardGraph, moments, upstream);

  const vectors = vectorNames.filter((name) => reads(builder.values, y, name));
  const gradients = vectors.map((name) => ({ name, value: backwardAt[backwardGraph.outputs[name]]! }));
  const dx = backwardAt[backwardGraph.outputs.x]!;

  const raw = mode === "inference" ? [] : moments.map((moment) => ({
    name: momentName(moment.node),
    value: rawMoment(builder, layer.graph, moment),
  }));
  const shared = savedStatistics(builder.values, [y, ...raw.map(({ value }) => value)], [
    dx,
    ...gradients.map(({ value }) => value),
  ]);
  const saved = shared.map((value, index) => ({ name: `saved${index}`, value }));
  return { builder, bare, y, upstream, gate, dx, gradients, raw, saved, vectors, moments };
}

/** Adds an extended graph; returns the index of each of its nodes. Its moments over the batch are inputs where it says so. */
function append(
  builder: ValueBuilder,
  graph: ExtendedGraph,
  moments: readonly BatchMoment[],
  upstream?: number,
): number[] {
  const statistics = new Map(moments.map(({ node, op }) => [statisticName(node), op]));
  const at = graph.inputs.map(({ name, shape }) => {
    if (shape === "zero") return builder.constant(0);
    if (name === "dy" && upstream !== undefined) return upstream;
    const input = builder.input(name, shape === "full");
    const op = statistics.get(name);
    return op === undefined || op === "mean" ? input : builder.make("Root", [input]);
  });
  for (const node of graph.nodes) {
    const inputs = node.inputs.map((input) => at[input]!);
    switch (node.op) {
      case "Constant":
        at.push(builder.constant(node.value!));
        break;
      case "sum":
        at.push(builder.reduce("sum", inputs[0]!));
        break;
      case "mean":
        at.push(builder.reduce("mean", inputs[0]!, node.axes!));
        break;
      case "rms":
        at.push(builder.make("Root", [builder.reduce("meanSquare", inputs[0]!, node.axes!)]));
        break;
      case "std":
        at.push(builder.make("Root", [builder.reduce("variance", inputs[0]!, node.axes!)]));
        break;
      default:
        at.push(builder.make(node.op, inputs));
    }
  }
  return at;
}

/** The raw moment behind a node of the layer's graph: the value of the graph that ends there, without its root. */
function rawMoment(builder: ValueBuilder, { nodes }: LayerGraph, { node, op }: BatchMoment): number {
  const upTo = forward({ nodes: nodes.slice(0, node - initialNodes.length + 1) });
  const value = append(builder, upTo, [])[upTo.outputs.z]!;
  return op === "mean" ? value : builder.values[value]!.inputs[0]!;
}

function reads(values: readonly Value[], index: number, name: string): boolean {
  return dependsOn(values, index, (value) => value.name === name);
}

/**
 * What the forward pass keeps: reductions that the backward pass needs, do not involve dy, and are made in the forward
 * pass anyway, or come with one that is (a mean comes with the variance of the same value).
 */
function savedStatistics(
  values: readonly Value[],
  forward: readonly number[],
  backward: readonly number[],
): number[] {
  const made = reachable(values, forward, () => false);
  const accumulated = new Set(
    [...made].flatMap((index) => values[index]!.op === "variance" ? [values[index]!.inputs[0]!] : []),
  );
  const kept = (index: number) => {
    const { op, inputs } = values[index]!;
    return isReduction(op) && (made.has(index) || (op === "mean" && accumulated.has(inputs[0]!)));
  };
  return [...reachable(values, backward, kept)].filter(kept).sort((a, b) => a - b);
}

/** What some values are made of, themselves included, without looking behind those that satisfy `stop`. */
function reachable(
  values: readonly Value[],
  from: readonly number[],
  stop: (index: number) => boolean,
): Set<number> {
  const reached = new Set(from);
  for (let index = values.length - 1; index >= 0; index--) {
    if (reached.has(index) && !stop(index)) { for (const input of values[index]!.inputs) reached.add(input); }
  }
  return reached;
}

/** A builder with the same values at the same indices, in which the saved ones are inputs. */
function cutAt(builder: ValueBuilder, saved: readonly { name: string; value: number }[]): ValueBuilder {
  const cut = new ValueBuilder();
  cut.values.push(...builder.values);
  for (const { name, value } of saved) {
    const { full, perSample } = builder.values[value]!;
    cut.values[value] = { op: "Input", inputs: [], name, full, perSample };
  }
  return cut;
}
