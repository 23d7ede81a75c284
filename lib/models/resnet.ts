/** The pre-activation ResNet, for small images and for large ones, with any layer graph as its normalization-activation. */
import * as tf from "@tensorflow/tfjs";
import { type LayerSource, NormActivation, type NormActivationOptions, Parameters } from "../layers/mod.ts";
import { addOver, globalAveragePool, type Stream } from "../tensor/mod.ts";
import { checkSizes, Convolution, Dense } from "./_modules.ts";
import type { ImageModel, ImageSize, Padding } from "./model.ts";

/** The shape of a ResNet. */
export interface ResNetConfig {
  /** `basic`: two 3x3 convolutions; `bottleneck`: 1x1, 3x3, 1x1 with an expansion of 4 (ResNet-v2). */
  block: "basic" | "bottleneck";
  /** Blocks in each stage: three for the CIFAR networks of He et al., four for their ImageNet ones. Strides 1, 2, 2, ... */
  blocks: readonly number[];
  /** Channels of the stem and of the first stage before expansion; doubles at each stage. */
  width: number;
  classes: number;
  /** Channels of the input images; 3 by default. */
  inputChannels?: number;
  layer: LayerSource;
  norm?: NormActivationOptions;
  /** `small` (default): a 3x3 stem. `large`: a 7x7 stem of stride 2 and a 3x3 max pool of stride 2. */
  images?: ImageSize;
  /** Default `same`. */
  padding?: Padding;
}

/** What the expansion of a block multiplies its channels by. */
const EXPANSION = { basic: 1, bottleneck: 4 } as const;

/**
 * A pre-activation block (He et al. 2016): norm-activation before each convolution; where the shape changes, the shortcut is a 1x1
 * convolution of the normalised input.
 */
class Block {
  readonly #norms: NormActivation[] = [];
  readonly #convolutions: Convolution[] = [];
  readonly #projection: Convolution | undefined;

  constructor(
    input: number,
    channels: number,
    stride: number,
    config: ResNetConfig,
    parameters: Parameters,
    stream: Stream,
  ) {
    const output = channels * EXPANSION[config.block];
    const plan = config.block === "basic"
      ? [[3, input, channels, stride], [3, channels, channels, 1]] as const
      : [[1, input, channels, 1], [3, channels, channels, stride], [1, channels, output, 1]] as const;
    plan.forEach(([kernel, from, to, step], index) => {
      this.#norms.push(
        new NormActivation(config.layer, from, parameters.scope(`norm${index + 1}`), config.norm),
      );
      const name = `conv${index + 1}`;
      this.#convolutions.push(
        new Convolution(
          { kernel, input: from, output: to, stride: step, padding: config.padding },
          parameters.scope(name),
          stream.child(name),
        ),
      );
    });
    if (stride !== 1 || input !== output) {
      const name = "projection";
      this.#projection = new Convolution(
        { kernel: 1, input, output, stride },
        parameters.scope(name),
        stream.child(name),
      );
    }
  }

  forward(x: tf.Tensor4D, training: boolean): tf.Tensor4D {
    // What no gradient needs goes here, not at the end of the whole network.
    return tf.tidy(() => {
      let h = x;
      let shortcut = x;
      this.#norms.forEach((norm, index) => {
        h = norm.apply(h, training);
        if (index === 0 && this.#projection) shortcut = this.#projection.forward(h);
        h = this.#convolutions[index]!.forward(h);
      });
      return addOver(h, shortcut);
    });
  }
}

/**
 * Builds a ResNet (He et al. 2016, ResNet-v2): stem, stages, a last norm-activation, global average pooling, a classifier.
 * Depth counts layers as He et al. do: with three stages of n blocks, basic 6n + 2, bottleneck 9n + 2; bottleneck [3, 4, 6, 3] is
 * ResNet-50.
 *
 * @example
 * ```ts
 * import * as tf from "@tensorflow/tfjs";
 * import { resnet } from "@normlab/normlab/models";
 * import { stream, useBackend } from "@normlab/normlab/tensor";
 * await useBackend("wasm");
 * const model = resnet(
 *   { block: "basic", blocks: [1, 1, 1], width: 8, classes: 10, layer: "EvoNorm-S0", norm: { groups: 4 } },
 *   stream(0).child("init"),
 * );
 * const logits = tf.tidy(() => model.forward(tf.zeros([2, 32, 32, 3]), false));
 * console.log(logits.shape); // [2, 10]
 * ```
 * @throws {RangeError} if a size is not a positive integer
 */
export function resnet(config: ResNetConfig, stream: Stream): ImageModel {
  const { blocks, width, classes, inputChannels = 3, images = "small", padding } = config;
  checkSizes("a ResNet", {
    width,
    classes,
    inputChannels,
    stages: blocks.length,
    ...Object.fromEntries(blocks.map((count, stage) => [`blocks[${stage}]`, count])),
  });
  const parameters = new Parameters();
  const stem = new Convolution(
    images === "small"
      ? { kernel: 3, input: inputChannels, output: width, stride: 1, padding }
      : { kernel: 7, input: inputChannels, output: width, stride: 2, padding },
    parameters.scope("stem"),
    stream.child("stem"),
  );
  let channels = width;
  const stages = blocks.map((count, stage) => {
    const made: Block[] = [];
    for (let block = 0; block < count; block++) {
      const name = `stage${stage + 1}.block${block + 1}`;
      const stride = stage > 0 && block === 0 ? 2 : 1;
      const inner = width * 2 ** stage;
      made.push(new Block(channels, inner, stride, config, parameters.scope(name), stream.child(name)));
      channels = inner * EXPANSION[config.block];
    }
    return made;
  });
  const norm = new NormActivation(config.layer, channels, parameters.scope("norm"), config.norm);
  const classifier = new Dense(channels, classes, parameters.scope("classifier"), stream.child("classifier"));

  return {
    parameters: parameters.all,
    forward(x, training, visit) {
      let h = images === "small" ? stem.forward(x) : tf.tidy(() => maxPool(stem.forward(x), padding));
      visit?.("stem", h);
      stages.forEach((blocks, stage) => {
        for (const block of blocks) h = block.forward(h, training);
        visit?.(`stage${stage + 1}`, h);
      });
      return tf.tidy(() => {
        const last = norm.apply(h, training);
        visit?.("norm", last);
        return classifier.forward(globalAveragePool(last));
      });
    },
    dispose: () => parameters.dispose(),
  };
}

/** The largest of 3 x 3 pixels, stride 2: [n, h, w, c] -> [n, ceil(h / 2), ceil(w / 2), c]. */
function maxPool(x: tf.Tensor4D, padding: Padding = "same"): tf.Tensor4D {
  if (padding === "same") return tf.maxPool(x, 3, 2, "same");
  // Not every backend pools with padding in numbers. The padding is below every value of float32.
  return tf.maxPool(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], -3.4028234e38), 3, 2, "valid");
}
