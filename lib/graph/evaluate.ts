import {
  atFullShape,
  broadcast,
  channelSum,
  elementwise,
  finishMoment,
  rawMoment,
  type Setting,
  sizeOf,
  type Value,
} from "./_compute.ts";
import { full, perChannel, scalar } from "./_extent.ts";
import {
  type ExtendedGraph,
  type ExtendedInput,
  type ExtendedNode,
  type Mode,
  statisticName,
} from "./extended.ts";
import type { PublishedLayer } from "./published.ts";
import { active, batchMoments } from "./structure.ts";
import { type Aggregation, type GraphNode, initialNodes, isAggregation, type LayerGraph } from "./types.ts";

/** Numbers in, in C order. */
export type Numbers = ArrayLike<number>;

/** Shape and settings of an evaluation. */
export interface EvaluationOptions {
  /** x's shape [N, H, W, C]. */
  readonly shape: readonly [number, number, number, number];
  /** Groups of the index set whc/g; must divide C. Default 1. */
  readonly groups?: number;
  /** The epsilon of moments and of safe Div, Log, Sqrt; 0 < epsilon < 1. Default 1e-5. */
  readonly epsilon?: number;
}

/** What {@link evaluate} takes. */
export interface EvaluationInput extends EvaluationOptions {
  /** [N, H, W, C] */
  readonly x: Numbers;
  /** [C], default 0. */
  readonly v0?: Numbers;
  /** [C], default 1. */
  readonly v1?: Numbers;
  /** Default training. */
  readonly mode?: Mode;
  /** One moving statistic [C] per active (b,w,h) node, by node index. Default: the starting values. */
  readonly buffers?: ReadonlyMap<number, Numbers>;
  /** Weight of the old value in a moving statistic. Default 0.9. */
  readonly decay?: number;
}

/** What {@link evaluate} returns. */
export interface EvaluationResult {
  /** [N, H, W, C] */
  readonly z: Float64Array;
  /** The moving statistics after the step (in inference mode: as they were). */
  readonly buffers: ReadonlyMap<number, Float64Array>;
}

/**
 * The value at which the moving statistic of a moment starts: it tracks the mean (from 0), the mean of squares of
 * rms or the variance of std (from 1). The node's value in inference is the mean, or sqrt(statistic + epsilon).
 */
export function bufferStart(op: Aggregation): number {
  return op === "mean" ? 0 : 1;
}

/**
 * The graph's output z in float64: the reference for every other evaluation. Dead nodes are not computed.
 *
 * ```ts
 * import { evaluate, publishedLayer } from "@normlab/normlab/graph";
 *
 * const { graph } = publishedLayer("EvoNorm-S1");
 * const { z } = evaluate(graph, { x: [1, 2, 3, 4], shape: [1, 2, 2, 1] });
 * console.log(z.length); // 4
 * ```
 *
 * @throws TypeError if an array's length does not fit the shape, RangeError for bad sizes, groups or epsilon.
 */
export function evaluate(graph: LayerGraph, input: EvaluationInput): EvaluationResult {
  const setting = settingOf(input);
  const { mode = "training", decay = 0.9 } = input;
  const buffers = startingBuffers(graph, input.buffers, setting);
  const values: Value[] = [
    read("x", "full", input.x, setting),
    { extent: scalar, data: new Float64Array(1) },
    read("v0", "channel", input.v0 ?? new Float64Array(setting.channels), setting),
    read("v1", "channel", input.v1 ?? new Float64Array(setting.channels).fill(1), setting),
  ];
  for (const index of active(graph)) {
    const node = graph.nodes[index - initialNodes.length];
    if (node === undefined) continue;
    const inputs = node.inputs.map((at) => values[at]!);
    const buffer = buffers.get(index);
    values[index] = buffer === undefined
      ? apply(node, inputs, setting)
      : batchMoment(node.op as Aggregation, inputs[0]!, buffer, { mode, decay, setting });
  }
  return { z: atFullShape(values.at(-1)!, setting).slice(), buffers };
}

/** What {@link evaluateLayer} takes. */
export interface LayerInput extends EvaluationInput {
  /** [C], default 1. */
  readonly gamma?: Numbers;
  /** [C], default 0. */
  readonly beta?: Numbers;
  /** The threshold of the post graph [C], default 0. */
  readonly tau?: Numbers;
}

/**
 * A whole layer in float64: `y = post(gamma * z + beta)` [N, H, W, C], with z and the moving statistics. The
 * epsilon is the given one, else the layer's own, else 1e-5.
 *
 * @throws as {@link evaluate}
 */
export function evaluateLayer(
  layer: Pick<PublishedLayer, "graph" | "post" | "epsilon">,
  input: LayerInput,
): EvaluationResult & { readonly y: Float64Array } {
  const settled = { ...input, epsilon: input.epsilon ?? layer.epsilon ?? defaultEpsilon };
  const { channels, ...setting } = settingOf(settled);
  const vector = (name: string, values: Numbers | undefined, otherwise: number) =>
    read(name, "channel", values ?? new Float64Array(channels).fill(otherwise), { channels, ...setting })
      .data;
  const gamma = vector("gamma", input.gamma, 1),
    beta = vector("beta", input.beta, 0),
    tau = vector("tau", input.tau, 0);
  const { z, buffers } = evaluate(layer.graph, settled);
  const affine = z.map((value, i) => gamma[i % channels]! * value + beta[i % channels]!);
  if (layer.post === undefined) return { y: affine, z, buffers };
  const { buffers: _own, mode: _mode, ...rest } = settled;
  return { y: evaluate(layer.post, { ...rest, x: affine, v0: tau }).z, z, buffers };
}

