/**
 * Random layers with their reference values in float64, and how far a float32 implementation may be from them.
 *
 * A random graph may amplify the last bit of an operation without bound, or sit on a jump. So each operation is also
 * evaluated with its result moved by a rounding error, a few times: where that moves an output by more than
 * `wellConditioned`, no value can be expected of an implementation, and elsewhere a multiple of that is its tolerance.
 */
import {
  arity,
  batchMoments,
  bufferStart,
  differentiate,
  evaluate,
  evaluateExtended,
  type ExtendedGraph,
  type ExtendedNode,
  forward,
  type GraphNode,
  type IndexSet,
  indexSets,
  initialNodes,
  isAggregation,
  layerDerivative,
  layerForward,
  type LayerGraph,
  type Mode,
  primitives,
  type PublishedLayer,
  statisticValues,
  usesX,
} from "../../lib/graph/mod.ts";
import type { Stream } from "../../lib/tensor/mod.ts";

/** A layer's graph and what follows the affine. */
export type Layer = Pick<PublishedLayer, "graph" | "post">;

/** Sizes of a case; the groups divide the channels. */
export interface CaseShape {
  readonly shape: readonly [number, number, number, number];
  readonly groups: number;
}

/** Shapes with remainders of every kind: of vectors, of blocks of channels, single pixels, uneven groups. */
export const oddShapes: readonly CaseShape[] = [
  { shape: [2, 5, 3, 10], groups: 5 },
  { shape: [1, 1, 1, 1], groups: 1 },
  { shape: [3, 2, 2, 7], groups: 7 },
  { shape: [2, 9, 9, 33], groups: 3 },
  { shape: [4, 4, 4, 8], groups: 4 },
];

/** A graph drawn as the search draws them, operation, index set and inputs uniform; again until it reads x. */
export function randomGraph(draws: Stream, size = 10): LayerGraph {
  for (;;) {
    const nodes: GraphNode[] = [];
    for (let at = 0; at < size; at++) {
      const op = primitives[draws.integers(1, primitives.length)[0]!]!;
      const axes: IndexSet = indexSets[draws.integers(1, indexSets.length)[0]!]!;
      const inputs = [...draws.integers(arity(op), initialNodes.length + at)];
      nodes.push(isAggregation(op) ? { op, inputs, axes } : { op, inputs } as GraphNode);
    }
    if (usesX({ nodes })) return { nodes };
  }
}

/** What a layer is given, float32: x and dy [N, H, W, C], the vectors [C] by name. */
export type LayerData = Readonly<Record<string, Float32Array>>;

/** Draws inputs of a layer. */
export function layerData(draws: Stream, { shape }: CaseShape): LayerData {
  const channels = shape[3], size = shape.reduce((product, length) => product * length, 1);
  return {
    x: draws.normal(size, 0.3, 1.2),
    dy: draws.normal(size),
    v0: draws.normal(channels, 0, 0.7),
    v1: draws.normal(channels, 1, 0.5),
    gamma: draws.normal(channels, 1, 0.3),
    beta: draws.normal(channels, 0, 0.3),
    tau: draws.normal(channels, 0, 0.3),
  };
}

/** Moving moments [C] by node, as they may be in the middle of a training. */
export function movingMoments(
  { graph }: Layer,
  draws: Stream,
  { shape }: CaseShape,
): Map<number, Float32Array> {
  return new Map(
    batchMoments(graph).map((node) => {
      const { op } = graph.nodes[node - initialNodes.length]!;
      return [
        node,
        op === "mean" ? draws.normal(shape[3], bufferStart(op), 0.5) : draws.uniform(shape[3], 0.5, 2),
      ];
    }),
  );
}

/** The reference of one output. */
export interface Expected {
  readonly values: Float64Array;
  /** Whether all values are finite in float32; null where rounding errors decide that. */
  readonly finite: boolean | null;
  /** The largest error allowed, relative to the largest magnitude; null where no value can be expected. */
  readonly tolerance: number | null;
}

/** How far rounding errors may move an output that is compared, relative to its largest magnitude. */
const wellConditioned = 1e-4;
/** Implementations order, fuse and approximate operations differently: their errors are a multiple of the tried ones. */
const FACTOR = 8, FLOOR = 1e-5;
const TRIALS = 3;
const epsilon = 1e-5;

/**
 * What a layer must compute: `y`, the gradients `dx`, `dv0`, `dv1`, `dgamma`, `dbeta`, `dtau`, and in training the raw
 * moments of the batch `moment<node>`.
 */
