/** Runs WGSL kernels on a WebGPU device of their own, without TensorFlow.js. */
import { tmpdir } from "node:os";
import process from "node:process";
import type { KernelShape, Schedule } from "../../lib/compile/mod.ts";
import { type WgslKernel, wgslKernel, type WgslOptions } from "../../lib/compile/mod.ts";

/** What kernels have written, by the names of their buffers. */
export type Outputs = Map<string, Float32Array>;

/** A device on which kernels run; errors of the device are errors of the run. */
export class WebgpuRunner {
  readonly #device: GPUDevice;
  #failure: string | null = null;

  constructor(device: GPUDevice) {
    this.#device = device;
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.#failure ??= (event as GPUUncapturedErrorEvent).error.message;
    });
  }

  /** A runner on any adapter, or null if there is none. */
  static async open(): Promise<WebgpuRunner | null> {
    process.env.XDG_RUNTIME_DIR ||= tmpdir();
    const adapter = await globalThis.navigator?.gpu?.requestAdapter();
    return adapter ? new WebgpuRunner(await adapter.requestDevice()) : null;
  }

  close(): void {
    this.#device.destroy();
  }

  /** Writes the kernels of schedules and runs them one after the other on inputs by name; later ones find `saved`. */
  async run(
    schedules: readonly Schedule[],
    shape: KernelShape,
    inputs: ReadonlyMap<string, Float32Array>,
    options: WgslOptions = {},
  ): Promise<Outputs> {
    const kernels = schedules.map((schedule) => wgslKernel(schedule, shape, options));
    const image = shape.samples * shape.pixels * shape.channels;
    const written = schedules.flatMap(({ program }) => [
      ...program.images.map(({ name }) => [`out:${name}`, image] as const),
      ...program.vectors.map(({ name }) => [`out:${name}`, shape.channels] as const),
    ]);
    const buffers = this.#buffers(kernels, inputs, written);
    const encoder = this.#device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const { code, workgroups, bindings } of kernels.flatMap(({ dispatches }) => dispatches)) {
      const module = this.#device.createShaderModule({ code });
      const pipeline = this.#device.createComputePipeline({ layout: "auto", compute: { module } });
      pass.setPipeline(pipeline);
      pass.setBindGroup(
        0,
        this.#device.createBindGroup({
          layout: pipeline.getBindGroupLayout(0),
          entries: bindings.map(({ name }, binding) => ({
            binding,
            resource: { buffer: buffers.get(name)! },
          })),
        }),
      );
      pass.dispatchWorkgroups(...workgroups);
    }
    pass.end();
    const numbers = written.reduce((total, [, size]) => total + size, 0);
    const staging = this.#device.createBuffer({
      size: 4 * numbers,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    let offset = 0;
    for (const [name, size] of written) {
      encoder.copyBufferToBuffer(buffers.get(name)!, 0, staging, offset, 4 * size);
      offset += 4 * size;
    }
    this.#device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    const data = new Float32Array(staging.getMappedRange().slice(0));
    staging.destroy();
    for (const buffer of buffers.values()) buffer.destroy();
    await new Promise((resolve) => setImmediate(resolve));
    if (this.#failure !== null) throw new Error(this.#failure);
    let start = 0;
    return new Map(written.map(([name, size]) => [name, data.slice(start, start += size)]));
  }

  #buffers(
    kernels: readonly WgslKernel[],
    inputs: ReadonlyMap<string, Float32Array>,
    written: readonly (readonly [string, number])[],
  ): Map<string, GPUBuffer> {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const create = (size: number) => this.#device.createBuffer({ size: 4 * Math.max(1, size), usage });
    const buffers = new Map<string, GPUBuffer>();
    for (const [name, size] of written) buffers.set(name, create(size));
    for (const name of ["rows", "partials", "saved"] as const) {
      buffers.set(name, create(Math.max(...kernels.map(({ sizes }) => sizes[name]))));
    }
    for (const [name, values] of inputs) {
      const buffer = create(values.length);
      this.#device.queue.writeBuffer(buffer, 0, values as Float32Array<ArrayBuffer>);
      buffers.set(name, buffer);
    }
    return buffers;
  }
}
