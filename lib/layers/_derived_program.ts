/** From a layer to the values of its forward and backward pass. Room-private. */
import {
  type Aggregation,
  batchMoments,
  type ExtendedGraph,
  type ExtendedNode,
  forward,
  initialNodes,
  isAggregation,
  layerDerivative,
  layerForward,
  type LayerGraph,
  type Mode,
  statisticName,
} from "../graph/mod.ts";
import { isRelu, type VectorName, vectorNames } from "../compile/mod.ts";
import type { LayerParts } from "./_layer_inputs.ts";
import { combined } from "./_derived_sums.ts";
import { type Term, Terms } from "./_derived_terms.ts";
import { CHANNEL, FULL, isFull, overPixels, type Value, Values } from "./_derived_values.ts";

/** A layer's values and which of them are asked for, by index. */
export interface DerivedProgram {
  readonly values: readonly Value[];
  readonly y: number;
  /** Raw moments over the batch that training measures, by node of the layer's graph. */
  readonly moments: ReadonlyMap<number, number>;
  /** Rows that the forward pass keeps for the backward pass. */
  readonly saved: readonly number[];
  readonly dx: number;
  /** Gradients of the vectors that the layer reads. */
  readonly gradients: ReadonlyMap<VectorName, number>;
}

/** What a program depends on. */
export interface ProgramOptions {
  readonly mode: Mode;
  readonly epsilon: number;
  /** Pixels of the batch: n * h * w. */
  readonly count: number;
}

type Layer = LayerParts;

/**
 * The program of `y = post(gamma * graph(x) + beta)` and its gradients. A post graph max(x, 0) is the ReLU of libraries, with
 * gradient 0 at 0.
 *
 * @throws {TypeError} in inference mode if the post graph has a moment over the batch: it keeps no statistics
 */
export function derivedProgram(layer: Layer, options: ProgramOptions): DerivedProgram {
  const relu = layer.post !== undefined && isRelu(layer.post);
  const bare: Layer = relu ? { graph: layer.graph } : layer;
  const lowering = new Lowering(layer.graph, options);
  const { values } = lowering;

  const forwardGraph = layerForward(bare, options.mode);
  const affine = lowering.append(forwardGraph)[forwardGraph.outputs.y]!;
  const image = lowering.terms.image(affine);
  const y = relu ? values.make("Relu", image) : image;

  const dy = values.input("dy", FULL);
  const upstream = relu ? values.make("ReluGrad", dy, image) : dy;
  const backwardGraph = layerDerivative(bare, options.mode);
  const backward = lowering.append(backwardGraph, upstream);
  const whole = lowering.terms.image(backward[backwardGraph.outputs.x]!);
  const made = reachable(values.all, [y]);
  const gradients = new Map(
    vectorNames.filter((name) => made.some((index) => values.at(index).name === name))
      .map((name) => [name, lowering.terms.value(backward[backwardGraph.outputs[name]]!)]),
  );
  const moments = new Map(
    options.mode === "inference"
      ? []
      : batchMoments(layer.graph).map((node) => [node, lowering.rawMoment(node)]),
  );
  const dx = combined(
    lowering.terms,
    whole,
    useCounts(values.all, [y, ...moments.values(), whole, ...gradients.values()]),
  );
  const saved = shared(values.all, [y, ...moments.values()], [dx, ...gradients.values()]);
  return { values: values.all, y, moments, saved, dx, gradients };
}

/** How many values, among those that `outputs` are made of, read each value. */
function useCounts(values: readonly Value[], outputs: readonly number[]): number[] {
  const counts = values.map(() => 0);
  for (const index of reachable(values, outputs)) for (const input of values[index]!.inputs) counts[input]!++;
  return counts;
}

/** Turns extended graphs into terms over one list of values. */
class Lowering {
  readonly values = new Values();
  readonly terms: Terms;
  readonly #graph: LayerGraph;
  readonly #count: number;
  readonly #moments: ReadonlyMap<string, Aggregation>;

  constructor(graph: LayerGraph, { mode, epsilon, count }: ProgramOptions) {
    this.terms = new Terms(this.values, epsilon);
    this.#graph = graph;
    this.#count = count;
    const nodes = mode === "inference" ? batchMoments(graph) : [];
    this.#moments = new Map(nodes.map((node) => [statisticName(node), opOf(graph, node)]));
  }

