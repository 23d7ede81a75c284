import { type Condition, probes } from "./_probes.ts";
import { evaluate } from "./evaluate.ts";
import { canonicalHash, functionalHash } from "./hash.ts";
import type { PublishedLayer } from "./published.ts";
import { simplify } from "./simplify.ts";
import { active } from "./structure.ts";
import { initialNodes, type LayerGraph } from "./types.ts";

/** The largest difference of two outputs, and the largest magnitude in either. NaN where either is not finite. */
export interface Difference {
  readonly largest: number;
  readonly scale: number;
}

/** What {@link compareGraphs} finds. */
export interface Comparison {
  /** Whether the canonical forms are one: then all else is equal too. */
  readonly sameForm: boolean;
  /** Whether z is the same in training mode, to the resolution of {@link functionalHash}. */
  readonly sameFunction: boolean;
  /** Of z on the probe inputs, in training mode. */
  readonly training: Difference;
  /** Of z in inference mode after one training step: here the moving statistics of the two count. */
  readonly inference: Difference;
}

/**
 * Compares what two graphs compute, z [2, 4, 4, 8] on the three probe inputs of {@link functionalHash}.
 *
 * ```ts
 * import { compareGraphs, publishedLayer } from "@normlab/normlab/graph";
 *
 * const [a, b] = ["EvoNorm-S0", "EvoNorm-S1"].map((name) => publishedLayer(name).graph);
 * console.log(compareGraphs(a!, b!).sameFunction); // false
 * ```
 */
export function compareGraphs(a: LayerGraph, b: LayerGraph): Comparison {
  const sameForm = canonicalHash(a) === canonicalHash(b);
  return {
    sameForm,
    sameFunction: sameForm || functionalHash(a) === functionalHash(b),
    training: difference(outputs(a), outputs(b)),
    inference: difference(outputs(a, "always", "inference"), outputs(b, "always", "inference")),
  };
}

/** A layer with a name: a published one, or one that was found. */
export type NamedLayer = Omit<PublishedLayer, "source"> & Partial<Pick<PublishedLayer, "source">>;

/** One way in which a layer equals another: `z = scale * other + shift`, in training mode. */
export interface Equivalence {
  /** The other layer's name. */
  readonly name: string;
  /**
   * What of the other it is: all of it; its normalization, without what follows the affine; or both in a row, as
   * before an affine that is still the identity.
   */
  readonly part: "layer" | "normalization" | "normalization and activation";
  /** When: `at the start` is v0 = 0 and v1 = 1; the others speak of the batch and of the groups. */
  readonly condition: Condition;
  /** A factor, which gamma can take in. */
  readonly scale: number;
  /** An offset, which beta can take in. */
  readonly shift: number;
  /** Where the other layer has another epsilon. */
  readonly epsilon?: number;
}

/** What {@link simplification} finds. */
export interface Simplification {
  /** The graph by the rules of {@link simplify}. */
  readonly simplified: LayerGraph;
  /** Intermediate nodes: of the genotype, those that reach its output, and what is left of them. */
  readonly nodes: { readonly genotype: number; readonly active: number; readonly simplified: number };
  /** Which of the other layers it equals, and when: always, or else under each condition. */
  readonly equivalences: readonly Equivalence[];
}

/**
 * What a found layer is: its simpler form, and which of the given layers it equals on the probe inputs of
 * {@link functionalHash}, within 2^-30 of the largest magnitude, up to a factor and an offset, always or under a named
 * condition. What equals always is not listed under conditions again. All are compared at one epsilon; where another
 * layer's own is not the one given here (default 1e-5), the equivalence says so.
 *
 * ```ts
 * import { describeEquivalence, publishedLayer, simplification } from "@normlab/normlab/graph";
 *
 * const { graph } = publishedLayer("EvoNorm-S0");
 * const [first] = simplification(graph, [publishedLayer("EvoNorm-S1")]).equivalences;
 * console.log(describeEquivalence(first!)); // EvoNorm-S1 at the start (v0 = 0, v1 = 1)
 * ```
 */
export function simplification(
  graph: LayerGraph,
  others: readonly NamedLayer[],
  epsilon: number = defaultEpsilon,
): Simplification {
  const simplified = simplify(graph);
  const intermediate = (one: LayerGraph) =>
    active(one).filter((index) => index >= initialNodes.length).length;
  const own = new Computed(simplified);
  const equivalences = others.flatMap((other) =>
    partsOf(other).flatMap(({ part, computed }) => {
      const about = {
        name: other.name,
        part,
        ...((other.epsilon ?? defaultEpsilon) !== epsilon && { epsilon: other.epsilon ?? defaultEpsilon }),
      };
      const always = own.hash === computed.hash
        ? { scale: 1, shift: 0 }
        : affine(own.outputs("always"), computed.outputs("always"));
      if (always !== undefined) return [{ ...about, condition: "always" as const, ...always }];
      return conditions.flatMap((condition): Equivalence[] => {
        const fit = affine(own.outputs(condition), computed.outputs(condition));
        return fit === undefined ? [] : [{ ...about, condition, ...fit }];
      });
    })
  );
  return {
    simplified,
    nodes: {
      genotype: graph.nodes.length,
      active: intermediate(graph),
      simplified: intermediate(simplified),
    },
    equivalences,
  };
}

