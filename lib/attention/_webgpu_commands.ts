/** Own shaders among the commands of TensorFlow.js's webgpu backend. Room-private. */
import * as tf from "@tensorflow/tfjs";
import type { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";

/** What the backend keeps to itself: the commands not yet submitted, and what they use. */
interface Commands {
  commandEncoder: GPUCommandEncoder | null;
  computePassEncoder: GPUComputePassEncoder | null;
  commandQueueOwnedIds: WeakSet<tf.DataId>;
  dispatchCountInPass: number;
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
export interface Dispatch {
  readonly code: string;
  /** What it is, for error messages. */
  readonly label: string;
  readonly workgroups: readonly [number, number, number];
  /** Buffers, and tensors with theirs, in the order of the shader's bindings. */
  readonly bindings: readonly (GPUBuffer | tf.TensorInfo)[];
}

/** Adds a dispatch to the backend's commands, the way it adds those of its own kernels. */
export function record(backend: WebGPUBackend, { code, label, workgroups, bindings }: Dispatch): void {
  const { device } = backend;
  const commands = backend as unknown as Commands;
  const pipeline = pipelineOf(device, code, label);
  const entries = bindings.map((bound, binding) => {
    if (!("dataId" in bound)) return { binding, resource: { buffer: bound } };
    backend.uploadToGPU(bound.dataId);
    return { binding, resource: { buffer: backend.tensorMap.get(bound.dataId).resource as GPUBuffer } };
  });
  backend.ensureCommandEncoderReady();
  const pass = commands.computePassEncoder ??= commands.commandEncoder!.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
  pass.dispatchWorkgroups(...workgroups);
  for (const bound of bindings) if ("dataId" in bound) commands.commandQueueOwnedIds.add(bound.dataId);
  commands.dispatchCountInPass++;
  if (commands.dispatchCountInPass >= tf.env().getNumber("WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE")) {
    backend.endComputePassEncoder();
    backend.submitQueue();
  }
}
