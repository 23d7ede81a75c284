/** A layer graph as a trainable normalization-activation layer: y = post(gamma * graph(x) + beta). */
import * as tf from "@tensorflow/tfjs";
import {
  active,
  bufferStart,
  canonicalHash,
  type LayerGraph,
  type PublishedLayer,
  publishedLayer,
} from "../graph/mod.ts";
import { isRelu } from "../compile/mod.ts";
import { followAverage } from "../tensor/mod.ts";
import { compiledLayer, compiles } from "./_compiled.ts";
import { derivedLayer } from "./_derived.ts";
import { fusedBatchNorm } from "./_fused_batch_norm.ts";
import { interpretLayer } from "./_interpreted.ts";
import type { LayerOptions, LayerVectors } from "./_layer_inputs.ts";
import { relu } from "./_primitives.ts";
import { batchMomentNodes } from "./interpret.ts";
import type { Parameters } from "./parameters.ts";

/** A layer to build: the name of a published one, a graph, or a graph with a name, its post-affine part and its own epsilon. */
export type LayerSource = string | LayerGraph | PublishedLayer;

/** Settings shared by every normalization-activation layer of a model. */
export interface NormActivationOptions {
  /** Wanted number of channel groups; lowered by one until it divides the channels (official EvoNorm code). Default 32. */
  groups?: number;
  /** Weight of the old value in moving moments. Default 0.9. */
  decay?: number;
  /** Overrides the layer's epsilon (1e-5 unless published otherwise). */
  epsilon?: number;
  /**
   * `compiled`: forward and backward as one fused kernel each (wasm, webgpu) or as few blocked operations (tensorflow). `interpreted`:
   * operation by operation, the specification. Default compiled.
   */
  evaluation?: "compiled" | "interpreted";
}

/** The number of groups used for `channels`: `groups` lowered by one until it divides them. */
export function groupCount(channels: number, groups: number): number {
  let count = Math.min(groups, channels);
  while (channels % count !== 0) count--;
  return count;
}

/** Resolves a name or a bare graph to a layer with a name. */
export function resolveLayer(source: LayerSource): PublishedLayer {
  if (typeof source === "string") return publishedLayer(source);
  return "nodes" in source ? { name: canonicalHash(source), graph: source, source: "given graph" } : source;
}

const isBatchNorm = (graph: LayerGraph) =>
  canonicalHash(graph) === canonicalHash(publishedLayer("BN-ReLU").graph);

/**
 * A normalization-activation layer on the current backend.
 *
 * Parameters, each [c]: gamma (1), beta (0), v0 (0), v1 (1), of which v0 and v1 exist only if the graph reads them, and tau (0) if
 * the post-affine part does; one moving moment for each active batch statistic (mean 0; mean of squares and variance 1).
 */
export class NormActivation {
  readonly layer: PublishedLayer;
  readonly channels: number;
  readonly groups: number;
  readonly decay: number;
  readonly epsilon: number;
  readonly #gamma: tf.Variable;
  readonly #beta: tf.Variable;
  readonly #vectors: { v0: tf.Variable | null; v1: tf.Variable | null; tau: tf.Variable | null };
  readonly #moments = new Map<number, tf.Variable>();
  readonly #interpreted: boolean;
  readonly #batchNorm: boolean;

  constructor(
    source: LayerSource,
    channels: number,
    parameters: Parameters,
    options: NormActivationOptions = {},
  ) {
    this.layer = resolveLayer(source);
    this.channels = channels;
    this.groups = groupCount(channels, options.groups ?? 32);
    this.decay = options.decay ?? 0.9;
    this.epsilon = options.epsilon ?? this.layer.epsilon ?? 1e-5;
    const { graph, post } = this.layer;
    const vector = (name: string, value: number) => parameters.create(name, [channels], value, "norm");
    this.#gamma = vector("gamma", 1);
    this.#beta = vector("beta", 0);
    this.#vectors = {
      v0: reads(graph, 2) ? vector("v0", 0) : null,
      v1: reads(graph, 3) ? vector("v1", 1) : null,
      tau: post && reads(post, 2) ? vector("tau", 0) : null,
    };
    for (const { node, op } of batchMomentNodes(graph)) {
      const name = `moving_${op === "mean" ? "mean" : op === "rms" ? "mean_square" : "variance"}_${node}`;
      this.#moments.set(node, parameters.create(name, [channels], bufferStart(op), "statistic"));
    }
    this.#interpreted = options.evaluation === "interpreted";
    this.#batchNorm = isBatchNorm(graph) && (post === undefined || isRelu(post));
  }

  /**
   * y [n, h, w, c] from x [n, h, w, c]. In training, batch moments are measured and the moving ones follow them
   * (new = decay * old + (1 - decay) * batch, biased); in inference the moving ones are used.
   * @throws {TypeError} if x is not [n, h, w, channels]
   */
  apply(x: tf.Tensor4D, training: boolean): tf.Tensor4D {
    if (x.rank !== 4 || x.shape[3] !== this.channels) {
      throw new TypeError(
        `Cannot apply the layer ${this.layer.name} as 'x' must be [n, h, w, ${this.channels}]: current shape is [${x.shape}]`,
      );
    }
    return this.#fusedBatchNorm(x, training) ?? this.#evaluate(x, training);
  }

  #evaluate(x: tf.Tensor4D, training: boolean): tf.Tensor4D {
    const options: LayerOptions = {
      groups: this.groups,
      epsilon: this.epsilon,
      ...(training ? { onBatchMoment: (node, moment) => this.#follow(node, moment) } : {
        movingMoments: this.#moments as ReadonlyMap<number, tf.Tensor> as ReadonlyMap<number, tf.Tensor1D>,
      }),
    };
    const vectors: LayerVectors = Object.fromEntries(
      Object.entries({ ...this.#vectors, gamma: this.#gamma, beta: this.#beta }).filter(([, vector]) =>
        vector !== null
      ),
    );
    return evaluation(this.#interpreted)(this.layer, { x, vectors }, options);
  }

  /** Batch norm, with ReLU or without, as the tensorflow backend has it in one operation; null elsewhere. */
  #fusedBatchNorm(x: tf.Tensor4D, training: boolean): tf.Tensor4D | null {
    if (!training || !this.#batchNorm || this.#interpreted) return null;
    const fused = fusedBatchNorm(x, this.#gamma as tf.Tensor1D, this.#beta as tf.Tensor1D, this.epsilon);
    if (fused === null) return null;
    for (const { node, op } of batchMomentNodes(this.layer.graph)) {
      this.#follow(node, op === "mean" ? fused.mean : fused.variance);
    }
    return this.layer.post ? relu(fused.y) : fused.y;
  }

  #follow(node: number, moment: tf.Tensor1D): void {
    followAverage(this.#moments.get(node)!, moment, this.decay);
  }
}

/** How layers are evaluated on the backend in use. */
function evaluation(interpreted: boolean): typeof interpretLayer {
  if (interpreted) return interpretLayer;
  if (compiles()) return compiledLayer;
  return tf.getBackend() === "tensorflow" ? derivedLayer : interpretLayer;
}

/** Whether an intermediate node on a path to the output reads the initial node `index`. */
function reads(graph: LayerGraph, index: number): boolean {
  return active(graph).includes(index);
}