  /** The terms of a graph's inputs and nodes, by index; `upstream` is the value of its input dy. */
  append(graph: ExtendedGraph, upstream?: number): Term[] {
    const at = graph.inputs.map(({ name, shape }): Term => {
      if (shape === "zero") return this.terms.constant(0);
      if (name === "dy" && upstream !== undefined) return this.terms.of(upstream);
      const input = this.values.input(name, shape === "full" ? FULL : CHANNEL);
      const moment = this.#moments.get(name);
      return this.terms.of(moment === undefined || moment === "mean" ? input : this.terms.root(input));
    });
    for (const node of graph.nodes) {
      at.push(this.#slope(node, graph, at) ?? this.#quotient(node, graph, at) ?? this.#node(node, at));
    }
    return at;
  }

  /** The raw moment behind a node of the layer's graph: that of the graph that ends there, without its root. */
  rawMoment(node: number): number {
    const upTo = forward({ nodes: this.#graph.nodes.slice(0, node - initialNodes.length + 1) });
    const { inputs, axes } = upTo.nodes.at(-1)!;
    return this.terms.moment(opOf(this.#graph, node), this.append(upTo)[inputs[0]!]!, axes!);
  }

  #node({ op, inputs, axes, value }: ExtendedNode, at: readonly Term[]): Term {
    const { terms } = this;
    const [a, b, c] = inputs.map((input) => at[input]!) as [Term, Term, Term];
    if (isAggregation(op)) {
      const moment = terms.moment(op, a, axes!);
      return terms.of(op === "mean" ? moment : terms.root(moment));
    }
    switch (op) {
      case "Constant":
        return terms.constant(value!);
      case "Add":
        return terms.add(a, b);
      case "Mul":
        return terms.multiply(a, b);
      case "Div":
        return terms.divide(a, b);
      case "Max":
        return terms.max(a, b);
      case "Neg":
        return terms.negate(a);
      case "Square":
        return terms.square(a);
      case "Abs":
        return terms.absolute(a);
      case "Log":
      case "Sqrt":
        return terms.safe(op, a);
      case "LogSlope":
        return terms.slope("Log", a);
      case "SqrtSlope":
        return terms.slope("Sqrt", a);
      case "Pass": // both sides of a Max share the comparison
        return inputs[1]! < inputs[2]! ? terms.pass(a, b, c, 1) : terms.pass(a, c, b, -1);
      case "Gate":
        return terms.gate(a, b);
      case "sum":
        return terms.of(terms.sum(a, this.#count));
      default:
        return terms.apply(op, a);
    }
  }

  /** p * q / b as (p / b) * q where p / b is there: a gradient that goes to a quotient's numerator and to its denominator. */
  #quotient({ op, inputs }: ExtendedNode, graph: ExtendedGraph, at: readonly Term[]): Term | null {
    const [numerator, denominator] = inputs;
    const product = op === "Div" ? graph.nodes[numerator! - graph.inputs.length] : undefined;
    if (product?.op !== "Mul") return null;
    for (const [p, q] of [product.inputs, product.inputs.toReversed()]) {
      const known = graph.nodes.findIndex((node) =>
        node.op === "Div" && node.inputs[0] === p && node.inputs[1] === denominator
      );
      const quotient = known === -1 ? undefined : at[graph.inputs.length + known];
      if (quotient !== undefined) return this.terms.multiply(quotient, at[q!]!);
    }
    return null;
  }

  /** s (1 - s) and 1 - t^2, as `differentiate` writes the slopes of Sigmoid and Tanh, of full values. */
  #slope({ op, inputs }: ExtendedNode, graph: ExtendedGraph, at: readonly Term[]): Term | null {
    const node = (index: number | undefined) => graph.nodes[index! - graph.inputs.length];
    /** What is taken from 1 by a node, if it is such a difference. */
    const fromOne = (candidate: ExtendedNode | undefined): number | undefined => {
      if (candidate?.op !== "Add" || node(candidate.inputs[0])?.value !== 1) return undefined;
      const negated = node(candidate.inputs[1]);
      return negated?.op === "Neg" ? negated.inputs[0] : undefined;
    };
    const waiting = (slope: "SigmoidSlope" | "TanhSlope", of: number): Term | null => {
      const value = at[of]!;
      return value.full === null ? null : this.terms.of(this.values.make(slope, this.terms.value(value)));
    };
    if (op === "Mul") {
      for (const [s, rest] of [inputs, inputs.toReversed()]) {
        if (node(s)?.op === "Sigmoid" && fromOne(node(rest)) === s) return waiting("SigmoidSlope", s!);
      }
    } else if (op === "Add") {
      const square = node(fromOne({ op, inputs }));
      if (square?.op === "Square" && node(square.inputs[0])?.op === "Tanh") {
        return waiting("TanhSlope", square.inputs[0]!);
      }
    }
    return null;
  }
}

function opOf({ nodes }: LayerGraph, node: number): Aggregation {
  return nodes[node - initialNodes.length]!.op as Aggregation;
}

/** The values that some are made of, themselves included, in ascending order, not looking behind given ones. */
export function reachable(
  values: readonly Value[],
  from: readonly number[],
  given: ReadonlySet<number> = new Set(),
): number[] {
  const reached = new Set(from);
  for (let index = values.length - 1; index >= 0; index--) {
    if (reached.has(index) && !given.has(index)) {
      for (const input of values[index]!.inputs) reached.add(input);
    }
  }
  return [...reached].sort((a, b) => a - b);
}

/** The rows that both passes need and that take a look at every pixel: the last ones of each chain. */
function shared(values: readonly Value[], forward: readonly number[], backward: readonly number[]): number[] {
  const measured = values.map(() => false);
  values.forEach((value, index) =>
    measured[index] = overPixels(value) || value.inputs.some((input) => measured[input])
  );
  const made = new Set(
    reachable(values, forward).filter((index) => measured[index] && !isFull(values[index]!)),
  );
  return reachable(values, backward, made).filter((index) => made.has(index));
}
