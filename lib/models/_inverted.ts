/** Networks of inverted bottlenecks (Sandler et al. 2018), the form that MobileNetV2 and EfficientNet share. Room-private. */
import * as tf from "@tensorflow/tfjs";
import type { LayerGraph, PublishedLayer } from "../graph/mod.ts";
import {
  type LayerSource,
  NormActivation,
  type NormActivationOptions,
  Parameters,
  resolveLayer,
} from "../layers/mod.ts";
import { addOver, globalAveragePool, type Stream } from "../tensor/mod.ts";
import { checkSizes, Convolution, Dense, DepthwiseConvolution, SqueezeExcite } from "./_modules.ts";
import type { ImageModel, ImageSize, Padding } from "./model.ts";

/** What the networks of this form let their users choose. */
export interface InvertedOptions {
  /** Multiplies the channels of every stage, rounded to multiples of 8 as {@linkcode roundChannels} does. Default 1. */
  width?: number;
  /** Blocks in each stage; 0 leaves a stage out. Default: the published numbers. */
  blocks?: readonly number[];
  /** Channels of the last 1 x 1 convolution. Default: the published number, with or without the width as published. */
  head?: number;
  classes: number;
  /** Channels of the input images; 3 by default. */
  inputChannels?: number;
  layer: LayerSource;
  norm?: NormActivationOptions;
  /** Default `small`. */
  images?: ImageSize;
  /** Default `same`. */
  padding?: Padding;
}

/** One row of the published tables. */
export interface Stage {
  /** What the first 1 x 1 convolution multiplies the channels by; 1: there is none. */
  readonly expansion: number;
  readonly channels: number;
  readonly blocks: number;
  readonly stride: number;
  readonly kernel: number;
}

/** A published network. */
export interface InvertedNetwork {
  readonly name: string;
  readonly stem: number;
  readonly stages: readonly Stage[];
  /** Channels of the last 1 x 1 convolution, and whether the width multiplies them where it is below 1. */
  readonly head: number;
  readonly narrowsHead: boolean;
  /** Channels inside of squeeze-and-excitation as a share of the block's input; 0: there is none. */
  readonly squeeze: number;
}

/** `channels * width` to the next multiple of 8, at least 8, never below nine tenths of what it was. */
export function roundChannels(channels: number, width: number): number {
  const wanted = channels * width;
  const rounded = Math.max(8, 8 * Math.floor((wanted + 4) / 8));
  return rounded < 0.9 * wanted ? rounded + 8 : rounded;
}

const identity: LayerGraph = { nodes: [{ op: "Add", inputs: [0, 1] }] };

/**
 * What closes a bottleneck, which is linear: the layer without its activation. Where that comes after the affine, the rest of the layer
 * stays (BN-ReLU becomes BN); where norm and activation are one, as in EvoNorm, the affine gamma * x + beta alone.
 */
export function linearPart(source: LayerSource): PublishedLayer {
  const layer = resolveLayer(source);
  if (layer.post === undefined) return { name: "affine", graph: identity, source: layer.source };
  const { post: _, ...linear } = layer;
  return { ...linear, name: `${layer.name} without its activation` };
}

interface BlockConfig extends Pick<InvertedOptions, "layer" | "norm" | "padding"> {
  readonly kernel: number;
  readonly input: number;
  readonly output: number;
  readonly stride: number;
  readonly expansion: number;
  readonly squeezed: number;
}

/**
 * conv 1x1 - layer - depthwise k x k - layer - (squeeze-excite) - conv 1x1 - linear part of the layer, added to the input where shapes
 * agree. Without expansion the first convolution and its layer are missing.
 */
class InvertedBottleneck {
  readonly #expand: Convolution | undefined;
  readonly #depthwise: DepthwiseConvolution;
  readonly #project: Convolution;
  readonly #norms: NormActivation[];
  readonly #squeeze: SqueezeExcite | undefined;
  readonly #closing: NormActivation;
  readonly #residual: boolean;

  constructor(config: BlockConfig, parameters: Parameters, stream: Stream) {
    const { kernel, input, output, stride, expansion, squeezed, layer, norm, padding } = config;
    const channels = input * expansion;
    const at = (name: string) => [parameters.scope(name), stream.child(name)] as const;
    const makeNorm = (name: string) => new NormActivation(layer, channels, parameters.scope(name), norm);
    this.#norms = [];
    if (expansion !== 1) {
      this.#expand = new Convolution({ kernel: 1, input, output: channels, stride: 1 }, ...at("expand"));
      this.#norms.push(makeNorm("norm1"));
    }
    this.#depthwise = new DepthwiseConvolution({ kernel, channels, stride, padding }, ...at("depthwise"));
    this.#norms.push(makeNorm("norm2"));
    if (squeezed > 0) this.#squeeze = new SqueezeExcite(channels, squeezed, ...at("squeeze"));
    this.#project = new Convolution({ kernel: 1, input: channels, output, stride: 1 }, ...at("project"));
    this.#closing = new NormActivation(linearPart(layer), output, parameters.scope("norm3"), norm);
    this.#residual = stride === 1 && input === output;
  }