export function expected(
  layer: Layer,
  mode: Mode,
  data: LayerData,
  moving: ReadonlyMap<number, Float32Array>,
  options: CaseShape,
): Map<string, Expected> {
  const settings = { ...options, epsilon };
  const inputs = mode === "training"
    ? data
    : { ...data, ...statisticValues(layer.graph, moving, epsilon) } as Record<string, ArrayLike<number>>;
  const results = new Map<string, Expected>();
  const y = layerForward(layer, mode);
  results.set("y", judge(y, "y", inputs, settings));
  const gradients = layerDerivative(layer, mode);
  const noisy = Array.from({ length: TRIALS }, (_, trial) => rounded(gradients, inputs, settings, trial));
  const exact = evaluateExtended(gradients, inputs, settings);
  for (const name of gradientNames) {
    results.set(`d${name}`, compared(exact[name], noisy.map((outputs) => outputs[name]!)));
  }
  if (mode === "training") addMoments(results, layer.graph, inputs, settings);
  return results;
}

/** Every result of a layer's gradient, for which there is an upstream gradient `dd<name>`. */
const gradientNames = ["x", "v0", "v1", "gamma", "beta", "tau"] as const;

/** Draws an upstream gradient for each result of a layer's gradient. */
export function secondUpstream(draws: Stream, { shape }: CaseShape): LayerData {
  const size = shape.reduce((product, length) => product * length, 1);
  return Object.fromEntries(
    gradientNames.map((name) => [`dd${name}`, draws.child(name).normal(name === "x" ? size : shape[3])]),
  );
}

/** What the gradients of the gradients must be: to `x`, `dy` and the vectors, of the sum over results r of sum(r * ddr). */
export function expectedSecond(
  layer: Layer,
  mode: Mode,
  data: LayerData,
  moving: ReadonlyMap<number, Float32Array>,
  options: CaseShape,
): Map<string, Expected> {
  const settings = { ...options, epsilon };
  const inputs: Record<string, ArrayLike<number>> = {
    ...data,
    ...(mode === "inference" && statisticValues(layer.graph, moving, epsilon)),
  };
  const names = [...gradientNames, "dy"] as const;
  const graph = differentiate(layerDerivative(layer, mode), names);
  const noisy = Array.from({ length: TRIALS }, (_, trial) => rounded(graph, inputs, settings, trial));
  const exact = evaluateExtended(graph, inputs, settings);
  return new Map(names.map((name) => [name, compared(exact[name], noisy.map((outputs) => outputs[name]!))]));
}

type Settings = CaseShape & { readonly epsilon: number };

function addMoments(
  results: Map<string, Expected>,
  graph: LayerGraph,
  inputs: Readonly<Record<string, ArrayLike<number>>>,
  settings: Settings,
): void {
  const [x, v0, v1] = [inputs.x!, inputs.v0!, inputs.v1!];
  const { buffers } = evaluate(graph, { ...settings, x, v0, v1, decay: 0 });
  for (const [node, values] of buffers) {
    const upTo = forward({ nodes: graph.nodes.slice(0, node - initialNodes.length + 1) });
    const { op } = graph.nodes[node - initialNodes.length]!;
    const noisy = Array.from(
      { length: TRIALS },
      (_, trial) =>
        rounded(upTo, inputs, settings, trial).z!.slice(0, values.length).map((value) =>
          op === "mean" ? value : value * value - epsilon
        ),
    );
    results.set(`moment${node}`, compared(values, noisy));
  }
}

function judge(
  graph: ExtendedGraph,
  name: string,
  inputs: Readonly<Record<string, ArrayLike<number>>>,
  settings: Settings,
): Expected {
  const noisy = Array.from({ length: TRIALS }, (_, trial) => rounded(graph, inputs, settings, trial)[name]!);
  return compared(evaluateExtended(graph, inputs, settings)[name]!, noisy);
}

function compared(values: Float64Array, noisy: readonly Float64Array[]): Expected {
  const isFinite = (numbers: Float64Array) => numbers.every((value) => Number.isFinite(Math.fround(value)));
  const finite = isFinite(values);
  if (noisy.some((numbers) => isFinite(numbers) !== finite)) return { values, finite: null, tolerance: null };
  if (!finite) return { values, finite, tolerance: null };
  const error = Math.max(...noisy.map((numbers) => distance(numbers, values)));
  return { values, finite, tolerance: error < wellConditioned ? FACTOR * error + FLOOR : null };
}

