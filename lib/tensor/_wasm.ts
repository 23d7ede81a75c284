/** TensorFlow.js's WebAssembly backend: nothing to install, one thread per process. */
import * as tf from "@tensorflow/tfjs";
import { open } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { convolutionEngines } from "./_convolution_engines.ts";
import { type BackendDriver, type BackendRecord, processorName } from "./_driver.ts";
import { replaceKernel } from "./_replace_kernel.ts";

/** The SIMD build, which lies beside the package's main file. */
function binaryPath(): string {
  const main = fileURLToPath(import.meta.resolve("@tensorflow/tfjs-backend-wasm"));
  return join(dirname(main), "tfjs-backend-wasm-simd.wasm");
}

async function missing(): Promise<string | null> {
  // TensorFlow.js would print a stack and fall through to another backend: ask first.
  try {
    await (await open(binaryPath())).close();
  } catch (error) {
    return `its binary cannot be read (${(error as Error).message}); it needs --allow-read`;
  }
  return null;
}

/**
 * TensorFlow.js clones every tensor that it saves for a gradient, and its wasm kernel for that copies the data. Tensors never change,
 * so a clone can share them, as a reshape does.
 */
const sharingClone: tf.KernelConfig = {
  kernelName: "Identity",
  backendName: "wasm",
  kernelFunc: ({ inputs, backend }) => {
    const { dataId, shape, dtype } = inputs["x"] as tf.TensorInfo;
    (backend as tf.KernelBackend).incRef(dataId);
    return { dataId, shape, dtype };
  },
};

async function register(): Promise<void> {
  await import("@tensorflow/tfjs-backend-wasm");
  if (!(await tf.env().getAsync("WASM_HAS_SIMD_SUPPORT"))) {
    throw new Error("Cannot use the backend 'wasm' as the runtime must have WebAssembly SIMD: it has not");
  }
  // The threaded build does not start in Deno, and TensorFlow.js then changes to `cpu` without a word.
  tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
  replaceKernel(sharingClone);
}

function record(): BackendRecord {
  return {
    name: "wasm",
    device: processorName(),
    driver: "WebAssembly SIMD",
    tfjs: tf.version.tfjs,
    library: `convolutions by ${convolutionEngines().map(({ name }) => name).join(", ")}`,
    software: false,
    threads: 1,
  };
}

export const wasm: BackendDriver = { missing, register, record, healthy: () => true };
