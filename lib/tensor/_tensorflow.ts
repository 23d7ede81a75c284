/**
 * TensorFlow's C++ library behind TensorFlow.js: the source of `@tensorflow/tfjs-node`, compiled by
 * `deno task setup:tensorflow` against a TensorFlow of today. The npm package's own binaries hold TensorFlow 2.9
 * and do not load in current runtimes.
 */
import * as tf from "@tensorflow/tfjs";
import { readdirSync, readFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import process from "node:process";
import util from "node:util";
import { type BackendDriver, type BackendRecord, processorName } from "./_driver.ts";
import { type TensorflowFiles, tensorflowFiles, tensorflowVersion } from "./tensorflow_files.ts";

/** What the kit uses of the compiled binding. */
interface Binding {
  readonly TF_Version: string;
  isUsingGpuDevice(): boolean;
}

/** What the kit uses of `nodejs_kernel_backend.js`. */
interface KernelBackendModule {
  readonly NodeJSKernelBackend: new (binding: Binding, packageName: string) => tf.KernelBackend;
}

let loaded: { readonly binding: Binding; readonly files: TensorflowFiles } | null = null;

/** True when `path` exists. A missing permission is an error, not a "no". */
async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}

/** The CUDA build where it is set up (and not declined by NORMLAB_TENSORFLOW=cpu), else the one for the CPU. */
async function findFiles(): Promise<TensorflowFiles | null> {
  const builds = process.env.NORMLAB_TENSORFLOW === "cpu"
    ? ["cpu" as const]
    : ["cuda" as const, "cpu" as const];
  for (const build of builds) {
    const files = tensorflowFiles(build);
    if (await exists(files.ready)) return files;
  }
  return null;
}

/** Whether the build for GPUs is there and not declined; false too where its folder cannot be looked at. */
export async function cudaIsSetUp(): Promise<boolean> {
  try {
    return (await findFiles())?.build === "cuda";
  } catch {
    return false;
  }
}

async function missing(): Promise<string | null> {
  if (loaded !== null) return null;
  try {
    if ((await findFiles()) !== null) return null;
  } catch (error) {
    return `its folder cannot be looked at (${(error as Error).message}); ` +
      "it needs --allow-read, --allow-env and --allow-ffi";
  }
  return `TensorFlow ${tensorflowVersion} is not set up in ${tensorflowFiles("cpu").folder}; ` +
    'run "deno task setup:tensorflow"';
}

async function register(): Promise<void> {
  if (loaded !== null) return;
  const files = await findFiles();
  if (files === null) throw new Error(`Cannot load TensorFlow as its files must be there: they were removed`);
  const { binding, NodeJSKernelBackend } = load(files);
  if (files.build === "cuda" && !binding.isUsingGpuDevice()) {
    throw new Error(
      "Cannot use the CUDA build of TensorFlow as it must find a GPU: it found none (TF_CPP_MIN_LOG_LEVEL=0 shows " +
        'why). To compute on the processor, set NORMLAB_TENSORFLOW=cpu and run "deno task setup:tensorflow"',
    );
  }
  // By this name the kernels know whether they may use what only the CUDA kernels can do (dilated conv3d).
  const packageName = `@tensorflow/tfjs-node${files.build === "cuda" ? "-gpu" : ""}`;
  tf.registerBackend("tensorflow", () => new NodeJSKernelBackend(binding, packageName));
  loaded = { binding, files };
}

function load(files: TensorflowFiles): KernelBackendModule & { readonly binding: Binding } {
  prepareEnvironment();
  const require = createRequire(files.loader);
  // The libraries need no search path: each finds the next by its place relative to itself ($ORIGIN).
  const binding: Binding = require(files.loader);
  // The kernels' `require("@tensorflow/tfjs")` finds a stand-in that hands over this instance.
  Reflect.set(globalThis, Symbol.for("normlab.tfjs"), tf);
  const { NodeJSKernelBackend }: KernelBackendModule = require(
    `${files.package}/dist/nodejs_kernel_backend.js`,
  );
  require(`${files.package}/dist/register_all_kernels.js`);
  return { binding, NodeJSKernelBackend };
}

/** TensorFlow reads these when it is loaded, once. What the user has set stays. */
function prepareEnvironment(): void {
  // TensorFlow turns oneDNN on by itself only on some processors; it makes convolutions faster on the others too.
  process.env.TF_ENABLE_ONEDNN_OPTS ??= "1";
  // One thread per process: the kit's parallelism is one trial per core.
  process.env.TF_NUM_INTRAOP_THREADS ??= "1";
  process.env.TF_NUM_INTEROP_THREADS ??= "1";
  process.env.TF_CPP_MIN_LOG_LEVEL ??= "3";
  process.env.TF_FORCE_GPU_ALLOW_GROWTH ??= "true";
  // tfjs-node calls two functions that Node removed in version 23 and Deno never had.
  Reflect.set(util, "isNullOrUndefined", (value: unknown) => value === null || value === undefined);
  Reflect.set(util, "isArray", Array.isArray);
}

/** The GPU's model name, as NVIDIA's kernel driver tells it. */
function nvidiaName(): string {
  const folder = "/proc/driver/nvidia/gpus";
  try {
    const [first = ""] = readdirSync(folder);
    return /Model:\s*(.+)/.exec(readFileSync(join(folder, first, "information"), "utf8"))?.[1] ??
      "NVIDIA GPU";
  } catch {
    return "NVIDIA GPU (model not readable)";
  }
}

function record(): BackendRecord {
  if (loaded === null) {
    throw new Error("Cannot describe the backend 'tensorflow' as it must run: it does not");
  }
  const { binding, files } = loaded;
  const gpu = files.build === "cuda";
  return {
    name: "tensorflow",
    device: gpu ? nvidiaName() : processorName(),
    driver: gpu ? "TensorFlow's CUDA kernels" : "TensorFlow's CPU kernels (Eigen, oneDNN)",
    tfjs: tf.version.tfjs,
    library: `libtensorflow ${binding.TF_Version}`,
    software: false,
    threads: Number(process.env.TF_NUM_INTRAOP_THREADS),
  };
}

export const tensorflow: BackendDriver = { missing, register, record, healthy: () => true };
