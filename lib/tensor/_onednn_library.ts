/**
 * The C interface of oneDNN, called in the process (Deno's FFI): the one file of this room that touches `Deno`.
 * In another runtime, or without the permission `--allow-ffi`, there is no library.
 */
const deno = (globalThis as { Deno?: typeof Deno }).Deno;

/** An opaque handle of the library, or an address. */
export type Handle = bigint;

/** Strides, dilations, padding before and after, of a convolution. */
const window = ["buffer", "buffer", "buffer", "buffer"] as const;

// Handles go in as they are ("usize"); what comes out is written to a buffer, as C does it.
const symbols = {
  dnnl_version: { parameters: [], result: "pointer" },
  dnnl_engine_create: { parameters: ["buffer", "i32", "usize"], result: "i32" },
  dnnl_stream_create: { parameters: ["buffer", "usize", "u32"], result: "i32" },
  dnnl_memory_desc_create_with_strides: {
    parameters: ["buffer", "i32", "buffer", "i32", "buffer"],
    result: "i32",
  },
  dnnl_memory_desc_create_with_tag: {
    parameters: ["buffer", "i32", "buffer", "i32", "i32"],
    result: "i32",
  },
  dnnl_memory_desc_destroy: { parameters: ["usize"], result: "i32" },
  dnnl_memory_desc_equal: { parameters: ["usize", "usize"], result: "i32" },
  dnnl_memory_desc_get_size: { parameters: ["usize"], result: "usize" },
  dnnl_memory_create: { parameters: ["buffer", "usize", "usize", "usize"], result: "i32" },
  dnnl_memory_destroy: { parameters: ["usize"], result: "i32" },
  dnnl_memory_set_data_handle: { parameters: ["usize", "usize"], result: "i32" },
  dnnl_convolution_forward_primitive_desc_create: {
    parameters: ["buffer", "usize", "i32", "i32", "usize", "usize", "usize", "usize", ...window, "usize"],
    result: "i32",
  },
  dnnl_convolution_backward_data_primitive_desc_create: {
    parameters: ["buffer", "usize", "i32", "usize", "usize", "usize", ...window, "usize", "usize"],
    result: "i32",
  },
  dnnl_convolution_backward_weights_primitive_desc_create: {
    parameters: ["buffer", "usize", "i32", "usize", "usize", "usize", "usize", ...window, "usize", "usize"],
    result: "i32",
  },
  dnnl_reorder_primitive_desc_create: {
    parameters: ["buffer", "usize", "usize", "usize", "usize", "usize"],
    result: "i32",
  },
  dnnl_primitive_attr_create: { parameters: ["buffer"], result: "i32" },
  dnnl_primitive_attr_set_scratchpad_mode: { parameters: ["usize", "i32"], result: "i32" },
  dnnl_primitive_desc_query: { parameters: ["usize", "i32", "i32", "buffer"], result: "i32" },
  dnnl_primitive_desc_query_md: { parameters: ["usize", "i32", "i32"], result: "usize" },
  dnnl_primitive_desc_destroy: { parameters: ["usize"], result: "i32" },
  dnnl_primitive_create: { parameters: ["buffer", "usize"], result: "i32" },
  dnnl_primitive_execute: { parameters: ["usize", "usize", "i32", "buffer"], result: "i32" },
  dnnl_primitive_destroy: { parameters: ["usize"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** oneDNN, loaded. */
export interface OnednnLibrary {
  /** E.g. "3.2.0". */
  readonly version: string;
  /** The C functions by their names. */
  readonly symbols: Deno.StaticForeignLibraryInterface<typeof symbols>;
  /** The address of a view's first byte, which lasts as long as the view's buffer does. */
  addressOf(view: Uint8Array<ArrayBuffer>): Handle;
  /** The text at an address. */
  textAt(address: Handle): string;
}

/** Null when a foreign library can be loaded here, else the reason why not. */
export function foreignLibraryProblem(): string | null {
  if (deno?.dlopen === undefined) return "the runtime has no foreign functions (Deno has)";
  const { state } = deno.permissions.querySync({ name: "ffi" });
  return state === "granted" ? null : "loading it needs --allow-ffi";
}

/**
 * Loads the library at `path`, to compute with one thread.
 *
 * @throws {Error} There is no such library, or it or what it needs cannot be loaded.
 */
export function loadOnednn(path: string): OnednnLibrary {
  const runtime = deno!;
  const { symbols: functions } = runtime.dlopen(path, symbols);
  // The library asks OpenMP how many threads it may use. This sets it for the calling thread alone, and leaves
  // the environment as it is. One thread per process: the kit's parallelism is one trial per core.
  const openMp = runtime.dlopen("libgomp.so.1", {
    omp_set_num_threads: { parameters: ["i32"], result: "void" },
  });
  openMp.symbols.omp_set_num_threads(1);
  const version = new runtime.UnsafePointerView(functions.dnnl_version()!);
  return {
    version: [0, 4, 8].map((at) => version.getInt32(at)).join("."),
    symbols: functions,
    addressOf: (view) => runtime.UnsafePointer.value(runtime.UnsafePointer.of(view)),
    textAt: (address) => runtime.UnsafePointerView.getCString(runtime.UnsafePointer.create(address)!),
  };
}
