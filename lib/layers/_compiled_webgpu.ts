/** Compiled layers on TensorFlow.js's webgpu backend, among the commands of its own kernels. Room-private. */
import * as tf from "@tensorflow/tfjs";
import type { WebGPUBackend } from "@tensorflow/tfjs-backend-webgpu";
import {
  type KernelShape,
  outputName,
  type WgslDispatch,
  type WgslKernel,
  wgslKernel,
} from "../compile/mod.ts";
import { recordDispatches } from "../tensor/mod.ts";
import { type CompiledProgram, type KernelResults, Recent } from "./_compiled_programs.ts";

interface Loaded extends Pick<WgslKernel, "sizes"> {
  readonly dispatches: readonly (Omit<WgslDispatch, "code"> & {
    readonly pipeline: GPUComputePipeline;
    readonly layout: GPUBindGroupLayout;
  })[];
}

/** More than a model uses; a software driver holds about a megabyte of code for each. */
const MOST_KERNELS = 192;

/** Kernels by program and shape, of each device: pipelines are freed when nothing holds them. */
const kernels = new WeakMap<GPUDevice, Recent<string, Loaded>>();
const names = new WeakMap<CompiledProgram, number>();
let programs = 0;

function load(device: GPUDevice, program: CompiledProgram, shape: KernelShape): Loaded {
  let known = kernels.get(device);
  if (known === undefined) kernels.set(device, known = new Recent(MOST_KERNELS));
  let name = names.get(program);
  if (name === undefined) names.set(program, name = programs++);
  const { samples, pixels, channels, groups } = shape;
  return known.get(`${name} ${samples} ${pixels} ${channels} ${groups}`, () => {
    const mostBuffers = device.limits.maxStorageBuffersPerShaderStage;
    const { dispatches, sizes } = wgslKernel(program.schedule, shape, { mostBuffers });
    return {
      sizes,
      dispatches: dispatches.map(({ code, workgroups, bindings }) => {
        const pipeline = pipelineOf(device, code, program.formula);
        return { pipeline, layout: pipeline.getBindGroupLayout(0), workgroups, bindings };
      }),
    };
  });
}

/** Compiles a shader. An error of it is reported by the device, with the label: the backend's next operation throws it. */
function pipelineOf(device: GPUDevice, code: string, formula: string): GPUComputePipeline {
  const label = `layer ${formula}`;
  const module = device.createShaderModule({ code, label });
  return device.createComputePipeline({ label, layout: "auto", compute: { module, entryPoint: "main" } });
}

/** Runs a program on tensors by name. */
export function runWebgpu(
  program: CompiledProgram,
  shape: KernelShape,
  imageShape: number[],
  inputs: ReadonlyMap<string, tf.TensorInfo>,
): KernelResults {
  const backend = tf.backend() as WebGPUBackend;
  const { dispatches, sizes } = load(backend.device, program, shape);
  const make = (shape: number[]) => backend.makeTensorInfo(shape, "float32");
  const { images, vectors } = program.schedule.program;
  const written = new Map<string, tf.TensorInfo>();
  for (const { name } of images) written.set(outputName(name), make(imageShape));
  for (const { name } of vectors) written.set(outputName(name), make([shape.channels]));
  const saved = inputs.get("saved") ?? make([Math.max(1, sizes.saved)]);
  const own = (["rows", "partials"] as const).filter((name) => sizes[name] > 0)
    .map((name) => [name, make([sizes[name]])] as const);
  const tensors = new Map([...inputs, ...written, ...own, ["saved", saved]]);
  recordDispatches(
    backend,
    dispatches.map(({ bindings, ...dispatch }) => ({
      ...dispatch,
      bindings: bindings.map(({ name }) => tensors.get(name)!),
    })),
  );
  // Its memory is used again once the commands have been submitted.
  for (const [, { dataId }] of own) backend.disposeData(dataId);
  return {
    images: images.map(({ name }) => written.get(outputName(name))!),
    vectors: vectors.map(({ name }) => written.get(outputName(name))!),
    saved,
  };
}
