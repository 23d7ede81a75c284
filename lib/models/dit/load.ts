/** From a folder to a model. */
import {
  type Checkpoint,
  type LoadOptions,
  loadWeights,
  openCheckpoint,
  streamWeights,
} from "./checkpoint.ts";
import {
  cogvideox,
  type CogVideoXConfig,
  cogvideoxConfig,
  type CogVideoXInputs,
  cogvideoxParameters,
} from "./cogvideox.ts";
import { dit, type DiTConfig, ditConfig, type DiTInputs, ditParameters } from "./dit.ts";
import {
  hunyuan,
  type HunyuanConfig,
  hunyuanConfig,
  type HunyuanInputs,
  hunyuanParameters,
} from "./hunyuan.ts";
import { pixart, type PixArtConfig, pixartConfig, type PixArtInputs, pixartParameters } from "./pixart.ts";
import type { DiffusionTransformer, ParameterSpecs, WeightSource } from "./types.ts";
import type { RawConfig } from "./config.ts";

/** A loaded model, and which it is. */
export type LoadedTransformer =
  | { readonly kind: "pixart"; readonly model: DiffusionTransformer<PixArtInputs, PixArtConfig> }
  | { readonly kind: "hunyuan"; readonly model: DiffusionTransformer<HunyuanInputs, HunyuanConfig> }
  | { readonly kind: "cogvideox"; readonly model: DiffusionTransformer<CogVideoXInputs, CogVideoXConfig> }
  | { readonly kind: "dit"; readonly model: DiffusionTransformer<DiTInputs, DiTConfig> };

/** How a transformer is loaded. */
export interface LoadTransformerOptions extends LoadOptions {
  /** Reads block after block in each pass, for models larger than memory. Default false. */
  readonly stream?: boolean;
}

interface Architecture {
  /** The name of the list of blocks. */
  readonly blocks: string;
  prepare(config: RawConfig): {
    readonly parameters: ParameterSpecs;
    readonly layers: number;
    make(source: WeightSource): LoadedTransformer;
  };
}

/** By the class names of diffusers. */
const architectures: Readonly<Record<string, Architecture>> = {
  PixArtTransformer2DModel: {
    blocks: "transformer_blocks",
    prepare(raw) {
      const config = pixartConfig(raw);
      const make = (source: WeightSource) => ({ kind: "pixart", model: pixart(config, source) }) as const;
      return { parameters: pixartParameters(config), layers: config.layers, make };
    },
  },
  HunyuanDiT2DModel: {
    blocks: "blocks",
    prepare(raw) {
      const config = hunyuanConfig(raw);
      const make = (source: WeightSource) => ({ kind: "hunyuan", model: hunyuan(config, source) }) as const;
      return { parameters: hunyuanParameters(config), layers: config.layers, make };
    },
  },
  CogVideoXTransformer3DModel: {
    blocks: "transformer_blocks",
    prepare(raw) {
      const config = cogvideoxConfig(raw);
      const make = (source: WeightSource) =>
        ({ kind: "cogvideox", model: cogvideox(config, source) }) as const;
      return { parameters: cogvideoxParameters(config), layers: config.layers, make };
    },
  },
  DiTTransformer2DModel: {
    blocks: "transformer_blocks",
    prepare(raw) {
      const config = ditConfig(raw);
      const make = (source: WeightSource) => ({ kind: "dit", model: dit(config, source) }) as const;
      return { parameters: ditParameters(config), layers: config.layers, make };
    },
  },
};

/**
 * Loads a diffusion transformer as diffusers saves it: config.json and safetensors (F32, F16 or BF16, whole or in shards), in `folder` or its
 * sub-folder `transformer`. Weights are held as float32 on the current backend.
 *
 * @throws {RangeError} on a folder without a checkpoint, an unknown class, or a config that the kit cannot follow
 * @throws {SyntaxError} on files that are not what their names say
 * @throws {CheckpointError} on tensors that are missing, unexpected or of other shapes
 */
export async function loadTransformer(
  folder: string,
  { stream = false, ...options }: LoadTransformerOptions = {},
): Promise<LoadedTransformer> {
  const checkpoint: Checkpoint = await openCheckpoint(folder, "transformer", options);
  let streaming = false;
  try {
    const name = checkpoint.config._class_name;
    if (typeof name !== "string" || !Object.hasOwn(architectures, name)) {
      throw new RangeError(
        `Cannot load ${checkpoint.folder} as its class must be one of ${
          Object.keys(architectures).join(", ")
        }: current _class_name is ${JSON.stringify(name)}`,
      );
    }
    const { blocks, prepare } = architectures[name]!;
    const { parameters, layers, make } = prepare(checkpoint.config);
    if (!stream) return make(await loadWeights(checkpoint, parameters, options));
    const source = await streamWeights(checkpoint, parameters, blocks, layers);
    streaming = true;
    return make(source);
  } finally {
    if (!streaming) await checkpoint.close();
  }
}
