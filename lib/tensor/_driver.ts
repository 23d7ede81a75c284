/** What a backend's driver file gives to backend.ts. Private to the room. */
import { cpus } from "node:os";

/** The backends that the kit accepts. TensorFlow.js's own `cpu` and `webgl` are not among them. */
export type BackendName = "wasm" | "tensorflow" | "webgpu";

/** Which device computes, through which software: what a result must say about where it came from. */
export interface BackendRecord {
  /** The backend in use. */
  readonly name: BackendName;
  /** The processor or graphics adapter that computes, e.g. "AMD EPYC 9B45". */
  readonly device: string;
  /** The software between the backend and the device, e.g. "WebAssembly SIMD". */
  readonly driver: string;
  /** Version of TensorFlow.js. */
  readonly tfjs: string;
  /** Native library with its version, where the backend has one, e.g. "libtensorflow 2.21.0". */
  readonly library?: string;
  /** True for a graphics adapter emulated on the CPU: fit for tests, not for timings. */
  readonly software: boolean;
  /** CPU threads that one operation may use. */
  readonly threads: number;
}

/** Choices for {@linkcode useBackend}. */
export interface BackendOptions {
  /** Accept a graphics adapter emulated on the CPU (default false). */
  readonly allowSoftware?: boolean;
}

/** One backend: can it start, and starting it. */
export interface BackendDriver {
  /** Null when the backend can be used, else why not and how to get it. Starts nothing. */
  missing(options: BackendOptions): Promise<string | null>;
  /** Registers the backend with TensorFlow.js, before it is chosen; called once it is not missing. */
  register(options: BackendOptions): Promise<void>;
  /** The facts about the backend, asked once it runs. */
  record(): BackendRecord;
  /** False when the running backend has failed for good and must be registered anew. */
  healthy(): boolean;
}

/** The processor's model name, or a placeholder where the permission to ask for it is missing. */
export function processorName(): string {
  try {
    return cpus()[0]?.model.trim() || "unknown processor";
  } catch {
    return "unknown processor (its name needs --allow-sys=cpus)";
  }
}
