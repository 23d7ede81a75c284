import {
  arity,
  fromJSON,
  functionalHash,
  type GraphNode,
  indexSets,
  initialNodes,
  isAggregation,
  type LayerGraph,
  maxNodes,
  primitives,
  toJSON,
  usesX,
} from "../graph/mod.ts";
import { constraintTest, type GraphConstraints, type Operation, operations } from "./constraints.ts";
import { type Draws, integerBelow, oneOf } from "./draws.ts";
import type { Space } from "./settings.ts";

/** How layer graphs are drawn and mutated. Every default that is not from the paper says why it was chosen. */
export interface GraphSpaceOptions {
  /** Intermediate nodes of a genotype, dead ones included. Default 10, the paper's. */
  readonly nodes?: number;
  /**
   * What "a primitive drawn uniformly" runs over. `names` (default): the 15 rows of the paper's table, then, for a
   * moment, one of the 4 index sets. `concrete`: the 24 operations with their index sets; moments are then half of
   * all nodes instead of a fifth. The paper does not say which; its table lists the index set as an attribute of a
   * primitive, and one of five nodes being a moment leaves more room for the other twelve.
   */
  readonly primitives?: "names" | "concrete";
  /**
   * Whether the second step of a mutation may draw the operation that the node already has. `any` (default): as a
   * uniform draw over all operations is usually read. `other`: never; then no mutation is a mere re-wiring.
   */
  readonly redraw?: "any" | "other";
  /** Mutations from the winner to its offspring, one after the other. Default 2, the paper's, "to promote diversity". */
  readonly mutations?: number;
  /** Default: none. Drawing is repeated until they hold, so that graphs stay uniform among those that satisfy them. */
  readonly constraints?: GraphConstraints;
  /** Draws after which constraints count as unsatisfiable. Default 10,000. */
  readonly attempts?: number;
}

/** The reason why a graph that does not use its input is rejected before anything is computed. */
export const INACTIVE = "inactive x";

/**
 * Layer graphs as the space of a search: sequential random graphs, the paper's three-step mutation, rejection of
 * graphs whose output does not depend on x, and the functional hash by which duplicates are found.
 *
 * Source: "Evolving Normalization-Activation Layers", section 4 (arXiv 2004.02967).
 *
 * @throws {RangeError} An option out of range, or constraints that contradict each other.
 */
export function graphSpace(options: GraphSpaceOptions = {}): Space<LayerGraph> {
  const { nodes = 10, mutations = 2, constraints, attempts = 10_000 } = options;
  requireWhole("nodes", nodes, 1, maxNodes);
  requireWhole("mutations", mutations, 1, Infinity);
  requireWhole("attempts", attempts, 1, Infinity);
  const allowed = constraints === undefined ? undefined : constraintTest(constraints, nodes);
  const untilAllowed = (draw: () => LayerGraph): LayerGraph => {
    if (allowed === undefined) return draw();
    for (let attempt = 0; attempt < attempts; attempt++) {
      const graph = draw();
      if (allowed(graph)) return graph;
    }
    throw new RangeError(
      `Cannot draw a layer graph as its constraints must be met by one of ${attempts} draws: ` +
        `current constraints are ${JSON.stringify(constraints)} on ${nodes} nodes`,
    );
  };
  return {
    fresh: (draws) => untilAllowed(() => randomGraph(draws, options)),
    mutate: (parent, draws) =>
      untilAllowed(() => {
        let graph = parent;
        for (let k = 0; k < mutations; k++) graph = mutateGraph(graph, draws, options);
        return graph;
      }),
    encode: (graph) => toJSON(graph),
    decode: (text) => fromJSON(text),
    screen: (graph) => (usesX(graph) ? null : INACTIVE),
    hash: functionalHash,
  };
}

/**
 * One random graph, node after node: an operation, then each of its inputs uniformly among all earlier nodes. No
 * constraints are applied.
 */
export function randomGraph(
  draws: Draws,
  options: Pick<GraphSpaceOptions, "nodes" | "primitives"> = {},
): LayerGraph {
  const { nodes = 10 } = options;
  return { nodes: Array.from({ length: nodes }, (_, k) => randomNode(draws, k, options.primitives)) };
}

/**
 * One mutation: (1) an intermediate node uniformly at random, (2) a new operation for it, (3) new predecessors for it
 * uniformly among the nodes before it. The nodes after it keep pointing at it. The parent is left as it is.
 */
export function mutateGraph(
  parent: LayerGraph,
  draws: Draws,
  options: Pick<GraphSpaceOptions, "primitives" | "redraw"> = {},
): LayerGraph {
  const at = integerBelow(draws, parent.nodes.length);
  const avoid = options.redraw === "other" ? parent.nodes[at] : undefined;
  return { nodes: parent.nodes.with(at, randomNode(draws, at, options.primitives, avoid)) };
}

/** A random node at place `k` among the intermediate ones, of another operation than `avoid`. */
function randomNode(
  draws: Draws,
  k: number,
  primitives: GraphSpaceOptions["primitives"],
  avoid?: GraphNode,
): GraphNode {
  let operation = randomOperation(draws, primitives);
  while (avoid !== undefined && same(operation, avoid)) operation = randomOperation(draws, primitives);
  const inputs = draws.integers(arity(operation.op), initialNodes.length + k);
  return { ...operation, inputs: Array.from(inputs) };
}

function randomOperation(draws: Draws, over: GraphSpaceOptions["primitives"] = "names"): Operation {
  if (over === "concrete") return oneOf(draws, operations);
  const op = oneOf(draws, primitives);
  return isAggregation(op) ? { op, axes: oneOf(draws, indexSets) } : { op };
}

const same = (operation: Pick<GraphNode, "op" | "axes">, node: GraphNode): boolean =>
  operation.op === node.op && operation.axes === node.axes;

function requireWhole(name: string, value: number, least: number, most: number): void {
  if (Number.isInteger(value) && value >= least && value <= most) return;
  const range = most === Infinity ? `from ${least}` : `from ${least} to ${most}`;
  throw new RangeError(
    `Cannot search layer graphs as '${name}' must be a whole number ${range}: current ${name} is ${value}`,
  );
}
