/** Runs that are under way, as bytes of a file. */
import {
  readSafetensors,
  readSafetensorsMetadata,
  type SafetensorsTensor,
  writeSafetensors,
} from "../tensor/mod.ts";
import type { SamplingState } from "./sampling.ts";
import type { Scheduler } from "./types.ts";

const FORMAT = "normlab sampling state 1";
const EXTRA = "extra.";

/**
 * A run as the bytes of a safetensors file: `latents`, the scheduler's `history.0`, ..., and its label, the seed and the steps under the
 * metadata. `extras` are bytes that belong to it, under names of the caller's: what attention remembers, say (`saveState` of room attention).
 */
export function saveSampling(
  state: SamplingState,
  extras: Readonly<Record<string, Uint8Array>> = {},
): Uint8Array {
  const { seed, shape, latents, scheduler } = state;
  const tensors = new Map<string, SafetensorsTensor>();
  for (const [i, data] of [latents, ...scheduler.history].entries()) {
    const name = i === 0 ? "latents" : `history.${i - 1}`;
    tensors.set(name, { dtype: "F32", shape: [...shape], data: Float32Array.from(data) });
  }
  for (const [name, data] of Object.entries(extras)) {
    tensors.set(EXTRA + name, { dtype: "U8", shape: [data.length], data: Uint8Array.from(data) });
  }
  return writeSafetensors(tensors, {
    format: FORMAT,
    scheduler: scheduler.scheduler,
    seed: JSON.stringify(seed),
    steps: JSON.stringify(scheduler.timesteps.length),
    step: JSON.stringify(scheduler.step),
  });
}

/**
 * What {@linkcode saveSampling} wrote, to go on with `scheduler`.
 * @throws {SyntaxError} The bytes are no such file, or lack tensors that the scheduler holds at that step.
 * @throws {TypeError} The run is one of another scheduler or of other settings.
 */
export function restoreSampling(
  scheduler: Scheduler,
  bytes: Uint8Array,
): { state: SamplingState; extras: Map<string, Uint8Array> } {
  const metadata = readSafetensorsMetadata(bytes);
  const text = (key: string) => metadata.get(key);
  if (text("format") !== FORMAT) {
    throw malformed(`format must be "${FORMAT}"`, `format is ${quote(text("format"))}`);
  }
  if (text("scheduler") !== scheduler.label) {
    throw new TypeError(
      `Cannot restore as the run's scheduler must be ${scheduler.label}: current scheduler is ${
        quote(text("scheduler"))
      }`,
    );
  }
  const seed = value(metadata, "seed");
  if (typeof seed !== "string" && !Number.isSafeInteger(seed)) {
    throw malformed("'seed' must be a whole number or text", `seed is ${quote(text("seed"))}`);
  }
  const steps = value(metadata, "steps") as number;
  const step = value(metadata, "step") as number;
  if (!(Number.isSafeInteger(steps) && Number.isSafeInteger(step) && step >= 0 && step <= steps)) {
    throw malformed(
      "'step' must be one of 'steps'",
      `step is ${quote(text("step"))} of ${quote(text("steps"))}`,
    );
  }

  const file = readSafetensors(bytes);
  const shape = file.get("latents")?.shape ?? [];
  const held = scheduler.holds(steps, step);
  const names = ["latents", ...Array.from({ length: held }, (_, i) => `history.${i}`)];
  const [latents, ...history] = names.map((name) => {
    const tensor = file.get(name);
    if (tensor?.dtype !== "F32" || tensor.shape.join() !== shape.join() || shape.length === 0) {
      const found = tensor ? `${tensor.dtype} [${tensor.shape.join(", ")}]` : "missing";
      throw malformed(`tensor "${name}" must be F32 [${shape.join(", ")}]`, `tensor is ${found}`);
    }
    return Float32Array.from(tensor.data as Float32Array); // the file's bytes are the caller's
  }) as [Float32Array, ...Float32Array[]];
  const extras = new Map<string, Uint8Array>();
  for (const [name, { dtype, data }] of file) {
    if (names.includes(name)) continue;
    if (!name.startsWith(EXTRA) || dtype !== "U8") {
      throw malformed(`tensors must be ${names.join(", ")} and extras`, `tensor ${quote(name)} is there too`);
    }
    extras.set(name.slice(EXTRA.length), Uint8Array.from(data as Uint8Array));
  }
  const restored = scheduler.restore(steps, step, history);
  return { state: { seed: seed as number | string, shape, latents, scheduler: restored }, extras };
}

function value(metadata: ReadonlyMap<string, string>, key: string): unknown {
  try {
    return JSON.parse(metadata.get(key) ?? "");
  } catch {
    throw malformed(`'${key}' must be what saveSampling writes`, `${key} is ${quote(metadata.get(key))}`);
  }
}

/** Text of a file for a message. */
function quote(text: string | undefined): string {
  return text === undefined
    ? "missing"
    : JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}...` : text);
}

function malformed(requirement: string, found: string): SyntaxError {
  return new SyntaxError(`Cannot restore as ${requirement}: current ${found}`);
}
