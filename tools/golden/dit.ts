/** The group `models` of the references of diffusion: tiny transformers as checkpoints, their forward passes and whole runs. */
import * as tf from "@tensorflow/tfjs";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { loadAutoencoder } from "../../lib/models/mod.ts";
import { checkForward, type Deviations, readTensors } from "./_dit_model.ts";
import { checkPlan } from "./_dit_plan.ts";
import { checkRuns, type RunFacts } from "./_dit_run.ts";
import { compare, type Comparison, type Evaluation } from "./report.ts";

interface Report {
  models: Record<
    string,
    { forward_max_abs_f32_vs_f64?: Deviations; run?: RunFacts; max_abs_f32_vs_f64?: number }
  >;
}

/** What a network of a few convolutions was off in float32, where it was not stated. */
const ENCODER_DEVIATION = 2e-6;

/** Transformers, in the order in which they are checked. */
const names = ["pixart", "pixart_addcond", "dit", "hunyuan", "cogvideox", "cogvideox_rope"];

/** Whether a folder `models` is of diffusion, and not of convolutional networks. */
export async function holdsTransformers(folder: string): Promise<boolean> {
  return await isFile(join(folder, "report.json"));
}

/**
 * Compares forward passes with each way to attend; whole runs (of the models `running`) once, with whatever `attend` takes by itself.
 */
export async function checkTransformers(
  folder: string,
  { evaluation }: Evaluation,
  running: readonly string[] = names,
): Promise<{ comparisons: Comparison[]; skipped: string[] }> {
  const { models }: Report = JSON.parse(await readFile(join(folder, "report.json"), "utf8"));
  const comparisons: Comparison[] = [];
  const skipped: string[] = [];
  const implementation = evaluation === "compiled" ? "auto" : "reference";
  const backend = tf.getBackend();
  for (const name of names) {
    const { forward_max_abs_f32_vs_f64: deviations = {}, run } = models[name] ?? {};
    const own = join(folder, name);
    comparisons.push(...await checkForward(own, name, implementation, deviations));
    if (!run || evaluation !== "compiled" || !running.includes(name)) continue;
    if (backend === "webgpu") skipped.push(`runs of ${name}: on webgpu forward passes only`);
    else comparisons.push(...await checkRuns(own, name, run, deviations));
  }
  const { max_abs_f32_vs_f64 = ENCODER_DEVIATION } = models.vae_tiny ?? {};
  comparisons.push(...await checkAutoencoder(join(folder, "vae_tiny"), max_abs_f32_vs_f64));
  const rivals = join(folder, "..", "rivals");
  if (
    evaluation === "compiled" && running.includes("pixart") &&
    await isFile(join(rivals, "ditfastattn_plan.json"))
  ) {
    if (backend === "webgpu") skipped.push("plan of DiTFastAttn: on webgpu forward passes only");
    else comparisons.push(...await checkPlan(folder, rivals));
  }
  return { comparisons, skipped };
}

/** Compares what the autoencoder makes of latents and of a picture. Errors are absolute: the values are of order 1. */
async function checkAutoencoder(folder: string, deviation: number): Promise<Comparison[]> {
  const tensors = await readTensors(join(folder, "decode_encode.safetensors"));
  const model = await loadAutoencoder(folder);
  const tensor = (name: string) => {
    const { data, shape } = tensors.get(name)!;
    return tf.tensor4d(data as Float32Array, shape as [number, number, number, number]);
  };
  const latents = tf.tidy(() => tf.div<tf.Tensor4D>(tensor("in.latents"), model.config.scalingFactor));
  const image = tensor("in.image");
  const { mean, logVariance } = model.encode(image);
  const made = { decoded: model.decode(latents), mean, logvar: logVariance };
  const comparisons: Comparison[] = [];
  for (const [part, found] of Object.entries(made)) {
    const { data, shape } = tensors.get(`out.${part}`)!;
    const tolerance = 10 * Math.max(deviation, ENCODER_DEVIATION);
    comparisons.push(
      compare(`vae_tiny/${part}`, await found.data(), data as Float32Array, shape, tolerance, 1),
    );
    found.dispose();
  }
  tf.dispose([latents, image]);
  model.dispose();
  return comparisons;
}

async function isFile(path: string): Promise<boolean> {
  return await stat(path).then((found) => found.isFile(), () => false);
}
