import { aggregate, type Extent, full, perChannel, scalar } from "./_extent.ts";
import type { ExtendedGraph, ExtendedInput, ExtendedNode, ExtendedOp } from "./extended.ts";
import type { IndexSet } from "./types.ts";

/** Grows an extended graph: equal nodes are made once, and each node's extent is known as it is made. */
export class Builder {
  readonly inputs: readonly ExtendedInput[];
  readonly nodes: ExtendedNode[] = [];
  readonly #extents: Extent[];
  readonly #made = new Map<string, number>();

  constructor(inputs: readonly ExtendedInput[]) {
    this.inputs = inputs;
    this.#extents = inputs.map(({ shape }) =>
      shape === "full" ? full : shape === "channel" ? perChannel : scalar
    );
  }

  /** The index of a named input. */
  inputIndex(name: string): number {
    return this.inputs.findIndex((input) => input.name === name);
  }

  /** The node at an index, or undefined for an input. */
  node(index: number): ExtendedNode | undefined {
    return this.nodes[index - this.inputs.length];
  }

  /** The index of a node: an equal one if there is one (arguments of Add, Mul, Max in any order), else a new one. */
  add(op: ExtendedOp, inputs: readonly number[], axes?: IndexSet): number {
    return this.#make({ op, inputs, ...(axes !== undefined && { axes }) });
  }

  constant(value: number): number {
    return this.#make({ op: "Constant", inputs: [], value });
  }

  /**
   * The mean over an index set, with factors that are constant on it taken out: moments are then over as few
   * full tensors as possible, and what is left is arithmetic on statistics.
   */
  mean(index: number, axes: IndexSet): number {
    if (this.#constantOn(index, axes)) return index;
    const node = this.node(index);
    const [a, b] = node?.inputs ?? [];
    switch (node?.op) {
      case "Neg":
        return this.add("Neg", [this.mean(a!, axes)]);
      case "Mul":
        if (this.#constantOn(a!, axes)) return this.add("Mul", [a!, this.mean(b!, axes)]);
        if (this.#constantOn(b!, axes)) return this.add("Mul", [b!, this.mean(a!, axes)]);
        break;
      case "Div":
        if (this.#constantOn(b!, axes)) return this.add("Div", [this.mean(a!, axes), b!]);
        break;
    }
    return this.add("mean", [index], axes);
  }

  /** The graph with these outputs, without what they do not need. */
  finish<Output extends string>(outputs: Record<Output, number>, order: number): ExtendedGraph<Output> {
    const first = this.inputs.length;
    const needed = new Uint8Array(first + this.nodes.length);
    for (const index of Object.values<number>(outputs)) needed[index] = 1;
    for (let index = needed.length - 1; index >= first; index--) {
      if (needed[index]) { for (const input of this.node(index)!.inputs) needed[input] = 1; }
    }
    const at = this.inputs.map((_, index) => index);
    const nodes: ExtendedNode[] = [];
    this.nodes.forEach((node, k) => {
      if (!needed[first + k]) return;
      at[first + k] = first + nodes.length;
      nodes.push({ ...node, inputs: node.inputs.map((input) => at[input]!) });
    });
    const renamed = Object.entries<number>(outputs).map(([name, index]) => [name, at[index]!]);
    return { inputs: this.inputs, nodes, outputs: Object.fromEntries(renamed), order };
  }

  #constantOn(index: number, axes: IndexSet): boolean {
    const extent = this.#extents[index]!;
    return aggregate(extent, axes) === extent;
  }

  #make(node: ExtendedNode): number {
    const { op, inputs } = node;
    const unordered = op === "Add" || op === "Mul" || op === "Max";
    const named = unordered ? [...inputs].sort((a, b) => a - b) : inputs;
    const key = `${op} ${node.axes ?? node.value ?? ""} ${named}`;
    const known = this.#made.get(key);
    if (known !== undefined) return known;
    const joined = inputs.reduce((extent, input) => extent | this.#extents[input]!, scalar);
    const index = this.inputs.length + this.nodes.length;
    this.nodes.push(node);
    this.#extents.push(node.axes ? aggregate(joined, node.axes) : op === "sum" ? perChannel : joined);
    this.#made.set(key, index);
    return index;
  }
}
