/** The memory of TensorFlow.js's wasm backend, in which the kit's own kernels work on tensors in place. */
import * as tf from "@tensorflow/tfjs";

/** What the kit uses of TensorFlow.js's backend beyond its interface. */
interface Backend {
  readonly wasm: {
    readonly asm: { readonly memory: WebAssembly.Memory };
    _malloc(bytes: number): number;
    _free(address: number): void;
    readonly tfjs: {
      registerTensor(id: number, size: number, address: number): void;
      disposeData(id: number): void;
    };
  };
  readonly dataIdMap: { get(dataId: object): TensorData };
  makeOutput(shape: number[], dtype: tf.DataType): tf.TensorInfo;
}

interface TensorData {
  readonly id: number;
  readonly memoryOffset: number;
  readonly refCount: number;
}

function backend(): Backend {
  if (tf.getBackend() !== "wasm") {
    throw new Error(
      `Cannot reach the memory of wasm tensors as the backend must be wasm: current backend is ${tf.getBackend()}`,
    );
  }
  return tf.backend() as unknown as Backend;
}

/** The memory of the wasm backend and its allocator. Views of `memory.buffer` are void after the next allocation, which may grow it. */
export interface WasmHeap {
  /** The memory to instantiate kernels with. */
  readonly memory: WebAssembly.Memory;
  /** The address of a tensor's data. */
  address(tensor: Pick<tf.TensorInfo, "dataId">): number;
  /** Whether other tensors have the same data, as clones, reshaped ones and values saved for a gradient do. */
  isShared(tensor: Pick<tf.TensorInfo, "dataId">): boolean;
  /**
   * Must be called when a kernel has changed the data of a tensor that others may have read: TensorFlow.js (XNNPACK) packs what it takes
   * for weights, of convolutions and matrix products, once per tensor, and would go on with the old numbers.
   */
  changed(tensor: Pick<tf.TensorInfo, "dataId"> & { readonly size: number }): void;
  /** A new tensor with undefined contents. */
  output(shape: number[]): tf.TensorInfo;
  /** The address of a new block, a multiple of 8. */
  allocate(bytes: number): number;
  /** Gives a block back. */
  free(address: number): void;
}

/** The heap of the backend in use; each access throws an Error if that is not wasm. */
export const wasmHeap: WasmHeap = {
  get memory() {
    return backend().wasm.asm.memory;
  },
  address: ({ dataId }) => backend().dataIdMap.get(dataId).memoryOffset,
  isShared: ({ dataId }) => backend().dataIdMap.get(dataId).refCount > 1,
  changed({ dataId, size }) {
    const { wasm: { tfjs }, dataIdMap } = backend();
    const { id, memoryOffset } = dataIdMap.get(dataId);
    // Forgets the packed weights with the entry in XNNPACK's table; the memory is this side's.
    tfjs.disposeData(id);
    tfjs.registerTensor(id, size, memoryOffset);
  },
  output: (shape) => backend().makeOutput(shape, "float32"),
  allocate(bytes) {
    const address = backend().wasm._malloc(bytes) >>> 0;
    if (address === 0) {
      throw new RangeError(`Cannot allocate ${bytes} bytes as the wasm memory must have room: it has not`);
    }
    return address;
  },
  free: (address) => backend().wasm._free(address),
};

let scratch:
  | { readonly memory: WebAssembly.Memory; readonly address: number; readonly bytes: number }
  | null = null;

/**
 * The address of a block of at least `bytes` that kernels share as working space: its contents last until the next kernel that asks
 * for it.
 */
export function wasmScratch(bytes: number): number {
  const { memory } = wasmHeap;
  if (scratch?.memory !== memory) scratch = null;
  if (scratch === null || scratch.bytes < bytes) {
    if (scratch !== null) wasmHeap.free(scratch.address);
    scratch = null;
    scratch = { memory, address: wasmHeap.allocate(bytes), bytes };
  }
  return scratch.address;
}
