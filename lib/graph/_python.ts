import { aggregate, channel, type Extent, full, perChannel, scalar } from "./_extent.ts";
import { active } from "./structure.ts";
import { type GraphNode, type IndexSet, initialNodes, isAggregation, type LayerGraph } from "./types.ts";

/** A Python expression: how tightly its outermost operator binds, and what is known of its tensor. */
export interface Expression {
  readonly text: string;
  readonly binding: number;
  /** Where its values differ; along the rest the tensor has size 1. */
  readonly extent: Extent;
  readonly sign: Sign;
}

/** `positive` is at least sqrt(epsilon) in any arithmetic, so that no division by it needs a clamp. */
type Sign = "positive" | "nonnegative" | "any";

const sum = 1, product = 2, negation = 3, atom = 4;

/** Expressions longer than this get a line and a name of their own, which also keeps hostile graphs linear in text. */
const longest = 56;

/** The helper functions a module needs, in the order in which they are written. */
export type Helper = "safe_div" | "safe_log" | "safe_sqrt" | "group_mean" | "group_var";

/** A moving statistic: a buffer [C] of the module. */
export interface MovingStatistic {
  readonly name: string;
  readonly start: "zeros" | "ones";
}

/** Writes the lines that compute a graph's active nodes, and gathers what they need around them. */
export class PythonWriter {
  readonly lines: string[] = [];
  readonly helpers = new Set<Helper>();
  readonly statistics: MovingStatistic[] = [];
  readonly #taken = new Set<string>();

  /** A tensor that is there already, by name. */
  given(name: string, extent: Extent): Expression {
    this.#taken.add(name);
    return { text: name, binding: atom, extent, sign: "any" };
  }

  /** Writes a line that gives an expression this name. */
  assign(name: string, value: Expression): Expression {
    this.lines.push(`${name} = ${value.text}`);
    return { ...value, text: name, binding: atom };
  }

  /** The output of a graph over the given initial nodes, after lines for all that it needs. */
  graph(graph: LayerGraph, initial: readonly Expression[]): Expression {
    const values = [...initial];
    const users = countUsers(graph);
    let output = initial[0]!;
    for (const index of active(graph)) {
      const node = graph.nodes[index - initialNodes.length];
      if (node === undefined) continue;
      const inputs = node.inputs.map((input) => values[input]!);
      output = isAggregation(node.op)
        ? this.#moment(node, inputs[0]!, index)
        : this.#named(node, this.operation(node, inputs), users[index]!);
      values[index] = output;
    }
    return output;
  }

  operation({ op }: Pick<GraphNode, "op">, inputs: readonly Expression[]): Expression {
    const [a, b = a] = inputs as [Expression, Expression?];
    const extent = a.extent | b.extent;
    const known = (text: string, binding: number, sign: Sign = "any") => ({ text, binding, extent, sign });
    const call = (name: string, sign: Sign = "any") =>
      known(`${name}(${inputs.map(({ text }) => text).join(", ")})`, atom, sign);
    switch (op) {
      case "Add":
        return b.text.startsWith("-") && b.binding > sum
          ? known(`${a.text} - ${b.text.slice(1)}`, sum)
          : known(`${a.text} + ${wrap(b, product)}`, sum, signOfSum(a, b));
      case "Neg":
        return known(`-${wrap(a, product)}`, Math.min(a.binding, negation));
      case "Mul":
        return known(`${wrap(a, product)} * ${wrap(b, negation)}`, product);
      case "Div":
        if (b.sign === "positive") return known(`${wrap(a, product)} / ${wrap(b, negation)}`, product);
        return this.#helped("safe_div", inputs, extent);
      case "Log":
        return this.#helped("safe_log", inputs, extent);
      case "Sqrt":
        return this.#helped("safe_sqrt", inputs, extent);
      case "Max":
        return call("torch.maximum", a.sign === "positive" || b.sign === "positive" ? "positive" : "any");
      default:
        return call(`torch.${op.toLowerCase()}`, op === "Tanh" ? "any" : "nonnegative");
    }
  }

