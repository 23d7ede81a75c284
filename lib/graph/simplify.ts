import { active } from "./structure.ts";
import {
  type GraphNode,
  indexSets,
  initialNodes,
  isAggregation,
  type LayerGraph,
  primitives,
} from "./types.ts";

const zero = 1;
const firstNode = initialNodes.length;

/**
 * The graph without dead nodes, with equal nodes merged and cheap algebraic rules applied. Every rule is exact: the
 * same value at every input, non-finite ones included, the same first derivative, ties and kinks included, and the
 * same moving statistics. Two things may still move: second derivatives on a kink (Abs(Square(a)) counts as flat at
 * a = 0), and the last bit of a moment whose argument has become constant along a dimension (it is summed over fewer
 * numbers).
 *
 * An initial node as a result is written Max(a, a), as a graph ends in a node.
 */
export function simplify(graph: LayerGraph): LayerGraph {
  const rewriter = new Rewriter();
  const at: number[] = initialNodes.map((_, index) => index);
  for (const index of active(graph)) {
    const node = graph.nodes[index - firstNode];
    if (node !== undefined) {
      at[index] = rewriter.make(
        node.op,
        node.inputs.map((input) => at[input]!),
        node.axes,
      );
    }
  }
  return rewriter.finish(at.at(-1)!);
}

/**
 * One form for all writings of a graph that differ in dead nodes, in node order, in the argument order of Add, Mul,
 * Max, in repeated subexpressions, or by a rule of {@link simplify}.
 */
export function canonical(graph: LayerGraph): LayerGraph {
  const { nodes } = simplify(graph);
  const keys: SortKey[] = initialNodes.map((_, index) => ({ height: 0, digest: index }));
  for (const node of nodes) keys.push(sortKey(node, node.inputs.map((input) => keys[input]!)));

  // Inputs are lower than their users and every node is an ancestor of the output, so this is a topological order
  // that ends with the output.
  const order = nodes.map((_, k) => firstNode + k).sort((a, b) =>
    keys[a]!.height - keys[b]!.height || keys[a]!.digest - keys[b]!.digest
  );
  const at = initialNodes.map((_, index): number => index);
  order.forEach((index, k) => at[index] = firstNode + k);
  return {
    nodes: order.map((index) => {
      const node = nodes[index - firstNode]!;
      const inputs = node.inputs.map((input) => at[input]!);
      return { ...node, inputs: unordered(node.op) ? inputs.sort((a, b) => a - b) : inputs };
    }),
  };
}

/** The place of a node in canonical order: it depends on what the node computes, not on where it stands. */
interface SortKey {
  readonly height: number;
  readonly digest: number;
}

function sortKey(node: GraphNode, inputs: readonly SortKey[]): SortKey {
  const digests = inputs.map((input) => input.digest);
  if (unordered(node.op)) digests.sort((a, b) => a - b);
  const kind = primitives.indexOf(node.op) * 8 + (node.axes ? indexSets.indexOf(node.axes) : 7);
  return { height: 1 + Math.max(...inputs.map((input) => input.height)), digest: digest([kind, ...digests]) };
}

/** A 53-bit hash of integers below 2^53 (two 32-bit multiply-xorshift lanes with different constants). */
function digest(words: readonly number[]): number {
  let low = 0x811c9dc5, high = 0x9e3779b9;
  for (const word of words) {
    for (const half of [word >>> 0, Math.floor(word / 2 ** 32)]) {
      low = Math.imul(low ^ half, 0x85ebca6b);
      low ^= low >>> 13;
      high = Math.imul(high ^ half, 0xc2b2ae35);
      high ^= high >>> 16;
    }
  }
  return (high >>> 11) * 2 ** 32 + (low >>> 0);
}

function unordered(op: GraphNode["op"]): boolean {
  return op === "Add" || op === "Mul" || op === "Max";
}

/** Makes nodes bottom-up, each simplified over inputs that already are; equal nodes are made once. */
class Rewriter {
  readonly #nodes: GraphNode[] = [];
  readonly #made = new Map<string, number>();
  /** By index, whether a node is finite by its form. */
  readonly #finite: boolean[] = initialNodes.map(() => true);

  make(op: GraphNode["op"], inputs: readonly number[], axes?: GraphNode["axes"]): number {
    return this.#rule(op, inputs) ?? this.#intern({ op, inputs, ...(axes !== undefined && { axes }) });
  }