  /** [n, h, w, input] -> [n, ceil(h / stride), ceil(w / stride), output]. */
  forward(x: tf.Tensor4D, training: boolean): tf.Tensor4D {
    return tf.tidy(() => {
      const expanded = this.#expand ? this.#norms[0]!.apply(this.#expand.forward(x), training) : x;
      const filtered = this.#norms.at(-1)!.apply(this.#depthwise.forward(expanded), training);
      const weighted = this.#squeeze?.forward(filtered) ?? filtered;
      const y = this.#closing.apply(this.#project.forward(weighted), training);
      return this.#residual ? addOver(y, x) : y;
    });
  }
}

/** Builds a network: 3x3 stem - layer, stages, 1x1 head - layer, global average pooling, a classifier. */
export function invertedNetwork(
  published: InvertedNetwork,
  options: InvertedOptions,
  stream: Stream,
): ImageModel {
  const { width = 1, classes, inputChannels = 3, layer, norm, images = "small", padding } = options;
  const plan = stagesOf(published, options);
  const parameters = new Parameters();
  const at = (name: string) => [parameters.scope(name), stream.child(name)] as const;
  const makeNorm = (name: string, channels: number) =>
    new NormActivation(layer, channels, parameters.scope(name), norm);

  let channels = roundChannels(published.stem, width);
  const stem = new Convolution(
    { kernel: 3, input: inputChannels, output: channels, stride: images === "small" ? 1 : 2, padding },
    ...at("stem"),
  );
  const stemNorm = makeNorm("stem.norm", channels);
  const stages = plan.map(({ name, blocks, stride, ...stage }) =>
    Array.from({ length: blocks }, (_, block) => {
      const config = {
        ...stage,
        input: channels,
        output: roundChannels(stage.channels, width),
        stride: block === 0 ? stride : 1,
        squeezed: Math.round(channels * published.squeeze),
        layer,
        ...(norm && { norm }),
        ...(padding && { padding }),
      };
      channels = config.output;
      return new InvertedBottleneck(config, ...at(`${name}.block${block + 1}`));
    })
  );
  const narrow = width >= 1 || published.narrowsHead;
  const last = options.head ?? (narrow ? roundChannels(published.head, width) : published.head);
  const head = new Convolution({ kernel: 1, input: channels, output: last, stride: 1 }, ...at("head"));
  const headNorm = makeNorm("head.norm", last);
  const classifier = new Dense(last, classes, ...at("classifier"));

  return {
    parameters: parameters.all,
    forward(x, training, visit) {
      let h = tf.tidy(() => stemNorm.apply(stem.forward(x), training));
      visit?.("stem", h);
      stages.forEach((blocks, index) => {
        for (const block of blocks) h = block.forward(h, training);
        visit?.(plan[index]!.name, h);
      });
      return tf.tidy(() => {
        const last = headNorm.apply(head.forward(h), training);
        visit?.("norm", last);
        return classifier.forward(globalAveragePool(last));
      });
    },
    dispose: () => parameters.dispose(),
  };
}

/** The stages to build, with the strides that the images ask for. */
function stagesOf(
  { name, stages }: InvertedNetwork,
  options: InvertedOptions,
): (Stage & { name: string })[] {
  const { width = 1, blocks = stages.map(({ blocks }) => blocks), images = "small" } = options;
  checkSizes(`a ${name}`, {
    classes: options.classes,
    inputChannels: options.inputChannels ?? 3,
    head: options.head ?? 1,
    blocks: blocks.reduce((sum, count) => sum + count, 0),
  });
  if (!(width > 0 && Number.isFinite(width))) {
    throw new RangeError(
      `Cannot build a ${name} as 'width' must be a number above 0: current value is ${width}`,
    );
  }
  if (blocks.length > stages.length || blocks.some((count) => !Number.isInteger(count) || count < 0)) {
    throw new RangeError(
      `Cannot build a ${name} as 'blocks' must be at most ${stages.length} whole numbers: current value is [${blocks}]`,
    );
  }
  // The stem is the first reduction, so of the stages the first one that reduces is left at stride 1.
  const kept = images === "small" ? stages.findIndex(({ stride }) => stride > 1) : -1;
  return blocks.map((count, index) => ({
    ...stages[index]!,
    name: `stage${index + 1}`,
    blocks: count,
    stride: index === kept ? 1 : stages[index]!.stride,
  })).filter(({ blocks }) => blocks > 0);
}
