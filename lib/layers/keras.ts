/** A layer graph inside a Keras-style `tf.layers` model. */
import * as tf from "@tensorflow/tfjs";
import { Buffer } from "node:buffer";
import { validate } from "../graph/mod.ts";
import { type LayerSource, NormActivation, resolveLayer } from "./norm_activation.ts";
import { type Parameter, Parameters } from "./parameters.ts";

/** Configuration of {@linkcode NormActivationLayer}; everything but `layer` is optional. */
export interface NormActivationConfig {
  /** A published layer's name, a graph, or a named graph with a post-affine part. */
  layer: LayerSource;
  /** Wanted number of channel groups, default 32. */
  groups?: number;
  /** Weight of the old value in moving moments, default 0.9. */
  decay?: number;
  /** Overrides the layer's epsilon. */
  epsilon?: number;
  /** Name of the layer within the model. */
  name?: string;
}

/** {@linkcode NormActivation} as a `tf.layers` layer: trainable with `model.fit`, saved and loaded with the model. */
export class NormActivationLayer extends tf.layers.Layer {
  static className = "NormActivation";
  readonly #config: NormActivationConfig;
  #norm: NormActivation | undefined;

  constructor(config: NormActivationConfig) {
    super(config.name === undefined ? {} : { name: config.name });
    this.#config = config;
    resolveLayer(config.layer);
  }

  /** Makes the parameters for inputs [n, h, w, c]. */
  override build(inputShape: tf.Shape | tf.Shape[]): void {
    const shape = (Array.isArray(inputShape[0]) ? inputShape[0] : inputShape) as tf.Shape;
    const channels = shape[3];
    if (shape.length !== 4 || typeof channels !== "number") {
      throw new TypeError(
        `Cannot build a normalization-activation layer as its input must be [n, h, w, c] with a known c: current shape is [${shape}]`,
      );
    }
    const addWeight = this.addWeight.bind(this);
    // tf.layers owns its variables (names, saving, trainability): hand each one that the layer asks for to addWeight.
    const owned = new class extends Parameters {
      override create(name: string, size: number[], values: Float32Array | number, kind: Parameter["kind"]) {
        const initializer = tf.initializers.constant({ value: values as number });
        const weight = addWeight(name, size, "float32", initializer, undefined, kind !== "statistic");
        return variableOf(weight);
      }
    }();
    this.#norm = new NormActivation(this.#config.layer, channels, owned, this.#config);
    super.build(inputShape);
  }

  /** y [n, h, w, c]; `training: true` measures batch moments, as `model.fit` asks for. */
  override call(inputs: tf.Tensor | tf.Tensor[], kwargs: { training?: boolean }): tf.Tensor {
    const x = (Array.isArray(inputs) ? inputs[0] : inputs) as tf.Tensor4D;
    return tf.tidy(() => this.#norm!.apply(x, kwargs.training ?? false));
  }

  /** The output has the shape of the input. */
  override computeOutputShape(inputShape: tf.Shape | tf.Shape[]): tf.Shape | tf.Shape[] {
    return inputShape;
  }

  /** Plain data from which the layer is made again when a saved model is loaded. */
  override getConfig(): tf.serialization.ConfigDict {
    const { layer, ...rest } = this.#config;
    return { ...super.getConfig(), ...rest, layer: toHex(JSON.stringify(layer)) };
  }

  /** Inverse of {@linkcode getConfig}; a graph in the file is validated. */
  static override fromConfig<T extends tf.serialization.Serializable>(
    make: tf.serialization.SerializableConstructor<T>,
    config: tf.serialization.ConfigDict,
  ): T {
    const layer: LayerSource = JSON.parse(fromHex(config.layer as string));
    if (typeof layer !== "string") validate("nodes" in layer ? layer : layer.graph);
    return new make({ ...config, layer: layer as unknown as tf.serialization.ConfigDictValue });
  }
}

// TensorFlow.js rewrites every string and key of a configuration to snake case and back ("EvoNorm-B0" comes back as "evoNorm-B0");
// lower-case hexadecimal digits pass unchanged.
const toHex = (text: string): string => Buffer.from(text).toString("hex");
const fromHex = (text: string): string => Buffer.from(text, "hex").toString();

/** tf.layers wraps each variable; the wrapped one is what gradients and assignments act on. */
function variableOf(weight: unknown): tf.Variable {
  return (weight as { val: tf.Variable }).val;
}

tf.serialization.registerClass(NormActivationLayer);

/**
 * A layer graph as a `tf.layers` layer.
 *
 * @example
 * ```ts
 * import * as tf from "@tensorflow/tfjs";
import { Buffer } from "node:buffer";
 * import { normActivationLayer } from "@normlab/normlab/layers";
 * import { useBackend } from "@normlab/normlab/tensor";
 * await useBackend("wasm");
 * const model = tf.sequential({
 *   layers: [
 *     tf.layers.conv2d({ filters: 8, kernelSize: 3, inputShape: [8, 8, 3], useBias: false }),
 *     normActivationLayer({ layer: "EvoNorm-S0", groups: 4 }),
 *     tf.layers.globalAveragePooling2d({}),
 *     tf.layers.dense({ units: 10 }),
 *   ],
 * });
 * console.log(model.outputShape); // [null, 10]
 * ```
 */
export function normActivationLayer(config: NormActivationConfig): NormActivationLayer {
  return new NormActivationLayer(config);
}