/** The largest difference, relative to the largest reference magnitude; infinite where a number is not finite. */
export function distance(values: ArrayLike<number>, reference: Float64Array): number {
  let difference = 0, scale = 0;
  for (let index = 0; index < reference.length; index++) {
    const here = Math.abs(values[index]! - reference[index]!);
    if (!(here <= difference)) difference = Number.isNaN(here) ? Infinity : here;
    scale = Math.max(scale, Math.abs(reference[index]!));
  }
  return difference === 0 ? 0 : difference / (scale || 1);
}

/** Says what is wrong with an output, or nothing. */
export function mistake(measured: ArrayLike<number>, { values, finite, tolerance }: Expected): string | null {
  if (measured.length < values.length) return `${measured.length} numbers where ${values.length} are due`;
  const found = Array.prototype.every.call(measured, Number.isFinite);
  if (finite !== null && found !== finite) return `${found ? "finite" : "not finite"} where it must not be`;
  if (tolerance === null) return null;
  const error = distance(measured, values);
  return error <= tolerance
    ? null
    : `off by ${error.toExponential(2)} where ${tolerance.toExponential(2)} is allowed`;
}

const exactOperations: ReadonlySet<string> = new Set([
  "Constant",
  "Neg",
  "Abs",
  "Max",
  "Sign",
  "Pass",
  "Gate",
]);
const UNIT = 2 ** -23;

/**
 * The outputs in float32 with an error of up to one unit in the last place in every operation. The error is a function
 * of the value, so that numbers which are equal stay equal.
 */
function rounded(
  graph: ExtendedGraph,
  inputs: Readonly<Record<string, ArrayLike<number>>>,
  settings: Settings,
  trial: number,
): Record<string, Float64Array> {
  const { shape } = settings;
  const size = shape.reduce((product, length) => product * length, 1), channels = shape[3];
  const values = graph.inputs.map(({ name, shape: kind }) => {
    const given = kind === "zero" ? [0] : inputs[name]!;
    return Float64Array.from({ length: size }, (_, index) => given[index % given.length]!);
  });
  const names = ["a", "b", "c"];
  const apply = (node: ExtendedNode, operands: readonly Float64Array[]): Float64Array =>
    evaluateExtended(
      {
        inputs: operands.map((_, index) => ({ name: names[index]!, shape: "full" as const })),
        nodes: [{ ...node, inputs: operands.map((_, index) => index) }],
        outputs: { out: operands.length },
        order: 0,
      },
      Object.fromEntries(operands.map((operand, index) => [names[index]!, operand])),
      settings,
    ).out;
  for (const node of graph.nodes) {
    const operands = node.inputs.map((input) => values[input]!);
    const result = apply(node, operands);
    if (!exactOperations.has(node.op)) {
      // The error of a sum is relative to its terms, not to what is left of them; ln(|a| + eps) near 0 has that of the sum.
      const terms = node.op === "mean" || node.op === "sum"
        ? apply(node, [operands[0]!.map((value) => Math.abs(value))])
        : null;
      const rounding = node.op === "Log" ? 1 : 0;
      for (let index = 0; index < size; index++) {
        const value = result[index]!;
        const error = UNIT * sign(value, values.length, trial);
        const scale = terms === null ? Math.abs(value) + (value === 0 ? 0 : rounding) : terms[index]!;
        result[index] = value + error * scale;
      }
    }
    values.push(result.map(Math.fround));
  }
  const kinds = new Map(graph.inputs.map(({ name, shape: kind }) => [name, kind]));
  return Object.fromEntries(
    Object.entries<number>(graph.outputs).map(([name, at]) => [
      name,
      kinds.get(name) === "channel" ? values[at]!.slice(0, channels) : values[at]!,
    ]),
  );
}

const word = new Float32Array(1), bits = new Uint32Array(word.buffer);

/** 1 or -1, depending on nothing but what is given. */
function sign(value: number, node: number, trial: number): number {
  word[0] = value;
  let hash = Math.imul(
    bits[0]! ^ Math.imul(node + 1, 0x9e3779b1) ^ Math.imul(trial + 1, 0x85ebca77),
    0xc2b2ae3d,
  );
  hash = Math.imul(hash ^ (hash >>> 15), 0x27d4eb2f);
  return (hash ^ (hash >>> 13)) & 1 ? 1 : -1;
}
