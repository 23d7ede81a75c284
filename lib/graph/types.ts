/** The 12 element-wise primitives of the search space (EvoNorm, Table 2). */
export type Elementwise =
  | "Add"
  | "Mul"
  | "Div"
  | "Max"
  | "Neg"
  | "Sigmoid"
  | "Tanh"
  | "Exp"
  | "Log"
  | "Abs"
  | "Square"
  | "Sqrt";

/** The 3 moments: mean, root mean square, standard deviation (biased, epsilon inside the root). */
export type Aggregation = "mean" | "rms" | "std";

/** What a moment runs over: (b,w,h) batch, (w,h,c) layer, (w,h) instance, (w,h,c/g) group statistics. */
export type IndexSet = "bwh" | "whc" | "wh" | "whc/g";

/** One intermediate node: a primitive and the indices of its inputs, all of them earlier nodes. */
export interface GraphNode {
  /** The primitive's name. */
  readonly op: Elementwise | Aggregation;
  /** One or two indices below the node's own; for Div numerator, then denominator. */
  readonly inputs: readonly number[];
  /** Of moments only. */
  readonly axes?: IndexSet;
}

/**
 * A layer graph: indices 0 x, 1 zero, 2 v0, 3 v1 are the initial nodes, index 4 + k is `nodes[k]`, the last node
 * is the output z. The layer is `gamma * z + beta`. Nodes that the output does not reach are dead: they stay in
 * the genotype and out of every view.
 */
export interface LayerGraph {
  /** The intermediate nodes, the last one being the output. */
  readonly nodes: readonly GraphNode[];
}

/** Names of the initial nodes, by index: the input, the constant zero, two trainable vectors (start at 0 and at 1). */
export const initialNodes = ["x", "zero", "v0", "v1"] as const;

/** The element-wise primitives with two inputs. */
export const binaryPrimitives = ["Add", "Mul", "Div", "Max"] as const;

/** The element-wise primitives with one input. */
export const unaryPrimitives = ["Neg", "Sigmoid", "Tanh", "Exp", "Log", "Abs", "Square", "Sqrt"] as const;

/** The moments; each has one input and an index set. */
export const aggregations = ["mean", "rms", "std"] as const;

/** All 15 primitives by name. */
export const primitives: readonly (Elementwise | Aggregation)[] = [
  ...binaryPrimitives,
  ...unaryPrimitives,
  ...aggregations,
];

/** All index sets of the moments. */
export const indexSets: readonly IndexSet[] = ["bwh", "whc", "wh", "whc/g"];

const inputCounts: ReadonlyMap<string, number> = new Map(
  primitives.map((op) => [op, (binaryPrimitives as readonly string[]).includes(op) ? 2 : 1]),
);

/** How many inputs a primitive takes. */
export function arity(op: Elementwise | Aggregation): number {
  return inputCounts.get(op)!;
}

/** Whether a primitive is a moment, that is, whether its node carries an index set. */
export function isAggregation(op: string): op is Aggregation {
  return op === "mean" || op === "rms" || op === "std";
}
