import { active } from "./structure.ts";
import { type GraphNode, initialNodes, type LayerGraph } from "./types.ts";

/** Formulas repeat shared nodes, so a hostile graph of 40 nodes could ask for gigabytes: longer ones are cut. */
const maxLength = 10_000;

/** How tightly the outermost operator of a term binds. */
const sum = 1, quotient = 2, product = 3, power = 4, atom = 5;

interface Term {
  readonly text: string;
  readonly binding: number;
}

/** What plain text and LaTeX write differently. */
interface Style {
  readonly initial: readonly string[];
  readonly times: string;
  brackets(text: string): string;
  divide(a: Term, b: Term): Term;
  /** Everything but sums, products, quotients, negation and squares. */
  call(node: GraphNode, inputs: readonly Term[]): Term;
}

/**
 * The active graph as a person writes it, with as few parentheses as keep its structure readable. `log` and `sqrt`
 * are the safe, signed ones of the search space. Text beyond 10,000 characters is cut and ends with "...".
 *
 * ```ts
 * import { formula, publishedLayer } from "@normlab/normlab/graph";
 *
 * console.log(formula(publishedLayer("EvoNorm-S0").graph)); // x*sigmoid(v1*x) / std[whc/g](x)
 * ```
 */
export function formula(graph: LayerGraph): string {
  return write(graph, plain);
}

/** The active graph as LaTeX, with the paper's symbols: `\mu` a mean, `s^2` a variance, `\sigma` the sigmoid. */
export function latex(graph: LayerGraph): string {
  return write(graph, tex);
}

/** Writes every active node once, in order, from the terms of its inputs. */
function write(graph: LayerGraph, style: Style): string {
  const terms = new Map<number, Term>();
  const indices = active(graph);
  for (const index of indices) {
    const node = graph.nodes[index - initialNodes.length];
    const term = node === undefined
      ? { text: style.initial[index]!, binding: atom }
      : operation(node, node.inputs.map((input) => terms.get(input)!), style);
    terms.set(index, cut(term));
  }
  return terms.get(indices.at(-1)!)!.text;
}

function cut(term: Term): Term {
  return term.text.length > maxLength ? { text: `${term.text.slice(0, maxLength)}...`, binding: atom } : term;
}

function operation(node: GraphNode, inputs: readonly Term[], style: Style): Term {
  const [a, b] = inputs as [Term, Term];
  const wrap = (term: Term, least: number) => term.binding < least ? style.brackets(term.text) : term.text;
  const wrapMinus = (term: Term, least: number) =>
    term.text.startsWith("-") ? style.brackets(term.text) : wrap(term, least);
  switch (node.op) {
    case "Add":
      return add(a, b);
    case "Neg":
      // Binds as its operand does: -a*b is (-a)*b as well as -(a*b), to the last bit.
      return { text: `-${wrapMinus(a, quotient)}`, binding: Math.min(a.binding, product) };
    case "Mul":
      return { text: wrap(a, product) + style.times + wrapMinus(b, product), binding: product };
    case "Square":
      return { text: `${wrap(a, atom)}^2`, binding: power };
    case "Div":
      return style.divide(a, b);
    default:
      return style.call(node, inputs);
  }
}

/** a + b, or a difference where one side is negative. */
function add(a: Term, b: Term): Term {
  const minus = (left: Term, right: Term) => ({
    text: `${left.text} - ${right.text.slice(1)}`,
    binding: sum,
  });
  if (b.text.startsWith("-")) return minus(a, b);
  // A sum that begins with a minus negates its first term only.
  if (a.text.startsWith("-") && a.binding > sum) return minus(b, a);
  return { text: `${a.text} + ${b.text}`, binding: sum };
}

const plain: Style = {
  initial: ["x", "0", "v0", "v1"],
  times: "*",
  brackets: (text) => `(${text})`,
  divide: (a, b) => ({
    text: `${a.binding < quotient ? `(${a.text})` : a.text} / ${b.binding < power ? `(${b.text})` : b.text}`,
    binding: quotient,
  }),
  call: (node, inputs) => ({
    text: `${node.axes ? `${node.op}[${node.axes}]` : node.op.toLowerCase()}(${
      inputs.map((term) => term.text).join(", ")
    })`,
    binding: atom,
  }),
};

const texBrackets = (text: string) => `\\left(${text}\\right)`;

const tex: Style = {
  initial: ["x", "0", "v_0", "v_1"],
  times: " ",
  brackets: texBrackets,
  divide: (a, b) => ({ text: `\\frac{${a.text}}{${b.text}}`, binding: product }),
  call(node, inputs) {
    const [a] = inputs as [Term];
    const over = node.axes &&
      `{${node.axes === "bwh" ? "b,w,h" : node.axes.replace("wh", "w,h").replace("hc", "h,c")}}`;
    const applied = (name: string) => name + texBrackets(inputs.map((term) => term.text).join(", "));
    switch (node.op) {
      case "Exp":
        return { text: `e^{${a.text}}`, binding: power };
      case "Abs":
        return { text: `\\left|${a.text}\\right|`, binding: atom };
      case "Sqrt":
        return { text: `\\sqrt{${a.text}}`, binding: atom };
      case "Sigmoid":
        return { text: applied("\\sigma"), binding: atom };
      case "mean":
        return { text: applied(`\\mu_${over}`), binding: atom };
      case "rms": {
        const squared = a.binding < atom ? texBrackets(a.text) : a.text;
        return { text: `\\sqrt{\\mu_${over}${texBrackets(`${squared}^2`)}}`, binding: atom };
      }
      case "std":
        return { text: `\\sqrt{${applied(`s^2_${over}`)}}`, binding: atom };
      default:
        return { text: applied(`\\${node.op.toLowerCase()}`), binding: atom };
    }
  },
};
