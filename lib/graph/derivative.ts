import { Builder } from "./_builder.ts";
import {
  type ExtendedGraph,
  type ExtendedInput,
  type ExtendedNode,
  forward,
  layerForward,
  type Mode,
} from "./extended.ts";
import type { PublishedLayer } from "./published.ts";
import type { LayerGraph } from "./types.ts";

/**
 * The gradient of a layer graph as a graph: inputs x, zero, v0, v1 and the upstream gradient `dz`; outputs the
 * gradients of sum(z * dz) to x [N, H, W, C], v0 and v1 [C].
 */
export type GradientGraph = ExtendedGraph<"x" | "v0" | "v1">;

/**
 * The gradient of a layer graph as a graph, by reverse accumulation. Statistics that the forward graph computes are
 * shared, equal expressions are made once. In inference mode moments over the batch are constants, the inputs
 * `statistic<index>`.
 *
 * ```ts
 * import { derivative, evaluateExtended, publishedLayer } from "@normlab/normlab/graph";
 *
 * const gradient = derivative(publishedLayer("EvoNorm-S0").graph);
 * const inputs = { x: [1, 2, 3, 4], v0: [0], v1: [1], dz: [1, 0, 0, 0] };
 * const { x, v1 } = evaluateExtended(gradient, inputs, { shape: [1, 2, 2, 1] });
 * console.log(x.length, v1.length); // 4 1
 * ```
 */
export function derivative(graph: LayerGraph, mode: Mode = "training"): GradientGraph {
  return differentiate(forward(graph, mode), ["x", "v0", "v1"]);
}

/**
 * The gradient of a whole layer, post graph and affine included: inputs as of {@link layerForward} and `dy`, outputs
 * the gradients of sum(y * dy).
 *
 * @throws as {@link layerForward}
 */
export function layerDerivative(
  layer: Pick<PublishedLayer, "graph" | "post">,
  mode: Mode = "training",
): ExtendedGraph<"x" | "v0" | "v1" | "gamma" | "beta" | "tau"> {
  return differentiate(layerForward(layer, mode), ["x", "v0", "v1", "gamma", "beta", "tau"]);
}

/**
 * Differentiates any extended graph. For every output o the result has an input, its upstream gradient, named o
 * with one d per order in front: `dz`; then `ddx`, `ddv0`, `ddv1` for the gradient of a gradient, and so on. Outputs
 * are the gradients of sum over o of (o * d..o) to the inputs named in `to`, zero for those that do not matter.
 *
 * So the second derivative is `differentiate(derivative(graph), ["x", "v0", "v1", "dz"])`: what a training step
 * needs to go backwards through {@link derivative}.
 */
export function differentiate<To extends string>(
  graph: ExtendedGraph,
  to: readonly To[],
): ExtendedGraph<To> {
  const tape = new Tape(graph, to);
  return tape.differentiate();
}

/** One reverse sweep. Indices of `graph` are "old", those of the graph being built "new". */
class Tape<To extends string> {
  readonly #graph: ExtendedGraph;
  readonly #to: readonly To[];
  readonly #builder: Builder;
  /** The new index of each old node. */
  readonly #at: number[];
  /** Whether an old node depends on an input in `to`. */
  readonly #matters: boolean[];
  /** What arrived so far of the gradient to each old node, as a new index. */
  readonly #gradients = new Map<number, number>();

  constructor(graph: ExtendedGraph, to: readonly To[]) {
    this.#graph = graph;
    this.#to = to;
    this.#builder = new Builder([...graph.inputs, ...upstreamInputs(graph)]);
    this.#at = graph.inputs.map((_, index) => index);
    this.#matters = graph.inputs.map(({ name }) => (to as readonly string[]).includes(name));
    for (const node of graph.nodes) {
      this.#at.push(this.#copy(node));
      this.#matters.push(node.inputs.some((input) => this.#matters[input]));
    }
  }

  differentiate(): ExtendedGraph<To> {
    const { inputs, nodes, outputs, order } = this.#graph;
    for (const [name, index] of Object.entries(outputs)) {
      this.#send(index, this.#builder.inputIndex(upstreamName(name, order)));
    }
    for (let k = nodes.length - 1; k >= 0; k--) {
      const index = inputs.length + k;
      const d = this.#gradients.get(index);
      if (d !== undefined) this.#propagate(nodes[k]!, index, d);
    }
    const gradients = this.#to.map((name) => [name, this.#gradientToInput(name)]);
    return this.#builder.finish(Object.fromEntries(gradients) as Record<To, number>, order + 1);
  }

