/** Tiny checkpoints of the reference values, and changed copies of them. */
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { readSafetensors, type SafetensorsTensor, writeSafetensors } from "../../lib/tensor/mod.ts";

/** Reference values of diffusion, as the repository carries them. */
export const models = fileURLToPath(new URL("../golden/diffusion/models", import.meta.url));
export const rivals = fileURLToPath(new URL("../golden/diffusion/rivals", import.meta.url));

/** A checkpoint in memory. */
export interface TinyCheckpoint {
  config: Record<string, unknown>;
  tensors: Map<string, SafetensorsTensor>;
}

export async function readTiny(name: string): Promise<TinyCheckpoint> {
  const folder = join(models, name, "transformer");
  return {
    config: JSON.parse(await readFile(join(folder, "config.json"), "utf8")),
    tensors: readSafetensors(await readFile(join(folder, "diffusion_pytorch_model.safetensors"))),
  };
}

/** Writes a checkpoint to a new folder: whole, or in `shards` with an index. */
export async function writeTiny({ config, tensors }: TinyCheckpoint, shards?: number): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "checkpoint-"));
  await writeFile(join(folder, "config.json"), JSON.stringify(config));
  if (shards === undefined) {
    await writeFile(join(folder, "diffusion_pytorch_model.safetensors"), writeSafetensors(tensors));
    return folder;
  }
  const map: Record<string, string> = {};
  for (let shard = 0; shard < shards; shard++) {
    const name = `diffusion_pytorch_model-0000${shard + 1}-of-0000${shards}.safetensors`;
    const own = new Map([...tensors].filter((_, index) => index % shards === shard));
    for (const tensor of own.keys()) map[tensor] = name;
    await writeFile(join(folder, name), writeSafetensors(own));
  }
  const index = { metadata: { total_size: 0 }, weight_map: map };
  await writeFile(join(folder, "diffusion_pytorch_model.safetensors.index.json"), JSON.stringify(index));
  return folder;
}

/** float32 to the nearest bfloat16, ties to even. */
export function toBfloat16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const bits = new Uint32Array(values.slice().buffer);
  return Uint16Array.from(bits, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16);
}
