/** Checkpoints of diffusers on disk: config.json and safetensors in one file or in shards. Files are hostile until they are checked. */
import * as tf from "@tensorflow/tfjs";
import { readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { openSafetensors, type SafetensorsFile } from "../../tensor/mod.ts";
import { heldTensor, Staging } from "./_held.ts";
import type { RawConfig } from "./config.ts";
import type { ParameterSpec, ParameterSpecs, Weights, WeightSource } from "./types.ts";

/** How a checkpoint is loaded. */
export interface LoadOptions {
  /** Called after each tensor: bytes of the files read so far, and in all. */
  readonly onProgress?: (
    progress: { readonly loaded: number; readonly total: number; readonly name: string },
  ) => void;
  /** `fp16` for files named diffusion_pytorch_model.fp16.safetensors. Default: none. */
  readonly variant?: string;
}

/** A checkpoint whose headers are read. */
export interface Checkpoint {
  readonly folder: string;
  readonly config: RawConfig;
  /** The file of each tensor. */
  readonly tensors: ReadonlyMap<string, SafetensorsFile>;
  close(): Promise<void>;
}

/** A checkpoint does not have the tensors that its config asks for. */
export class CheckpointError extends Error {
  override readonly name = "CheckpointError";
  readonly missing: readonly string[];
  readonly unexpected: readonly string[];
  /** Names, with the shape wanted and the one found. */
  readonly misshapen: readonly {
    readonly name: string;
    readonly wanted: readonly number[];
    readonly found: readonly number[];
  }[];

  constructor(folder: string, parts: Pick<CheckpointError, "missing" | "unexpected" | "misshapen">) {
    const shapes = parts.misshapen.map(({ name, wanted, found }) =>
      `${name} [${found.join(", ")}] instead of [${wanted.join(", ")}]`
    );
    const lists = [["missing", parts.missing], ["unexpected", parts.unexpected], [
      "of other shapes",
      shapes,
    ]] as const;
    super(
      `Cannot load ${folder} as its tensors must be those of its config: ` +
        lists.filter(([, names]) => names.length > 0).map(([what, names]) =>
          `${names.length} ${what} (${shortened(names)})`
        )
          .join("; "),
    );
    this.missing = parts.missing;
    this.unexpected = parts.unexpected;
    this.misshapen = parts.misshapen;
  }
}

function shortened(names: readonly string[]): string {
  return names.slice(0, 12).join(", ") + (names.length > 12 ? ", ..." : "");
}

/** No config of a published model is near it. */
const MOST_JSON_BYTES = 1 << 26;

/** @throws {SyntaxError} The file is not a JSON object. */
export async function readJsonObject(path: string): Promise<RawConfig> {
  const { size } = await stat(path);
  if (size > MOST_JSON_BYTES) {
    throw new SyntaxError(
      `Cannot read ${path} as it must have at most ${MOST_JSON_BYTES} bytes: current size is ${size}`,
    );
  }
  let value: unknown;
  try {
    value = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    throw new SyntaxError(`Cannot read ${path} as it must be JSON: ${(error as Error).message}`, {
      cause: error,
    });
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as RawConfig;
  throw new SyntaxError(`Cannot read ${path} as it must be a JSON object: current value is ${typeof value}`);
}

/**
 * Opens what `save_pretrained` of diffusers wrote: the folder of a model, or of a pipeline with the model in `part`.
 *
 * @throws {SyntaxError} A file is not what its name says.
 * @throws {RangeError} The folder holds no checkpoint, or its index names files outside of it.
 */
export async function openCheckpoint(
  folder: string,
  part = "transformer",
  { variant }: LoadOptions = {},
): Promise<Checkpoint> {
  const own = (await exists(join(folder, "config.json"))) ? folder : join(folder, part);
  if (!(await exists(join(own, "config.json")))) {
    throw new RangeError(
      `Cannot load a checkpoint as the folder must hold config.json, or ${part}/config.json: current folder is ${folder}`,
    );
  }
  const config = await readJsonObject(join(own, "config.json"));
  const stem = `diffusion_pytorch_model${variant ? `.${variant}` : ""}`;
  const index = [
    `${stem}.safetensors.index.json`,
    `diffusion_pytorch_model.safetensors.index.${variant}.json`,
  ];
  const single = join(own, `${stem}.safetensors`);
  const found = await firstOf(index.map((name) => join(own, name)));
  if (!found && !(await exists(single))) {
    throw new RangeError(
      `Cannot load a checkpoint as the folder must hold ${stem}.safetensors or ${
        index[0]
      }: current folder is ${own}`,
    );
  }
  const map = found ? await readIndex(found) : null;
  const files: SafetensorsFile[] = [];
  const close = async () => {
    await Promise.all(files.map((file) => file.close()));
  };
  try {
    const tensors = new Map<string, SafetensorsFile>();
    for (const name of map ? new Set(map.values()) : [basename(single)]) {
      const file = await openSafetensors(join(own, name));
      files.push(file);
      for (const tensor of file.tensors.keys()) {
        // An index tells which shard counts where two hold a name.
        if (!map || map.get(tensor) === name) tensors.set(tensor, file);
      }
    }
    const lost = [...map?.keys() ?? []].filter((name) => !tensors.has(name));
    if (lost.length > 0) {
      throw new SyntaxError(
        `Cannot read ${found} as each shard must hold what the index says: ${shortened(lost)} are not there`,
      );
    }
    return { folder: own, config, tensors, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The shard of each tensor. */
async function readIndex(path: string): Promise<Map<string, string>> {
  const { weight_map: map } = await readJsonObject(path);
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    throw new SyntaxError(`Cannot read ${path} as it must have a weight_map: current value is ${typeof map}`);
  }
  for (const [name, file] of Object.entries(map)) {
    if (typeof file === "string" && file.endsWith(".safetensors") && !/[/\\\0]/.test(file)) continue;
    throw new RangeError(
      `Cannot read ${path} as its files must be safetensors beside it: current file of ${name} is ${
        JSON.stringify(file)
      }`,
    );
  }
  return new Map(Object.entries(map as Record<string, string>));
}

/** Tables that diffusers has stored at times, and that the kit computes. */
const computed = ["pos_embed.pos_embed", "patch_embed.pos_embedding"];

/** Older names of the attention of an autoencoder. */
const renamed: Readonly<Record<string, string>> = {
  query: "to_q",
  key: "to_k",
  value: "to_v",
  proj_attn: "to_out.0",
};

/** What today's diffusers calls a tensor of an older file. */
function currentName(name: string): string {
  return name.replace(
    /\.(query|key|value|proj_attn)\.(weight|bias)$/,
    (_, part, end) => `.${renamed[part]}.${end}`,
  );
}

/** Tensors of a checkpoint by the names of specs. */
type Found = ReadonlyMap<
  string,
  { readonly file: SafetensorsFile; readonly stored: string; readonly spec: ParameterSpec }
>;

/** @throws {CheckpointError} on tensors that are missing, unexpected or of other shapes */
function match({ folder, tensors }: Checkpoint, specs: ParameterSpecs): Found {
  const found = new Map<string, { file: SafetensorsFile; stored: string; spec: ParameterSpec }>();
  const unexpected: string[] = [];
  const misshapen: { name: string; wanted: readonly number[]; found: readonly number[] }[] = [];
  for (const [stored, file] of tensors) {
    const name = specs.has(stored) ? stored : currentName(stored);
    const spec = specs.get(name);
    if (!spec) {
      if (!computed.includes(name)) unexpected.push(name);
      continue;
    }
    found.set(name, { file, stored, spec });
    const { shape } = file.tensors.get(stored)!;
    if (!sameShape(shape, spec)) misshapen.push({ name, wanted: spec.shape, found: shape });
  }
  const missing = [...specs.keys()].filter((name) => !found.has(name));
  if (missing.length + unexpected.length + misshapen.length > 0) {
    throw new CheckpointError(folder, { missing, unexpected, misshapen });
  }
  return found;
}

/** Whether sizes agree; 1 x 1 convolutions count as linear, as older autoencoders have them. */
function sameShape(found: readonly number[], { shape, layout }: ParameterSpec): boolean {
  const trimmed = layout === "linear" && found.length === 4 && shape.length === 2 ? found.slice(0, 2) : found;
  return trimmed.length === shape.length && shape.every((size, axis) => size === trimmed[axis]) &&
    found.slice(trimmed.length).every((size) => size === 1);
}

async function loadSome(
  found: Found,
  names: readonly string[],
  after: (name: string, bytes: number) => void = () => {},
): Promise<Map<string, tf.Tensor>> {
  const weights = new Map<string, tf.Tensor>();
  const staging = new Staging();
  try {
    for (const name of names) {
      const { file, stored, spec } = found.get(name)!;
      const tensor = await file.read(stored);
      weights.set(name, heldTensor(tensor, spec, staging));
      after(name, tensor.data.byteLength);
    }
    return weights;
  } catch (error) {
    tf.dispose([...weights.values()]);
    throw error;
  }
}

/**
 * All weights, in memory. No more than one tensor of the files is in memory beside them.
 * @throws {CheckpointError} on tensors that are missing, unexpected or of other shapes
 */
export async function loadWeights(
  checkpoint: Checkpoint,
  specs: ParameterSpecs,
  { onProgress }: LoadOptions = {},
): Promise<WeightSource> {
  const found = match(checkpoint, specs);
  const total = [...found.values()].reduce((sum, { spec, file, stored }) => {
    const { dtype } = file.tensors.get(stored)!;
    return sum + spec.shape.reduce((a, b) => a * b, 1) * bytesOf[dtype];
  }, 0);
  let loaded = 0;
  const weights = await loadSome(found, inFileOrder(found), (name, bytes) => {
    loaded += bytes;
    onProgress?.({ loaded, total, name });
  });
  return residentWeights(weights);
}

/** Weights that are in memory, all at once. */
export function residentWeights(weights: Weights): WeightSource {
  return {
    resident: true,
    outer: weights,
    block: () => weights,
    release: () => {},
    dispose: () => tf.dispose([...weights.values()]),
  };
}

const bytesOf = { I64: 8, F64: 8, F32: 4, I32: 4, BF16: 2, F16: 2, I16: 2, I8: 1, U8: 1, BOOL: 1 } as const;

/** Files are read from the front to the back. */
function inFileOrder(found: Found): string[] {
  return [...found.keys()];
}

/**
 * Weights of which only one block, and the next one as it is read, are in memory: for models larger than that. Each pass reads the file anew.
 * The checkpoint stays open until the source is disposed of.
 * @throws {CheckpointError} on tensors that are missing, unexpected or of other shapes
 */
export async function streamWeights(
  checkpoint: Checkpoint,
  specs: ParameterSpecs,
  blocks: string,
  layers: number,
): Promise<WeightSource> {
  const found = match(checkpoint, specs);
  const names = (layer: number) => [...found.keys()].filter((name) => name.startsWith(`${blocks}.${layer}.`));
  const outer = await loadSome(found, [...found.keys()].filter((name) => !name.startsWith(`${blocks}.`)));
  const coming = new Map<number, Promise<Map<string, tf.Tensor>>>();
  const ahead = (layer: number) => {
    const known = coming.get(layer) ?? loadSome(found, names(layer));
    coming.set(layer, known);
    known.catch(() => {}); // whoever asks for the block gets the error
    return known;
  };
  return {
    resident: false,
    outer,
    async block(layer) {
      const weights = await ahead(layer);
      coming.delete(layer);
      if (layer + 1 < layers) ahead(layer + 1);
      return weights;
    },
    release: (_layer, weights) => tf.dispose([...weights.values()]),
    dispose() {
      tf.dispose([...outer.values()]);
      for (const late of coming.values()) late.then((weights) => tf.dispose([...weights.values()]), () => {});
      coming.clear();
      checkpoint.close().catch(() => {});
    },
  };
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then((found) => found.isFile(), () => false);
}

async function firstOf(paths: readonly string[]): Promise<string | undefined> {
  for (const path of paths) if (await exists(path)) return path;
  return undefined;
}
