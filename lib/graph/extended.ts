import { Builder } from "./_builder.ts";
import type { PublishedLayer } from "./published.ts";
import { active, batchMoments } from "./structure.ts";
import { type Aggregation, type Elementwise, type IndexSet, initialNodes, type LayerGraph } from "./types.ts";

/**
 * What gradients need beyond the 15 primitives. With them the set is closed under differentiation.
 *
 * | op | value | derivative |
 * |---|---|---|
 * | Constant | `value` everywhere | 0 |
 * | Sign(a) | sgn(a), 0 at 0 | 0 |
 * | LogSlope(a) | 1 / (abs(a) + eps), 0 at 0: the slope of Log | -Sign(a) * LogSlope(a)^2 |
 * | SqrtSlope(a) | 1 / (2 sqrt(abs(a) + eps)), 0 at 0: the slope of Sqrt | -2 Sign(a) * SqrtSlope(a)^3 |
 * | Pass(d, a, b) | d where a > b, d/2 at a tie, else 0: the share of Max's gradient that a gets | Pass(., a, b) to d |
 * | Gate(d, b) | d where abs(b) >= eps, else 0: the clamp of Div's denominator | Gate(., b) to d |
 * | sum(a) | the sum over b, w, h of a, taken at x's full shape: [C] | broadcast |
 */
export type ExtendedOp =
  | Elementwise
  | Aggregation
  | "Constant"
  | "Sign"
  | "LogSlope"
  | "SqrtSlope"
  | "Pass"
  | "Gate"
  | "sum";

/** A node of an {@link ExtendedGraph}. */
export interface ExtendedNode {
  /** The operation's name. */
  readonly op: ExtendedOp;
  /** Indices below the node's own, in the order of the table at {@link ExtendedOp}. */
  readonly inputs: readonly number[];
  /** Of mean, rms, std. */
  readonly axes?: IndexSet;
  /** Of Constant. */
  readonly value?: number;
}

/** An initial node: a full tensor [N, H, W, C], a vector [C], or the constant zero (no value to give). */
export interface ExtendedInput {
  /** The name under which an evaluator is given its value. */
  readonly name: string;
  /** [N, H, W, C], [C], or nothing. */
  readonly shape: "full" | "channel" | "zero";
}

/**
 * A graph over the extended primitives with named inputs and outputs: indices 0.. are the inputs, then the nodes.
 *
 * As in a layer graph every node stands for a tensor of x's shape, so the gradient of a broadcast needs no node and
 * mean is its own adjoint; `sum` occurs only as an output, for gradients of vectors. An evaluator is free to keep a
 * node that is constant along a dimension once (a moment over (w,h) is [N, C]). In gradients, bwh moments are those
 * of the batch at hand: only nodes of the layer graph keep moving statistics.
 */
export interface ExtendedGraph<Output extends string = string> {
  /** The initial nodes. */
  readonly inputs: readonly ExtendedInput[];
  /** The others, each after its inputs. */
  readonly nodes: readonly ExtendedNode[];
  /** Indices of the outputs by name; a gradient has the name of the input it belongs to. */
  readonly outputs: Readonly<Record<Output, number>>;
  /** How often it was differentiated: 0 a forward graph, 1 its gradient, ... */
  readonly order: number;
}

/** Training takes moments over the batch from the batch, inference from moving statistics. */
export type Mode = "training" | "inference";

/**
 * The active part of a layer graph as an extended graph with inputs x, zero, v0, v1 and output z. In inference mode
 * each moment over (b,w,h) becomes a further input `statistic<index>` [C], the value the node has everywhere.
 */
export function forward(graph: LayerGraph, mode: Mode = "training"): ExtendedGraph<"z"> {
  const builder = new Builder([...layerInputs, ...statisticInputs(graph, mode)]);
  const z = append(builder, graph, [0, 1, 2, 3], mode);
  return builder.finish({ z }, 0);
}

/**
 * A whole layer, `y = post(gamma * z + beta)`, as an extended graph: inputs x, zero, v0, v1, gamma, beta, tau (and
 * statistics, see {@link forward}), output y.
 *
 * @throws TypeError in inference mode if the post graph has a moment over the batch: it keeps no statistics.
 */
export function layerForward(
  layer: Pick<PublishedLayer, "graph" | "post">,
  mode: Mode = "training",
): ExtendedGraph<"y"> {
  const [gamma, beta, tau] = [4, 5, 6];
  const builder = new Builder([
    ...layerInputs,
    ...["gamma", "beta", "tau"].map(vector),
    ...statisticInputs(layer.graph, mode),
  ]);
  const z = append(builder, layer.graph, [0, 1, 2, 3], mode);
  const affine = builder.add("Add", [builder.add("Mul", [gamma, z]), beta]);
  if (layer.post === undefined) return builder.finish({ y: affine }, 0);
  if (mode === "inference" && batchMoments(layer.post).length > 0) {
    throw new TypeError(
      "Cannot build the inference form as 'post' must have no moment over (b,w,h): current 'post' has one",
    );
  }
  return builder.finish({ y: append(builder, layer.post, [affine, 1, tau, 3], "training") }, 0);
}

/** The input that stands for a moment over the batch in inference mode. */
export function statisticName(index: number): string {
  return `statistic${index}`;
}

function vector(name: string): ExtendedInput {
  return { name, shape: "channel" };
}

const layerInputs: readonly ExtendedInput[] = [
  { name: "x", shape: "full" },
  { name: "zero", shape: "zero" },
  vector("v0"),
  vector("v1"),
];

function statisticInputs(graph: LayerGraph, mode: Mode): ExtendedInput[] {
  return mode === "inference" ? batchMoments(graph).map((index) => vector(statisticName(index))) : [];
}

/** Adds the active nodes of a graph whose initial nodes are `initial`; returns the index of its output. */
function append(builder: Builder, graph: LayerGraph, initial: readonly number[], mode: Mode): number {
  const at = [...initial];
  for (const index of active(graph)) {
    const node = graph.nodes[index - initialNodes.length];
    if (node === undefined) continue;
    at[index] = mode === "inference" && node.axes === "bwh"
      ? builder.inputIndex(statisticName(index))
      : builder.add(node.op, node.inputs.map((input) => at[input]!), node.axes);
  }
  return at[initialNodes.length + graph.nodes.length - 1]!;
}