  #helped(name: Helper, inputs: readonly Expression[], extent: Extent): Expression {
    this.helpers.add(name);
    const text = `${name}(${inputs.map((input) => input.text).join(", ")}, self.eps)`;
    return { text, binding: atom, extent, sign: "any" };
  }

  /** A line of its own for what is used twice or is long. */
  #named({ op }: GraphNode, value: Expression, users: number): Expression {
    return users > 1 || value.text.length > longest ? this.assign(this.#free(names[op]!), value) : value;
  }

  /** The lines of a moment. Over the batch it follows or reads a moving statistic, numbered as its node. */
  #moment({ op, axes }: GraphNode, a: Expression, index: number): Expression {
    const extent = aggregate(a.extent, axes!);
    const name = this.#free(`${op}_${axes!.replace("/", "_")}`);
    if (axes === "bwh") return this.#batchMoment(op, a, { name, index });
    const value = { text: this.#raw(op, a, axes!), binding: atom, extent, sign: "any" } as const;
    if (op === "mean") return this.assign(name, value);
    return this.assign(name, { ...value, text: `torch.sqrt(${value.text} + self.eps)`, sign: "positive" });
  }

  #batchMoment(op: string, a: Expression, { name, index }: { name: string; index: number }): Expression {
    const raw = rawNames[op]!;
    const buffer = `moving_${raw}_${index}`;
    this.statistics.push({ name: buffer, start: op === "mean" ? "zeros" : "ones" });
    const measured = op === "mean" ? name : this.#free(`${raw}_bwh`);
    // What is one number for all channels gets its place in each, as its statistic has.
    const spread = (a.extent & channel) === 0 ? ".expand(1, x.shape[1], 1, 1)" : "";
    this.lines.push(
      "if self.training:",
      `    ${measured} = ${this.#raw(op, a, "bwh")}${spread}`,
      `    self.follow(self.${buffer}, ${measured})`,
      "else:",
      `    ${measured} = self.${buffer}.view(1, -1, 1, 1)`,
    );
    const value = { text: measured, binding: atom, extent: perChannel, sign: "any" } as const;
    if (op === "mean") return value;
    return this.assign(name, { ...value, text: `torch.sqrt(${measured} + self.eps)`, sign: "positive" });
  }

  /** The mean of a, of its square, or its biased variance, kept at size 1 along what it runs over. */
  #raw(op: string, a: Expression, axes: IndexSet): string {
    const text = op === "rms" ? `torch.square(${a.text})` : a.text;
    // A tensor of one channel for all has no groups to part.
    if (axes === "whc/g" && (a.extent & channel) !== 0) {
      const helper = op === "std" ? "group_var" : "group_mean";
      this.helpers.add(helper);
      return `${helper}(${text}, self.groups)`;
    }
    const over = `dim=${dimensions[axes]}, keepdim=True`;
    return op === "std" ? `torch.var(${text}, ${over}, unbiased=False)` : `torch.mean(${text}, ${over})`;
  }

  #free(wanted: string): string {
    let name = wanted;
    for (let k = 2; this.#taken.has(name); k++) name = `${wanted}_${k}`;
    this.#taken.add(name);
    return name;
  }
}

/** Broadcasts to x's shape what does not vary along all of it. */
export function atFullShape(value: Expression): string {
  return value.extent === full ? value.text : `${wrap(value, atom)}.expand_as(x)`;
}

export const extents = { full, perChannel, scalar } as const;

const dimensions: Readonly<Record<IndexSet, string>> = {
  "bwh": "(0, 2, 3)",
  "whc": "(1, 2, 3)",
  "wh": "(2, 3)",
  "whc/g": "(2, 3)",
};

const rawNames: Readonly<Record<string, string>> = { mean: "mean", rms: "mean_square", std: "variance" };

const names: Readonly<Record<string, string>> = {
  Add: "total",
  Mul: "product",
  Div: "quotient",
  Max: "maximum",
  Neg: "negative",
  Sigmoid: "sigmoid",
  Tanh: "tanh",
  Exp: "exponential",
  Log: "logarithm",
  Abs: "magnitude",
  Square: "square",
  Sqrt: "root",
};

function wrap({ text, binding }: Expression, least: number): string {
  return binding < least ? `(${text})` : text;
}

function signOfSum(a: Expression, b: Expression): Sign {
  if (a.sign === "any" || b.sign === "any") return "any";
  return a.sign === "positive" || b.sign === "positive" ? "positive" : "nonnegative";
}

/** How many active nodes read each node, by index. */
function countUsers(graph: LayerGraph): number[] {
  const users = new Array<number>(initialNodes.length + graph.nodes.length).fill(0);
  for (const index of active(graph)) {
    for (const input of graph.nodes[index - initialNodes.length]?.inputs ?? []) users[input]!++;
  }
  return users;
}