/** An equivalence in words: `2 * EvoNorm-S1 at the start (v0 = 0, v1 = 1)`. */
export function describeEquivalence(
  { name, part, condition, scale, shift, epsilon }: Equivalence,
): string {
  const number = (value: number) => String(Number(value.toPrecision(6)));
  const whole = part === "normalization"
    ? `${name} without its activation`
    : part === "layer"
    ? name
    : `${name} where gamma = 1 and beta = 0`;
  return (scale === 1 ? "" : `${number(scale)} * `) + whole +
    (shift === 0 ? "" : shift > 0 ? ` + ${number(shift)}` : ` - ${number(-shift)}`) +
    (epsilon === undefined ? "" : ` but for its epsilon of ${epsilon}`) + words[condition];
}

const defaultEpsilon = 1e-5;

const conditions: readonly Condition[] = ["at the start", "one sample", "one group", "one channel per group"];

const words: Readonly<Record<Condition, string>> = {
  "always": "",
  "at the start": " at the start (v0 = 0, v1 = 1)",
  "one sample": " for batches of one sample",
  "one group": " where there is one group",
  "one channel per group": " where each channel is a group",
};

/** What a graph computes, each thing once. */
class Computed {
  readonly #graph: LayerGraph;
  readonly #outputs = new Map<Condition, Output>();
  #hash: string | undefined;

  constructor(graph: LayerGraph) {
    this.#graph = graph;
  }

  get hash(): string {
    return this.#hash ??= functionalHash(this.#graph);
  }

  outputs(condition: Condition): Output {
    const known = this.#outputs.get(condition) ?? summary(outputs(this.#graph, condition));
    this.#outputs.set(condition, known);
    return known;
  }
}

interface Part {
  readonly part: Equivalence["part"];
  readonly computed: Computed;
}

const knownParts = new WeakMap<NamedLayer, readonly Part[]>();

/** A layer's graphs to compare with: the whole, or what comes before the affine and the two in a row. */
function partsOf(layer: NamedLayer): readonly Part[] {
  const parts = knownParts.get(layer) ?? makeParts(layer);
  knownParts.set(layer, parts);
  return parts;
}

function makeParts({ graph, post }: NamedLayer): readonly Part[] {
  const computed = new Computed(graph);
  if (post === undefined) return [{ part: "layer", computed }];
  const row = inARow(graph, post);
  return [
    { part: "normalization", computed },
    ...(row === undefined
      ? []
      : [{ part: "normalization and activation", computed: new Computed(row) } as const]),
  ];
}

/** Post after graph, with nothing in between; undefined where both read a v0, as the second is tau. */
function inARow(graph: LayerGraph, post: LayerGraph): LayerGraph | undefined {
  const v0 = 2;
  if (active(graph).includes(v0) && active(post).includes(v0)) return undefined;
  const first = initialNodes.length, output = first + graph.nodes.length - 1;
  const at = (index: number) => index === 0 ? output : index < first ? index : index + graph.nodes.length;
  return {
    nodes: [...graph.nodes, ...post.nodes.map((node) => ({ ...node, inputs: node.inputs.map(at) }))],
  };
}

/** z on all probe inputs, in one row. In inference mode the moving statistics come from one step on the same inputs. */
function outputs(
  graph: LayerGraph,
  condition: Condition = "always",
  mode: "training" | "inference" = "training",
): Float64Array {
  const all = probes(condition).map((probe) => {
    const { z, buffers } = evaluate(graph, probe);
    return mode === "training" ? z : evaluate(graph, { ...probe, buffers, mode }).z;
  });
  return Float64Array.from(all.flatMap((z) => Array.from(z)));
}

function difference(a: Float64Array, b: Float64Array): Difference {
  let largest = 0;
  for (let i = 0; i < a.length; i++) largest = Math.max(largest, Math.abs(a[i]! - b[i]!));
  const scale = Math.max(magnitude(a), magnitude(b));
  return Number.isFinite(scale) ? { largest, scale } : { largest: NaN, scale: NaN };
}

/** The same step as the functional hash's. */
const resolution = 2 ** -30;

/** Outputs on all probe inputs, with what every comparison asks of them. */
interface Output {
  readonly values: Float64Array;
  readonly mean: number;
  readonly magnitude: number;
  /** Finite, and no constant. */
  readonly comparable: boolean;
}

function summary(values: Float64Array): Output {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const largest = magnitude(values);
  const varies = values.some((value) => Math.abs(value - mean) > resolution * largest);
  return { values, mean, magnitude: largest, comparable: Number.isFinite(largest) && varies };
}

/** Scale and shift with a = scale * b + shift within the resolution; undefined where there are none. */
function affine(a: Output, b: Output): { scale: number; shift: number } | undefined {
  if (!a.comparable || !b.comparable) return undefined;
  const allowed = resolution * a.magnitude;
  const fits = (scale: number, shift: number) =>
    a.values.every((value, i) => Math.abs(value - (scale * b.values[i]! + shift)) <= allowed);
  if (fits(1, 0)) return { scale: 1, shift: 0 };
  let products = 0, squares = 0;
  for (let i = 0; i < a.values.length; i++) {
    products += (a.values[i]! - a.mean) * (b.values[i]! - b.mean);
    squares += (b.values[i]! - b.mean) ** 2;
  }
  // Rounded well below the resolution, so that 2 is not 1.9999999999999998, nor 0 a rest of 1e-17.
  const scale = Number((products / squares).toPrecision(12));
  const rest = a.mean - scale * b.mean;
  const shift = Math.abs(rest) < allowed ? 0 : Number(rest.toPrecision(12));
  return scale !== 0 && fits(scale, shift) ? { scale, shift } : undefined;
}

function magnitude(values: Float64Array): number {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}
