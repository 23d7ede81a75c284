/** Own shaders among the commands of TensorFlow.js's webgpu backend. */
import * as tf from "@tensorflow/tfjs";
import type { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";

/** What the backend keeps to itself: the commands not yet submitted, and what they use. */
interface Commands {
  commandEncoder: GPUCommandEncoder | null;
  computePassEncoder: GPUComputePassEncoder | null;
  commandQueueOwnedIds: WeakSet<tf.DataId>;
  dispatchCountInPass: number;
}

/** One run of a shader. */
export interface GpuDispatch {
  readonly pipeline: GPUComputePipeline;
  /** That of the pipeline's bindings, where the caller has it already. */
  readonly layout?: GPUBindGroupLayout;
  readonly workgroups: readonly [number, number, number];
  /** Buffers, and tensors with theirs, in the order of the shader's bindings. */
  readonly bindings: readonly (GPUBuffer | tf.TensorInfo)[];
}

/** Adds dispatches to the backend's commands, the way it adds those of its own kernels; they are submitted with these. */
export function recordDispatches(backend: WebGPUBackend, dispatches: readonly GpuDispatch[]): void {
  const commands = backend as unknown as Commands;
  const tensors = new Set(
    dispatches.flatMap(({ bindings }) => bindings.flatMap((bound) => "dataId" in bound ? bound.dataId : [])),
  );
  for (const dataId of tensors) backend.uploadToGPU(dataId);
  backend.ensureCommandEncoderReady();
  const pass = commands.computePassEncoder ??= commands.commandEncoder!.beginComputePass();
  for (const { pipeline, layout = pipeline.getBindGroupLayout(0), workgroups, bindings } of dispatches) {
    const entries = bindings.map((bound, binding) => ({
      binding,
      resource: {
        buffer: "dataId" in bound ? backend.tensorMap.get(bound.dataId).resource as GPUBuffer : bound,
      },
    }));
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, backend.device.createBindGroup({ layout, entries }));
    pass.dispatchWorkgroups(...workgroups);
  }
  for (const dataId of tensors) commands.commandQueueOwnedIds.add(dataId);
  commands.dispatchCountInPass += dispatches.length;
  if (commands.dispatchCountInPass >= tf.env().getNumber("WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE")) {
    backend.endComputePassEncoder();
    backend.submitQueue();
  }
}
