/** Own shaders among the commands of TensorFlow.js's webgpu backend. Room-private. */
import type { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";
import { type GpuDispatch, recordDispatches } from "../tensor/mod.ts";

/** What the backend keeps to itself. */
interface Commands {
  uniformPendingDisposal: GPUBuffer[];
}

/** Pipelines by code: a shader depends on the head dimension and what is asked for, so there are few. */
const pipelines = new WeakMap<GPUDevice, Map<string, GPUComputePipeline>>();

/** Compiles a shader, once. An error of it is reported by the device, with the label: the backend's next operation throws it. */
function pipelineOf(device: GPUDevice, code: string, label: string): GPUComputePipeline {
  let known = pipelines.get(device);
  if (known === undefined) pipelines.set(device, known = new Map());
  let pipeline = known.get(code);
  if (pipeline === undefined) {
    const module = device.createShaderModule({ code, label });
    pipeline = device.createComputePipeline({
      label,
      layout: "auto",
      compute: { module, entryPoint: "main" },
    });
    known.set(code, pipeline);
  }
  return pipeline;
}

/** A uniform buffer for the commands that are being recorded. */
export function uniforms(backend: WebGPUBackend, words: ArrayBuffer): GPUBuffer {
  const size = Math.ceil(words.byteLength / 16) * 16;
  const buffer = backend.bufferManager.acquireBuffer(size, GPUBufferUsage.COPY_DST | GPUBufferUsage.UNIFORM);
  backend.device.queue.writeBuffer(buffer, 0, words);
  (backend as unknown as Commands).uniformPendingDisposal.push(buffer);
  return buffer;
}

/** One run of a shader. */
export interface Dispatch extends Pick<GpuDispatch, "workgroups" | "bindings"> {
  readonly code: string;
  /** What it is, for error messages. */
  readonly label: string;
}

/** Adds a dispatch to the backend's commands. */
export function record(backend: WebGPUBackend, { code, label, workgroups, bindings }: Dispatch): void {
  recordDispatches(backend, [{ pipeline: pipelineOf(backend.device, code, label), workgroups, bindings }]);
}