/** A moment over the batch; in training mode it moves its buffer, in inference mode it is read from it. */
function batchMoment(
  op: Aggregation,
  input: Value,
  buffer: Float64Array,
  { mode, decay, setting }: { mode: Mode; decay: number; setting: Setting },
): Value {
  if (mode === "inference") return finishMoment(op, { extent: perChannel, data: buffer }, setting.epsilon);
  const raw = rawMoment(op, input, "bwh", setting);
  broadcast(raw, perChannel, setting).forEach((value, c) => {
    buffer[c] = decay * buffer[c]! + (1 - decay) * value;
  });
  return finishMoment(op, raw, setting.epsilon);
}

function startingBuffers(
  graph: LayerGraph,
  given: ReadonlyMap<number, Numbers> | undefined,
  setting: Setting,
): Map<number, Float64Array> {
  return new Map(
    batchMoments(graph).map((index) => {
      const { op } = graph.nodes[index - initialNodes.length]!;
      const buffer = given?.get(index);
      const data = buffer === undefined
        ? new Float64Array(setting.channels).fill(bufferStart(op as Aggregation))
        : Float64Array.from(read(`buffer ${index}`, "channel", buffer, setting).data);
      return [index, data];
    }),
  );
}

/**
 * All outputs of an extended graph in float64, by name: [C] for gradients of vectors, else [N, H, W, C].
 *
 * @throws TypeError if an input is missing or its length does not fit the shape.
 */
export function evaluateExtended<Output extends string>(
  graph: ExtendedGraph<Output>,
  inputs: Readonly<Record<string, Numbers>>,
  options: EvaluationOptions,
): Record<Output, Float64Array> {
  const setting = settingOf(options);
  const values = graph.inputs.map(({ name, shape }) => read(name, shape, inputs[name], setting));
  for (const node of graph.nodes) values.push(apply(node, node.inputs.map((at) => values[at]!), setting));
  const shapes = new Map(graph.inputs.map(({ name, shape }) => [name, shape]));
  const outputs = Object.entries<number>(graph.outputs).map(([name, index]) => {
    const extent = shapes.get(name) === "channel" ? perChannel : full;
    return [name, broadcast(values[index]!, extent, setting).slice()];
  });
  return Object.fromEntries(outputs);
}

/** Any node of either kind of graph, with moments taken from the values at hand. */
function apply(node: GraphNode | ExtendedNode, inputs: readonly Value[], setting: Setting): Value {
  if ("value" in node) return { extent: scalar, data: Float64Array.of(node.value!) };
  if (node.op === "sum") return channelSum(inputs[0]!, setting);
  if (!isAggregation(node.op)) return elementwise(node.op, inputs, setting);
  return finishMoment(node.op, rawMoment(node.op, inputs[0]!, node.axes!, setting), setting.epsilon);
}

/**
 * The `statistic<index>` inputs of an inference-mode graph from moving statistics [C] by node index: the mean
 * itself, or sqrt(statistic + epsilon).
 */
export function statisticValues(
  graph: LayerGraph,
  buffers: ReadonlyMap<number, Numbers>,
  epsilon: number = defaultEpsilon,
): Record<string, Float64Array> {
  return Object.fromEntries(
    batchMoments(graph).map((index) => {
      const buffer = buffers.get(index);
      if (buffer === undefined) {
        throw new TypeError(
          `Cannot read moving statistics as node ${index} must have one: current statistic is missing`,
        );
      }
      const { op } = graph.nodes[index - initialNodes.length]!;
      const raw = { extent: perChannel, data: Float64Array.from(buffer) };
      return [statisticName(index), finishMoment(op as Aggregation, raw, epsilon).data];
    }),
  );
}

const defaultEpsilon = 1e-5;

function settingOf({ shape, groups = 1, epsilon = defaultEpsilon }: EvaluationOptions): Setting {
  const [samples, height, width, channels] = shape;
  if (shape.length !== 4 || !shape.every((size) => Number.isInteger(size) && size > 0)) {
    throw new RangeError(
      `${refuse} 'shape' must be four positive integers [N, H, W, C]: current shape is [${shape}]`,
    );
  }
  if (!Number.isInteger(groups) || groups < 1 || channels % groups !== 0) {
    throw new RangeError(
      `${refuse} 'groups' must divide the ${channels} channels: current 'groups' is ${groups}`,
    );
  }
  if (!(epsilon > 0 && epsilon < 1)) {
    throw new RangeError(`${refuse} 'epsilon' must be between 0 and 1: current 'epsilon' is ${epsilon}`);
  }
  return { samples, places: height * width, channels, groups, epsilon };
}

const refuse = "Cannot evaluate the graph as";

function read(
  name: string,
  shape: ExtendedInput["shape"],
  values: Numbers | undefined,
  setting: Setting,
): Value {
  if (shape === "zero") return { extent: scalar, data: new Float64Array(1) };
  const extent = shape === "full" ? full : perChannel;
  const size = sizeOf(extent, setting);
  if (values?.length !== size) {
    throw new TypeError(
      `${refuse} '${name}' must have ${size} numbers (${shape === "full" ? "[N, H, W, C]" : "[C]"}): ` +
        `current '${name}' ${values === undefined ? "is missing" : `has ${values.length}`}`,
    );
  }
  return { extent, data: values instanceof Float64Array ? values : Float64Array.from(values) };
}
