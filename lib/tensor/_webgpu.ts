/**
 * TensorFlow.js's WebGPU backend on the runtime's own WebGPU, with errors that are heard: WebGPU reports a broken
 * shader or a lost device by an event, and TensorFlow.js ignores it and returns whatever the buffer held.
 */
import * as tf from "@tensorflow/tfjs";
import type { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";
import { tmpdir } from "node:os";
import process from "node:process";
import type { BackendDriver, BackendOptions, BackendRecord } from "./_driver.ts";

/** Features that make kernels faster or better timed where the adapter has them. */
const WANTED_FEATURES: readonly GPUFeatureName[] = [
  "timestamp-query",
  "bgra8unorm-storage",
  "shader-f16",
  "subgroups",
];

/** Limits that decide how large a tensor and a workgroup may be: as much as the adapter gives. */
const WANTED_LIMITS = [
  "maxComputeWorkgroupStorageSize",
  "maxComputeWorkgroupsPerDimension",
  "maxStorageBufferBindingSize",
  "maxBufferSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "maxComputeInvocationsPerWorkgroup",
] as const;

interface Running {
  readonly adapter: GPUAdapter;
  /** The first error since the device was made; whatever the device computed after it is not to be trusted. */
  failure: Error | null;
}

let running: Running | null = null;

/** Linux drivers complain on stderr, at each start, where no desktop session has named a folder for its sockets. */
function nameRuntimeFolder(): void {
  try {
    process.env.XDG_RUNTIME_DIR ||= tmpdir();
  } catch {
    // Without --allow-env they complain, and work.
  }
}

function requestAdapter(): Promise<GPUAdapter | null> {
  nameRuntimeFolder();
  return Promise.resolve(
    globalThis.navigator?.gpu?.requestAdapter({ powerPreference: "high-performance" }) ?? null,
  );
}

/** True for adapters that run on the CPU: Mesa's llvmpipe, SwiftShader, Windows' WARP. */
function isSoftware({ info }: GPUAdapter): boolean {
  const names = `${info.vendor} ${info.architecture} ${info.device} ${info.description}`;
  return info.isFallbackAdapter || /llvmpipe|softpipe|swiftshader|basic render/i.test(names);
}

function nameOf({ info }: GPUAdapter): string {
  return info.description || info.device || info.vendor || "unnamed adapter";
}

async function missing({ allowSoftware = false }: BackendOptions): Promise<string | null> {
  const adapter = await requestAdapter();
  if (adapter === null) {
    return "the runtime offers no WebGPU adapter; it needs a GPU with a Vulkan, Metal or D3D12 driver " +
      "(for tests without a GPU: Mesa's software driver, Debian: apt install mesa-vulkan-drivers)";
  }
  if (isSoftware(adapter) && !allowSoftware) {
    return `the only adapter is software, '${
      nameOf(adapter)
    }', which is fit for tests and not for timings; ` +
      "pass { allowSoftware: true } to accept it";
  }
  return null;
}

async function register(): Promise<void> {
  const { WebGPUBackend } = await import("@tensorflow/tfjs-backend-webgpu");
  const adapter = await requestAdapter();
  if (adapter === null) throw new Error("Cannot start WebGPU as an adapter must be there: it went away");
  const device = await adapter.requestDevice({
    requiredFeatures: WANTED_FEATURES.filter((name) => adapter.features.has(name)),
    requiredLimits: Object.fromEntries(WANTED_LIMITS.map((name) => [name, adapter.limits[name]])),
  });
  const state: Running = { adapter, failure: null };
  const backend = heard(new WebGPUBackend(device, adapter.info), state);
  // Replaces the package's own registration, whose device nobody listens to, and any device that has failed.
  if (tf.findBackendFactory("webgpu") !== null) tf.removeBackend("webgpu");
  tf.registerBackend("webgpu", () => backend);
  running = state;
}

/**
 * Makes `backend` throw what its device reports. WebGPU tells of errors after the fact, so the operation that
 * caused one has returned: the next operation throws, and so does every read, before it hands out the data.
 */
function heard(backend: WebGPUBackend, state: Running): WebGPUBackend {
  const { device } = backend;
  device.addEventListener("uncapturederror", (event) => {
    const { error } = event as GPUUncapturedErrorEvent;
    event.preventDefault();
    state.failure ??= new Error(
      `Cannot go on computing as every GPU command must be valid: the device reports ${error.constructor.name}: ` +
        `${error.message.trim()}. Tensors on the GPU are void; useBackend("webgpu") starts a new device`,
    );
  });
  device.lost.then(({ reason, message }) => {
    state.failure ??= new Error(
      `Cannot go on computing as the GPU device must be there: it was lost (${reason}: ${message}). ` +
        'Tensors on the GPU are void; useBackend("webgpu") starts a new device',
    );
  });
  const check = () => {
    if (state.failure !== null) throw state.failure;
  };

  const runWebGPUProgram = backend.runWebGPUProgram.bind(backend);
  backend.runWebGPUProgram = (...call) => {
    check();
    return runWebGPUProgram(...call);
  };
  const read = backend.read.bind(backend);
  backend.read = async (dataId) => {
    check();
    let data;
    try {
      data = await read(dataId);
    } finally {
      // Errors arrive as tasks of the event loop; let those that are due go first.
      await new Promise((resolve) => setImmediate(resolve));
      check();
    }
    return data;
  };
  backend.readSync = (dataId) => {
    check();
    const { values } = backend.tensorMap.get(dataId);
    if (values != null) return values;
    throw new Error(
      "Cannot read a tensor synchronously as the WebGPU backend must wait for the device: " +
        "current call is dataSync() or arraySync(); use await data() or await array()",
    );
  };
  return backend;
}

/** False once the device has failed: it has to be started anew. */
function healthy(): boolean {
  return running?.failure === null;
}

function record(): BackendRecord {
  if (running === null) throw new Error("Cannot describe the backend 'webgpu' as it must run: it does not");
  const { adapter } = running;
  const { vendor, architecture } = adapter.info;
  return {
    name: "webgpu",
    device: nameOf(adapter),
    driver: [`WebGPU of ${navigator.userAgent}`, vendor && `vendor ${vendor}`, architecture]
      .filter(Boolean).join(", "),
    tfjs: tf.version.tfjs,
    software: isSoftware(adapter),
    threads: 1,
  };
}

export const webgpu: BackendDriver = { missing, register, record, healthy };
