/** The anchor architectures of the search: three networks that a layer is tried in, at three scales. */
import type { LayerSource, NormActivationOptions } from "../layers/mod.ts";
import type { Stream } from "../tensor/mod.ts";
import { efficientNet, type EfficientNetConfig } from "./efficientnet.ts";
import { mobileNet, type MobileNetConfig } from "./mobilenet.ts";
import type { ImageModel } from "./model.ts";
import { resnet, type ResNetConfig } from "./resnet.ts";

/** An anchor architecture. */
export type AnchorName = "resnet" | "mobilenet" | "efficientnet";

/** `paper`: the paper's width and depth. `laptop`: every stage, one block in each. `smoke`: three or four stages. */
export type AnchorScale = "smoke" | "laptop" | "paper";

/** What an anchor is at a scale. */
export interface AnchorForm {
  /** In words. */
  readonly description: string;
  /** Numbers trained with BN-ReLU, and with EvoNorm-S0 or -B0, for 10 classes of colour images. */
  readonly parameters: { readonly "BN-ReLU": number; readonly EvoNorm: number };
  /** Multiplications of convolutions and the classifier for one image of 32 x 32 pixels. */
  readonly multiplications: number;
}

/** What `options` may change of an anchor. */
export interface AnchorOptions {
  /** Default 10. */
  classes?: number;
  /** Default 3. */
  inputChannels?: number;
  norm?: NormActivationOptions;
}

type Plain<Config> = Omit<Config, "layer" | "norm" | "classes" | "inputChannels">;

const one = (stages: number): number[] => Array(stages).fill(1);

const resnets: Record<AnchorScale, Plain<ResNetConfig>> = {
  smoke: { block: "bottleneck", width: 8, blocks: one(3) },
  laptop: { block: "bottleneck", width: 8, blocks: one(4) },
  paper: { block: "bottleneck", width: 16, blocks: [3, 4, 6, 3] },
};

const mobileNets: Record<AnchorScale, Plain<MobileNetConfig>> = {
  smoke: { width: 0.25, blocks: one(4), head: 64 },
  laptop: { width: 0.25, blocks: one(7), head: 320 },
  paper: { width: 0.5 },
};

const efficientNets: Record<AnchorScale, Plain<EfficientNetConfig>> = {
  smoke: { width: 0.25, blocks: one(4), head: 64 },
  laptop: { width: 0.25, blocks: one(7), head: 320 },
  paper: { width: 0.5 },
};

/** Every anchor at every scale; how each is built is in {@linkcode anchor}. */
export const anchors: Readonly<Record<AnchorName, Readonly<Record<AnchorScale, AnchorForm>>>> = {
  resnet: {
    smoke: {
      description: "pre-activation ResNet-11, bottlenecks 1-1-1, width 8",
      parameters: { "BN-ReLU": 32_786, EvoNorm: 33_130 },
      multiplications: 5_203_200,
    },
    laptop: {
      description: "pre-activation ResNet-14, bottlenecks 1-1-1-1, width 8",
      parameters: { "BN-ReLU": 129_042, EvoNorm: 129_770 },
      multiplications: 7_105_024,
    },
    paper: {
      description: "pre-activation ResNet-50, bottlenecks 3-4-6-3, 0.25 of the width",
      parameters: { "BN-ReLU": 1_482_266, EvoNorm: 1_487_946 },
      multiplications: 81_449_984,
    },
  },
  mobilenet: {
    smoke: {
      description: "MobileNetV2, 0.25 of the width, the first four stages with a block each, head 64",
      parameters: { "BN-ReLU": 6_826, EvoNorm: 7_194 },
      multiplications: 2_432_640,
    },
    laptop: {
      description: "MobileNetV2, 0.25 of the width, seven stages with a block each, head 320",
      parameters: { "BN-ReLU": 82_858, EvoNorm: 84_442 },
      multiplications: 3_909_760,
    },
    paper: {
      description: "MobileNetV2, 0.5 of the width",
      parameters: { "BN-ReLU": 700_490, EvoNorm: 709_002 },
      multiplications: 27_969_024,
    },
  },
  efficientnet: {
    smoke: {
      description: "EfficientNet-B0, 0.25 of the width, the first four stages with a block each, head 64",
      parameters: { "BN-ReLU": 13_228, EvoNorm: 13_692 },
      multiplications: 3_182_368,
    },
    laptop: {
      description: "EfficientNet-B0, 0.25 of the width, seven stages with a block each, head 320",
      parameters: { "BN-ReLU": 126_822, EvoNorm: 128_790 },
      multiplications: 5_503_200,
    },
    paper: {
      description: "EfficientNet-B0, 0.5 of the width",
      parameters: { "BN-ReLU": 1_077_932, EvoNorm: 1_087_724 },
      multiplications: 35_762_496,
    },
  },
};

/**
 * Builds an anchor with `layer` as its normalization-activation, for images of about 32 pixels.
 *
 * The paper's anchors for CIFAR-10 are ResNet50-v2, MobileNetV2 and EfficientNet-B0 at 0.25, 0.5 and 0.5 of their width and at full
 * depth, the first two of their spatial reductions with stride 1 (Liu, Brock, Simonyan, Le 2020). What it leaves open, and
 * what stands here: the ResNet's stem is 3x3 and its max pool goes, which with stride 1 would only blur; channels are rounded to
 * multiples of 8; MobileNetV2 keeps its head of 1280 channels, as its authors do for narrow ones. Layers stand as in the paper's
 * drawings: before each convolution of a ResNet block; after the first 1x1 and after the depthwise convolution of an inverted
 * bottleneck, whose end has the affine alone. A graph without batch statistics makes a network without any.
 *
 * @example
 * ```ts
 * import { anchor, anchors, parameterCount } from "@normlab/normlab/models";
 * import { stream, useBackend } from "@normlab/normlab/tensor";
 * await useBackend("wasm");
 * const model = anchor("mobilenet", "smoke", "EvoNorm-S0", stream(0).child("init"));
 * console.log(parameterCount(model) === anchors.mobilenet.smoke.parameters.EvoNorm); // true
 * ```
 */
export function anchor(
  name: AnchorName,
  scale: AnchorScale,
  layer: LayerSource,
  stream: Stream,
  { classes = 10, ...options }: AnchorOptions = {},
): ImageModel {
  const common = { classes, ...options, layer };
  switch (name) {
    case "resnet":
      return resnet({ ...resnets[scale], ...common }, stream);
    case "mobilenet":
      return mobileNet({ ...mobileNets[scale], ...common }, stream);
    case "efficientnet":
      return efficientNet({ ...efficientNets[scale], ...common }, stream);
    default:
      throw new RangeError(
        `Cannot build an anchor as 'name' must be one of ${
          Object.keys(anchors).join(", ")
        }: current name is "${name}"`,
      );
  }
}