  /** The graph that ends in this node. */
  finish(output: number): LayerGraph {
    if (output < firstNode) return { nodes: [{ op: "Max", inputs: [output, output] }] };
    // What the output does not need was made after it, or lost its users to a rule.
    const whole = { nodes: this.#nodes.slice(0, output - firstNode + 1) };
    const kept = active(whole).filter((index) => index >= firstNode);
    const at = initialNodes.map((_, index): number => index);
    kept.forEach((index, k) => at[index] = firstNode + k);
    return {
      nodes: kept.map((index) => {
        const node = whole.nodes[index - firstNode]!;
        return { ...node, inputs: node.inputs.map((input) => at[input]!) };
      }),
    };
  }

  /** The index of a simpler equal of op(inputs), if a rule has one. */
  #rule(op: GraphNode["op"], inputs: readonly number[]): number | undefined {
    const [a, b] = inputs as [number, number];
    switch (op) {
      case "Neg":
        if (a === zero) return zero; // -0: no primitive tells it from 0
        return this.#argument("Neg", a); // -(-a): a sign flipped twice
      case "Abs": {
        if (a === zero || this.#nonNegative(a)) return a;
        const negated = this.#argument("Neg", a); // |-a|: the slope is sgn(-a) * -1 = sgn(a)
        return negated === undefined ? undefined : this.make("Abs", [negated]);
      }
      case "Square": {
        if (a === zero) return zero;
        const inner = this.#argument("Neg", a) ?? this.#argument("Abs", a); // signs vanish; slope 2|a| sgn(a) = 2a
        return inner === undefined ? undefined : this.make("Square", [inner]);
      }
      case "Tanh":
      case "Log":
      case "Sqrt":
      case "mean":
        // 0 at 0, Log and Sqrt by convention; the moving mean starts at 0 and stays.
        return a === zero ? zero : undefined;
      case "Add":
        if (a === zero) return b; // 0 + b keeps NaN and infinities
        if (b === zero) return a;
        // a - a is NaN where a is not finite, hence the condition; the gradients cancel.
        return this.#opposite(a, b) && this.#isFinite(a) ? zero : undefined;
      case "Mul":
        return this.#ruleOfMul(a, b);
      case "Div":
        // 0 over anything but NaN, the clamp included. (a / -b is not -(a / b): the clamp takes 0 as positive.)
        return a === zero && this.#isFinite(b) ? zero : undefined;
      case "Max":
        if (a === b) return a; // two halves of the gradient
        if (this.#opposite(a, b)) return this.make("Abs", [this.#argument("Neg", a) ?? a]); // halves cancel at 0
        if (a === zero && this.#nonNegative(b)) return b;
        return b === zero && this.#nonNegative(a) ? a : undefined;
      default:
        return undefined; // Exp, Sigmoid, rms, std have no simpler form: not even of zero, as there is no constant
    }
  }

  #ruleOfMul(a: number, b: number): number | undefined {
    // 0 times infinity is NaN, hence the condition.
    if ((a === zero && this.#isFinite(b)) || (b === zero && this.#isFinite(a))) return zero;
    if (a === b) return this.make("Square", [a]); // a*a; the slope a + a = 2a
    const c = this.#argument("Neg", a), d = this.#argument("Neg", b);
    return c === undefined || d === undefined ? undefined : this.make("Mul", [c, d]); // two signs
  }

  #intern(node: GraphNode): number {
    const inputs = unordered(node.op) ? [...node.inputs].sort((a, b) => a - b) : node.inputs;
    const key = `${node.op} ${node.axes ?? ""} ${inputs}`;
    const known = this.#made.get(key);
    if (known !== undefined) return known;
    const index = firstNode + this.#nodes.push(node) - 1;
    this.#made.set(key, index);
    this.#finite.push(keepsFinite(node.op) && node.inputs.every((input) => this.#isFinite(input)));
    return index;
  }

  #node(index: number): GraphNode | undefined {
    return this.#nodes[index - firstNode];
  }

  /** The argument of a unary node if it is an `op`. */
  #argument(op: "Neg" | "Abs", index: number): number | undefined {
    const node = this.#node(index);
    return node?.op === op ? node.inputs[0] : undefined;
  }

  #opposite(a: number, b: number): boolean {
    return this.#argument("Neg", a) === b || this.#argument("Neg", b) === a;
  }

  /**
   * Never below 0, and flat wherever it is 0: then Abs and Max with zero change neither value nor slope. (Max(a, 0)
   * is not flat at a = 0. Exp and Sigmoid reach 0 by underflow only, where their slopes are 0 too.)
   */
  #nonNegative(index: number): boolean {
    const op = this.#node(index)?.op;
    return op === "Abs" || op === "Square" || op === "Exp" || op === "Sigmoid" || op === "rms" ||
      op === "std";
  }

  #isFinite(index: number): boolean {
    return this.#finite[index]!;
  }
}

/** Finite wherever its inputs are, as x, v0, v1 count as finite. Sums, products and moments may overflow. */
function keepsFinite(op: GraphNode["op"]): boolean {
  return !isAggregation(op) && !["Add", "Mul", "Div", "Exp", "Square"].includes(op);
}