  #copy(node: ExtendedNode): number {
    if (node.op === "Constant") return this.#builder.constant(node.value!);
    return this.#builder.add(node.op, node.inputs.map((input) => this.#at[input]!), node.axes);
  }

  #gradientToInput(name: To): number {
    const index = this.#builder.inputIndex(name);
    const d = this.#gradients.get(index);
    if (d === undefined) return this.#builder.inputIndex("zero");
    return this.#graph.inputs[index]!.shape === "channel" ? this.#builder.add("sum", [d]) : d;
  }

  /** Adds a contribution to the gradient of an old node. */
  #send(old: number, contribution: number): void {
    if (!this.#matters[old]) return;
    const sofar = this.#gradients.get(old);
    this.#gradients.set(
      old,
      sofar === undefined ? contribution : this.#builder.add("Add", [sofar, contribution]),
    );
  }

  /** Hands d, the gradient to a node, on to the node's inputs: the chain rule of every operation. */
  #propagate(node: ExtendedNode, index: number, d: number): void {
    const make = this.#builder;
    const self = this.#at[index]!;
    const [old, other] = node.inputs as [number, number];
    const [a, b] = node.inputs.map((input) => this.#at[input]!) as [number, number];
    const times = (p: number, q: number) => make.add("Mul", [p, q]);
    switch (node.op) {
      case "Add":
        this.#send(old, d);
        this.#send(other, d);
        break;
      case "Mul":
        this.#send(old, times(d, b));
        this.#send(other, times(d, a));
        break;
      case "Div":
        this.#send(old, make.add("Div", [d, b]));
        this.#send(other, this.#toDenominator(d, self, b));
        break;
      case "Max":
        this.#send(old, make.add("Pass", [d, a, b]));
        this.#send(other, make.add("Pass", [d, b, a]));
        break;
      case "Neg":
        this.#send(old, make.add("Neg", [d]));
        break;
      case "Sigmoid": // s (1 - s)
        this.#send(old, times(d, times(self, make.add("Add", [make.constant(1), make.add("Neg", [self])]))));
        break;
      case "Tanh": // 1 - t^2
        this.#send(
          old,
          times(d, make.add("Add", [make.constant(1), make.add("Neg", [make.add("Square", [self])])])),
        );
        break;
      case "Exp":
        this.#send(old, times(d, self));
        break;
      case "Log":
        this.#send(old, times(d, make.add("LogSlope", [a])));
        break;
      case "Abs":
        this.#send(old, times(d, make.add("Sign", [a])));
        break;
      case "Square":
        this.#send(old, times(make.constant(2), times(d, a)));
        break;
      case "Sqrt":
        this.#send(old, times(d, make.add("SqrtSlope", [a])));
        break;
      case "mean": // its own adjoint, as every node has x's full shape
        this.#send(old, make.mean(d, node.axes!));
        break;
      case "rms": // a / rms * mean(d)
        this.#send(old, times(a, make.add("Div", [make.mean(d, node.axes!), self])));
        break;
      case "std": { // (a - mean(a)) / std * mean(d): the part through the mean vanishes
        const deviation = make.add("Add", [a, make.add("Neg", [make.mean(a, node.axes!)])]);
        this.#send(old, times(deviation, make.add("Div", [make.mean(d, node.axes!), self])));
        break;
      }
      case "LogSlope":
        this.#send(
          old,
          times(d, make.add("Neg", [times(make.add("Sign", [a]), make.add("Square", [self]))])),
        );
        break;
      case "SqrtSlope": {
        const cube = times(self, make.add("Square", [self]));
        this.#send(old, times(d, times(make.constant(-2), times(make.add("Sign", [a]), cube))));
        break;
      }
      case "Pass": // linear in its first input, flat in the ones it compares
      case "Gate":
        this.#send(old, make.add(node.op, [d, ...node.inputs.slice(1).map((input) => this.#at[input]!)]));
        break;
      case "sum": // an output, so d is a vector: broadcasting it needs no node
        this.#send(old, d);
        break;
      case "Sign":
      case "Constant":
        break;
    }
  }

  /** -d * (a / b) / b, and 0 where the clamp holds the denominator; a moment's root never is that small. */
  #toDenominator(d: number, ratio: number, b: number): number {
    const make = this.#builder;
    const slope = make.add("Neg", [make.add("Div", [make.add("Mul", [d, ratio]), b])]);
    return this.#aboveClamp(b) ? slope : make.add("Gate", [slope, b]);
  }

  /** Whether a new node is at least sqrt(epsilon), hence above the clamp epsilon < 1: a root moment or a Max with one. */
  #aboveClamp(index: number): boolean {
    const isRootMoment = (at: number) => ["rms", "std"].includes(this.#builder.node(at)?.op ?? "");
    const node = this.#builder.node(index);
    return isRootMoment(index) || (node?.op === "Max" && node.inputs.some(isRootMoment));
  }
}

function upstreamName(output: string, order: number): string {
  return "d".repeat(order + 1) + output;
}

function upstreamInputs(graph: ExtendedGraph): ExtendedInput[] {
  return Object.keys(graph.outputs).map((output) => {
    const input = graph.inputs.find(({ name }) => name === output);
    return {
      name: upstreamName(output, graph.order),
      shape: input?.shape === "channel" ? "channel" : "full",
    };
  });
}
