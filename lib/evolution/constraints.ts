import {
  active,
  type Aggregation,
  batchIndependent,
  type Elementwise,
  type GraphNode,
  type IndexSet,
  indexSets,
  initialNodes,
  isAggregation,
  type LayerGraph,
  primitives,
} from "../graph/mod.ts";

/** An operation without its inputs: one of 12 element-wise primitives, or one of 3 moments over one of 4 index sets. */
export type Operation = { readonly op: Elementwise } | { readonly op: Aggregation; readonly axes: IndexSet };

/** The 24 concrete operations. */
export const operations: readonly Operation[] = primitives.flatMap((op): Operation[] =>
  isAggregation(op) ? indexSets.map((axes) => ({ op, axes })) : [{ op }]
);

/** What every drawn graph has to satisfy. Judged on its active nodes: dead ones compute nothing. */
export interface GraphConstraints {
  /** No moment over the batch (the paper's S series). Default: they are allowed. */
  readonly noBatchStatistics?: boolean;
  /** Operations of which each must occur, as `"Max"`, `"std"` (over any index set) or `"std[wh]"`. */
  readonly required?: readonly string[];
  /** Operations of which none may occur, written the same way. */
  readonly forbidden?: readonly string[];
  /** Fewest active intermediate nodes. */
  readonly leastNodes?: number;
  /** Most active intermediate nodes. */
  readonly mostNodes?: number;
}

/** Constraints made ready to be tested on many graphs. @throws {RangeError} Unknown operations, or bounds that no graph of `nodes` intermediate nodes meets. */
export function constraintTest(
  constraints: GraphConstraints,
  nodes: number,
): (graph: LayerGraph) => boolean {
  const { noBatchStatistics = false, required = [], forbidden = [], leastNodes = 1, mostNodes = nodes } =
    constraints;
  for (const name of [...required, ...forbidden]) requireOperation(name);
  const whole = Number.isInteger(leastNodes) && Number.isInteger(mostNodes);
  if (!whole || leastNodes > mostNodes || leastNodes > nodes || mostNodes < 1) {
    throw new RangeError(
      `Cannot constrain graphs as 'leastNodes' must be at most 'mostNodes', whole numbers within 1 to ${nodes}: ` +
        `current bounds are ${leastNodes} and ${mostNodes}`,
    );
  }
  const contradiction = required.find((name) =>
    forbidden.includes(name) || (noBatchStatistics && name.endsWith("[bwh]"))
  );
  if (contradiction !== undefined) {
    throw new RangeError(
      `Cannot constrain graphs as a required operation must not be forbidden: current operation is "${contradiction}"`,
    );
  }
  return (graph) => {
    if (noBatchStatistics && !batchIndependent(graph)) return false;
    const used = activeOperations(graph);
    if (used.count < leastNodes || used.count > mostNodes) return false;
    return required.every((name) => used.names.has(name)) && !forbidden.some((name) => used.names.has(name));
  };
}

/** An operation as constraints name it: `Max`, `std[wh]`. */
export function operationName({ op, axes }: Pick<GraphNode, "op" | "axes">): string {
  return axes === undefined ? op : `${op}[${axes}]`;
}

/** Active intermediate nodes, and their operations both by primitive and with index set. */
function activeOperations(graph: LayerGraph): { count: number; names: Set<string> } {
  const names = new Set<string>();
  let count = 0;
  for (const index of active(graph)) {
    if (index < initialNodes.length) continue;
    const node = graph.nodes[index - initialNodes.length]!;
    names.add(node.op).add(operationName(node));
    count++;
  }
  return { count, names };
}

function requireOperation(name: string): void {
  const known = [...new Set([...primitives, ...operations.map(operationName)])];
  if (known.includes(name)) return;
  throw new RangeError(
    `Cannot constrain graphs as an operation must be one of ${
      known.join(", ")
    }: current operation is "${name}"`,
  );
}
