/**
 * Choosing the backend that computes. The choice is explicit and loud: a backend that is not there is an
 * error that says how to get it, never a silent change to another.
 */
import * as tf from "@tensorflow/tfjs";
import { registerCast } from "./_cast.ts";
import { registerConvolutionGradients } from "./conv_gradients.ts";
import type { BackendDriver, BackendName, BackendOptions, BackendRecord } from "./_driver.ts";
import { registerExtremumGradients } from "./_extremum_gradients.ts";
import { mendSavedOutputs } from "./_saved_outputs.ts";
import { cudaIsSetUp, tensorflow } from "./_tensorflow.ts";
import { wasm } from "./_wasm.ts";
import { webgpu } from "./_webgpu.ts";

export type { BackendName, BackendOptions, BackendRecord } from "./_driver.ts";

const drivers = new Map<BackendName, BackendDriver>([["wasm", wasm], ["tensorflow", tensorflow], [
  "webgpu",
  webgpu,
]]);

/** The backend in use, or null before the first {@linkcode useBackend}. */
let current: BackendRecord | null = null;

/** Calls wait for each other: TensorFlow.js starts backends asynchronously, one at a time. */
let queue: Promise<unknown> = Promise.resolve();

/**
 * Makes TensorFlow.js compute on the backend `name`. `auto` takes `tensorflow` if its build for GPUs is set up, else
 * `wasm`, whose own kernels are the faster ones on a processor.
 * Asking again for the backend in use changes nothing.
 *
 * ```ts
 * import { useBackend } from "@normlab/normlab/tensor";
 * import * as tf from "@tensorflow/tfjs";
 *
 * const { name, device } = await useBackend("wasm");
 * console.log(`${name} on ${device}: ${tf.scalar(1).add(1)}`);
 * ```
 *
 * @throws {RangeError} `name` is not a backend of the kit.
 * @throws {Error} The backend cannot be used here; the message says why and how to get it.
 */
export function useBackend(
  name: BackendName | "auto",
  options: BackendOptions = {},
): Promise<BackendRecord> {
  const choice = queue.then(() => choose(name, options));
  queue = choice.catch(() => {});
  return choice;
}

/**
 * Every backend with null if it can be used here, else the reason why not.
 *
 * ```ts
 * import { availableBackends } from "@normlab/normlab/tensor";
 *
 * for (const [name, reason] of await availableBackends()) console.log(name, reason ?? "is ready");
 * ```
 */
export async function availableBackends(
  options: BackendOptions = {},
): Promise<Map<BackendName, string | null>> {
  const found = new Map<BackendName, string | null>();
  for (const [name, driver] of drivers) found.set(name, await driver.missing(options));
  return found;
}

async function choose(name: BackendName | "auto", options: BackendOptions): Promise<BackendRecord> {
  const wanted = name === "auto" ? await best(options) : name;
  const driver = drivers.get(wanted);
  if (driver === undefined) {
    const names = ["auto", ...drivers.keys()].join(", ");
    throw new RangeError(`Cannot use a backend as 'name' must be one of ${names}: current name is '${name}'`);
  }
  // A stranger may have called tf.setBackend since, so what TensorFlow.js says counts.
  if (current?.name === wanted && tf.getBackend() === wanted && driver.healthy()) return current;

  const reason = await driver.missing(options);
  if (reason !== null) throw new Error(`Cannot use the backend '${wanted}': ${reason}`);
  await driver.register(options);
  registerExtremumGradients();
  mendSavedOutputs();
  registerCast();
  registerConvolutionGradients();
  const started = await tf.setBackend(wanted);
  if (!started || tf.getBackend() !== wanted) {
    current = null;
    throw new Error(
      `Cannot use the backend '${wanted}' as it did not start: current backend is '${tf.getBackend()}'`,
    );
  }
  current = driver.record();
  return current;
}

async function best(options: BackendOptions): Promise<BackendName> {
  return await cudaIsSetUp() && (await tensorflow.missing(options)) === null ? "tensorflow" : "wasm";
}
