/** Checkpoints on disk: shards, half precision, streaming, and what is refused. */
import assert from "node:assert/strict";
import { readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs";
import {
  CheckpointError,
  type DiffusionTransformer,
  loadAutoencoder,
  loadTransformer,
  loadWeights,
  openCheckpoint,
  pixart,
  pixartConfig,
  type PixArtInputs,
  pixartParameters,
  residentWeights,
} from "../../lib/models/mod.ts";
import {
  readSafetensors,
  type SafetensorsTensor,
  stream,
  toFloat32,
  useBackend,
} from "../../lib/tensor/mod.ts";
import { models, readTiny, type TinyCheckpoint, toBfloat16, writeTiny } from "./_tiny.ts";

await useBackend("wasm");

const numbers = (name: string, shape: number[]) => {
  const size = shape.reduce((a, b) => a * b, 1);
  return tf.tensor(stream("dit checkpoint").child(name).normal(size), shape);
};

function pixartInputs(batch = 2): PixArtInputs {
  return {
    sample: numbers("sample", [batch, 4, 32, 32]) as tf.Tensor4D,
    timestep: 500,
    text: numbers("text", [batch, 5, 24]) as tf.Tensor3D,
  };
}

async function outputOf(
  folder: string,
  options: Parameters<typeof loadTransformer>[1] = {},
): Promise<Float32Array> {
  const { kind, model } = await loadTransformer(folder, options);
  assert.equal(kind, "pixart");
  const tiny = model as DiffusionTransformer<PixArtInputs>;
  const output = await tiny.forwardAsync(pixartInputs());
  tiny.dispose();
  return Float32Array.from(await output.data());
}

/** A folder for the time of `use`. */
async function withFolder(folder: Promise<string>, use: (folder: string) => Promise<void>): Promise<void> {
  const own = await folder;
  try {
    await use(own);
  } finally {
    await rm(own, { recursive: true });
  }
}

const mapTensors = (
  { config, tensors }: TinyCheckpoint,
  change: (tensor: SafetensorsTensor) => SafetensorsTensor,
): TinyCheckpoint => ({
  config,
  tensors: new Map([...tensors].map(([name, tensor]) => [name, change(tensor)])),
});

Deno.test("a checkpoint in shards, read whole or block by block, is the one in a single file", async () => {
  const tiny = await readTiny("pixart");
  const expected = await outputOf(join(models, "pixart"));
  await withFolder(writeTiny(tiny, 3), async (folder) => {
    const seen: { loaded: number; total: number }[] = [];
    assert.deepEqual(await outputOf(folder, { onProgress: (progress) => seen.push(progress) }), expected);
    assert.equal(seen.length, tiny.tensors.size);
    assert.equal(seen.at(-1)!.loaded, seen.at(-1)!.total);
    assert.equal(
      seen.at(-1)!.total,
      [...tiny.tensors.values()].reduce((sum, { data }) => sum + data.byteLength, 0),
    );
    assert.deepEqual(await outputOf(folder, { stream: true }), expected);
  });
});

Deno.test("block by block, no more than two blocks are in memory; at once it is refused", async () => {
  const { model } = await loadTransformer(join(models, "pixart"), { stream: true });
  const tiny = model as DiffusionTransformer<PixArtInputs>;
  assert.throws(() => tiny.forward(pixartInputs()), /use forwardAsync/);
  const ofBlock =
    [...tiny.parameters.keys()].filter((name) => name.startsWith("transformer_blocks.0.")).length;
  const outer = [...tiny.parameters.keys()].filter((name) => !name.startsWith("transformer_blocks.")).length;
  const inputs = pixartInputs();
  const before = tf.memory().numTensors;
  let most = 0;
  const output = await tiny.forwardAsync(inputs, {
    visit: (name) => {
      if (name.endsWith(".hidden")) most = Math.max(most, tf.memory().numTensors - before);
    },
  });
  output.dispose();
  assert.ok(most < 2 * ofBlock, `${most} tensors beside the ${outer} outside of the blocks`);
  assert.equal(tf.memory().numTensors, before);
  model.dispose();
});

Deno.test("float16 and bfloat16 files give what their rounded weights give in float32", async () => {
  const tiny = await readTiny("pixart");
  const stored: Record<string, (values: Float32Array) => SafetensorsTensor["data"]> = {
    F16: (values) => new Uint16Array(Float16Array.from(values).buffer),
    BF16: toBfloat16,
  };
  for (const [dtype, convert] of Object.entries(stored)) {
    const halved = mapTensors(
      tiny,
      ({ shape, data }) => ({ dtype, shape, data: convert(data as Float32Array) }) as SafetensorsTensor,
    );
    const rounded = mapTensors(
      halved,
      (tensor) => ({ dtype: "F32", shape: tensor.shape, data: new Float32Array(toFloat32(tensor)) }),
    );
    await withFolder(writeTiny(halved), async (folder) => {
      await withFolder(writeTiny(rounded), async (reference) => {
        assert.deepEqual(await outputOf(folder), await outputOf(reference));
      });
    });
  }
});

Deno.test("missing, unexpected and mis-shaped tensors are listed in one error", async () => {
  const { config, tensors } = await readTiny("pixart");
  const bias = tensors.get("proj_out.bias")!;
  tensors.delete("caption_projection.linear_1.bias");
  tensors.delete("transformer_blocks.2.scale_shift_table");
  tensors.set("controlnet.weight", bias);
  tensors.set("pos_embed.pos_embed", { dtype: "F32", shape: [1, 1, 1], data: new Float32Array(1) });
  tensors.set("proj_out.bias", { dtype: "F32", shape: [1], data: new Float32Array(1) });
  await withFolder(writeTiny({ config, tensors }), async (folder) => {
    const before = tf.memory().numTensors;
    for (const stream of [false, true]) {
      const error = await loadTransformer(folder, { stream }).then(() => assert.fail(), (error) => error);
      assert.ok(error instanceof CheckpointError);
      assert.deepEqual(error.missing, [
        "caption_projection.linear_1.bias",
        "transformer_blocks.2.scale_shift_table",
      ]);
      // What the kit computes itself is no surprise.
      assert.deepEqual(error.unexpected, ["controlnet.weight"]);
      assert.deepEqual(error.misshapen, [{ name: "proj_out.bias", wanted: [32], found: [1] }]);
      assert.match(
        error.message,
        /2 missing \(caption.*; 1 unexpected \(controlnet.weight\); 1 of other shapes/,
      );
    }
    assert.equal(tf.memory().numTensors, before);
  });
});

Deno.test("what is no checkpoint is refused", async () => {
  const tiny = await readTiny("pixart");
  await assert.rejects(
    loadTransformer("/no/such/folder"),
    /must hold config.json, or transformer\/config.json/,
  );
  const changed: [Record<string, unknown>, RegExp][] = [
    [{ _class_name: "UNet2DConditionModel" }, /class must be one of PixArtTransformer2DModel, .*"UNet2D/],
    [{ _class_name: "toString" }, /class must be one of/],
    [{ num_layers: 1e9 }, /'num_layers' of its config must be a whole number from 1/],
    [{ num_layers: "3" }, /'num_layers'/],
    [{ norm_type: "ada_norm_zero" }, /'norm_type' of its config must be "ada_norm_single"/],
    [{ caption_channels: null }, /'caption_channels'.*missing/],
    [{ num_attention_heads: 4 }, /must be those of its config/],
  ];
  for (const [config, message] of changed) {
    await withFolder(writeTiny({ ...tiny, config: { ...tiny.config, ...config } }), async (folder) => {
      await assert.rejects(loadTransformer(folder), { message });
    });
  }
  await withFolder(writeTiny(tiny), async (folder) => {
    await writeFile(join(folder, "config.json"), "[1]");
    await assert.rejects(loadTransformer(folder), SyntaxError);
    await writeFile(join(folder, "config.json"), "{");
    await assert.rejects(loadTransformer(folder), SyntaxError);
    await rm(join(folder, "diffusion_pytorch_model.safetensors"));
    await writeFile(join(folder, "config.json"), JSON.stringify(tiny.config));
    await assert.rejects(loadTransformer(folder), /must hold diffusion_pytorch_model.safetensors or /);
  });
  await withFolder(writeTiny(tiny), async (folder) => {
    const file = join(folder, "diffusion_pytorch_model.safetensors");
    const { length } = await readFile(file);
    await truncate(file, length - 100);
    await assert.rejects(loadTransformer(folder), { name: "SyntaxError", message: /must cover the data/ });
  });
});

Deno.test("an index that leads out of the folder, or tells what is not there, is refused", async () => {
  const tiny = await readTiny("pixart");
  await withFolder(writeTiny(tiny, 2), async (folder) => {
    const path = join(folder, "diffusion_pytorch_model.safetensors.index.json");
    const index = JSON.parse(await readFile(path, "utf8"));
    const names = Object.keys(index.weight_map);
    const write = (map: unknown) => writeFile(path, JSON.stringify({ weight_map: map }));
    for (const file of ["../secret.safetensors", "/etc/passwd", "a\\b.safetensors", "model.bin", 7, null]) {
      await write({ ...index.weight_map, [names[0]!]: file });
      await assert.rejects(loadTransformer(folder), {
        name: "RangeError",
        message: /must be safetensors beside it/,
      });
    }
    await write(undefined);
    await assert.rejects(loadTransformer(folder), /must have a weight_map/);
    // A name in the wrong shard.
    await write({ ...index.weight_map, [names[0]!]: index.weight_map[names.at(-1)!] });
    await assert.rejects(loadTransformer(folder), /each shard must hold what the index says/);
    await write({ ...index.weight_map, [names[0]!]: "diffusion_pytorch_model-00009-of-00002.safetensors" });
    await assert.rejects(loadTransformer(folder), /ENOENT|No such file/i);
  });
});

Deno.test("inputs of other shapes are refused, and leave nothing behind", async () => {
  const { model } = await loadTransformer(join(models, "pixart"));
  const tiny = model as DiffusionTransformer<PixArtInputs>;
  const inputs = pixartInputs();
  const wide = tf.zeros<tf.Rank.R3>([2, 5, 4096]);
  const odd = tf.zeros<tf.Rank.R4>([2, 4, 31, 32]);
  const before = tf.memory().numTensors;
  const refused: [Partial<PixArtInputs>, RegExp][] = [
    [{ text: wide }, /'text' must be \[2, any, 24\]: current shape is \[2, 5, 4096\]/],
    [{ sample: odd }, /multiples of 2: current shape is \[2, 4, 31, 32\]/],
    [{ timestep: [1, 2, 3] }, /'timestep' must have the elements of \[2\]: current size is 3/],
    [{ textMask: [1] }, /'textMask' must have the elements of \[2, 5\]/],
  ];
  for (const [change, message] of refused) {
    assert.throws(() => tiny.forward({ ...inputs, ...change }), message);
    await assert.rejects(tiny.forwardAsync({ ...inputs, ...change }), message);
  }
  const broken = () => {
    throw new Error("attention broke");
  };
  assert.throws(() => tiny.forward(inputs, { attention: broken }), /attention broke/);
  assert.throws(
    () => tiny.forward(inputs, { attention: (() => Promise.resolve(null)) as never }),
    /use forwardAsync/,
  );
  assert.equal(tf.memory().numTensors, before);
  model.dispose();
});

Deno.test("a mask of the text is the text without those tokens; a row without any sees all", async () => {
  const { model } = await loadTransformer(join(models, "pixart"));
  const tiny = model as DiffusionTransformer<PixArtInputs>;
  const inputs = pixartInputs();
  const run = async (change: Partial<PixArtInputs>) => await tiny.forward({ ...inputs, ...change }).data();
  const kept = tf.gather(inputs.text, [0, 3], 1);
  // Sums of the same numbers, in the same order.
  assert.deepEqual(await run({ textMask: [1, 0, 0, 1, 0, 1, 0, 0, 1, 0] }), await run({ text: kept }));
  assert.deepEqual(await run({ textMask: new Int32Array(10) }), await run({}));
  const rows = await run({ textMask: [1, 1, 0, 0, 0, 1, 1, 1, 1, 1] });
  assert.deepEqual(rows.slice(rows.length / 2), (await run({})).slice(rows.length / 2));
  assert.notDeepEqual(rows.slice(0, rows.length / 2), (await run({})).slice(0, rows.length / 2));
  model.dispose();
});

Deno.test("the gradient of a pass is that of finite differences", async () => {
  const { model } = await loadTransformer(join(models, "pixart"));
  const tiny = model as DiffusionTransformer<PixArtInputs>;
  const inputs = pixartInputs();
  const direction = numbers("direction", [2, 8, 32, 32]);
  const loss = (sample: tf.Tensor) =>
    tf.mean(tf.mul(tiny.forward({ ...inputs, sample: sample as tf.Tensor4D }), direction)).asScalar();
  const gradient = tf.grad(loss)(inputs.sample);
  const move = numbers("move", inputs.sample.shape);
  const slope = tf.sum(tf.mul(gradient, move)).dataSync()[0]!;
  const step = 1e-2;
  const [up, down] = [step, -step].map((by) => loss(tf.add(inputs.sample, tf.mul(move, by))).dataSync()[0]!);
  // Second order in the step, and float32 rounding over it.
  assert.ok(
    Math.abs((up! - down!) / (2 * step) - slope) < 1e-2 * Math.abs(slope),
    `${(up! - down!) / (2 * step)} and ${slope}`,
  );
  model.dispose();
});

Deno.test("a model of variables can be trained: every one has a gradient", async () => {
  const checkpoint = await openCheckpoint(join(models, "pixart"));
  const config = pixartConfig(checkpoint.config);
  const { outer } = await loadWeights(checkpoint, pixartParameters(config));
  await checkpoint.close();
  const variables = new Map([...outer].map(([name, tensor]) => [name, tf.variable(tensor)]));
  const model = pixart(config, residentWeights(variables));
  const inputs = pixartInputs();
  const { grads } = tf.variableGrads(() => tf.mean(tf.square(model.forward(inputs))).asScalar());
  assert.equal(Object.keys(grads).length, variables.size);
  for (const [name, variable] of variables) {
    const size = tf.max(tf.abs(grads[variable.name]!)).dataSync()[0]!;
    // A constant added to all keys moves no softmax: up to rounding these have none.
    if (name.endsWith("to_k.bias")) assert.ok(size < 1e-6, name);
    else assert.ok(size > 1e-6, `${name} has gradient ${size}`);
  }
  model.dispose();
});

Deno.test("older names of an autoencoder's attention are understood", async () => {
  const folder = join(models, "vae_tiny");
  const config = JSON.parse(await readFile(join(folder, "config.json"), "utf8"));
  const tensors = readSafetensors(await readFile(join(folder, "diffusion_pytorch_model.safetensors")));
  const older: Record<string, string> = {
    to_q: "query",
    to_k: "key",
    to_v: "value",
    "to_out.0": "proj_attn",
  };
  const renamed = new Map([...tensors].map(([name, tensor]) => {
    const found = /^(.*attentions\.0\.)(to_q|to_k|to_v|to_out\.0)\.(weight|bias)$/.exec(name);
    if (!found) return [name, tensor] as const;
    const [, before, part, end] = found as unknown as [string, string, string, string];
    // They were convolutions of one pixel once.
    const shape = end === "weight" ? [...tensor.shape, 1, 1] : tensor.shape;
    return [`${before}${older[part]}.${end}`, { ...tensor, shape }] as const;
  }));
  await withFolder(writeTiny({ config, tensors: renamed }), async (own) => {
    const latents = numbers("latents", [1, 4, 4, 4]) as tf.Tensor4D;
    const [today, once] = await Promise.all([folder, own].map((path) => loadAutoencoder(path)));
    assert.deepEqual(await once!.decode(latents).data(), await today!.decode(latents).data());
  });
});

Deno.test("an autoencoder of other blocks is refused", async () => {
  const tiny = JSON.parse(await readFile(join(models, "vae_tiny", "config.json"), "utf8"));
  const tensors = new Map<string, SafetensorsTensor>();
  for (
    const [change, message] of [
      [{ up_block_types: ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"] }, /'up_block_types'/],
      [{ norm_num_groups: 3 }, /multiples of 3/],
      [{ block_out_channels: [] }, /'block_out_channels'/],
      [{ _class_name: "AsymmetricAutoencoderKL" }, /'_class_name'/],
    ] as const
  ) {
    await withFolder(writeTiny({ config: { ...tiny, ...change }, tensors }), async (folder) => {
      await assert.rejects(loadAutoencoder(folder), { message });
    });
  }
});
