/** One product of a convolution as a primitive of oneDNN: made once for its sizes, run on addresses. */
import type { Axis, ConvolutionGeometry, ConvolutionProduct } from "../convolution/mod.ts";
import type { ConvolutionOperands } from "./_convolution_engine.ts";
import type { Handle, OnednnLibrary } from "./_onednn_library.ts";

// Constants of dnnl_types.h.
const FLOAT32 = 3;
const ANY_LAYOUT = 1;
const FORWARD_TRAINING = 64;
const DIRECT = 1;
const UNIMPLEMENTED = 3;
const IMPLEMENTATION_NAME = 8;
const NO_HANDLE = 0n;
/** Argument numbers of an execution. */
const arguments_ = { input: 1, output: 17, filter: 33, from: 1, to: 17, scratchpad: 80 };
const gradientArguments = { input: 129, output: 145, filter: 161 };
/** What to ask for the layouts that a primitive has chosen: of the filter, and of its working space. */
const WEIGHTS = 131;
const WEIGHTS_GRADIENT = 132;
const SCRATCHPAD = 136;
/** Working space comes from the caller. */
const USER_MODE = 1;
const MOST_DIMENSIONS = 12;
/** Of an address; the library's vectors. */
const ALIGNMENT = 64n;

const statusTexts: Readonly<Record<number, string>> = {
  1: "it is out of memory",
  2: "its arguments are not valid",
  3: "it has no implementation",
  5: "its execution failed",
};

/** The library with its engine, its stream, and the working memory that all primitives share. */
export class OnednnRuntime {
  readonly engine: Handle;
  readonly stream: Handle;
  /** How primitives are made. */
  readonly attributes: Handle;
  readonly #created = new BigUint64Array(1);
  #block = new Uint8Array(0);
  #blockAddress: Handle = 0n;

  /** @throws {Error} The library cannot compute on this processor. */
  constructor(readonly library: OnednnLibrary) {
    const { dnnl_engine_create, dnnl_stream_create } = library.symbols;
    const [PROCESSOR, IN_ORDER] = [1, 1];
    this.engine = this.create("an engine", (out) => dnnl_engine_create(out, PROCESSOR, 0n));
    this.stream = this.create("a stream", (out) => dnnl_stream_create(out, this.engine, IN_ORDER));
    this.attributes = this.create("attributes", (out) => library.symbols.dnnl_primitive_attr_create(out));
    check(
      "set attributes",
      library.symbols.dnnl_primitive_attr_set_scratchpad_mode(this.attributes, USER_MODE),
    );
  }

  /** What `make` writes to its argument. */
  create(what: string, make: (out: BigUint64Array<ArrayBuffer>) => number): Handle {
    check(`create ${what}`, make(this.#created));
    return this.#created[0]!;
  }

  /** The address of at least `bytes`, shared by all primitives: its contents last until the next call. */
  workingMemory(bytes: bigint): Handle {
    if (this.#block.length < bytes + ALIGNMENT) {
      this.#block = new Uint8Array(Number(bytes + ALIGNMENT));
      const address = this.library.addressOf(this.#block);
      this.#blockAddress = aligned(address);
    }
    return this.#blockAddress;
  }
}

/** The filter in the layout that a primitive computes with, and the primitive that brings it there or back. */
interface Reordering {
  readonly memory: Handle;
  readonly primitive: Handle;
  readonly list: Uint8Array<ArrayBuffer>;
}

/** A convolution, or a gradient of one, of given sizes. */
export class OnednnConvolution {
  readonly #runtime: OnednnRuntime;
  readonly #product: ConvolutionProduct;
  readonly #primitive: Handle;
  /** What tells the primitive its arguments. */
  readonly #list: Uint8Array<ArrayBuffer>;
  readonly #input: Handle;
  readonly #filter: Handle;
  readonly #output: Handle;
  readonly #reordering: Reordering | null = null;
  readonly #scratchpad: Handle;
  /** Working memory: the reordered filter, then the scratchpad. */
  readonly #filterBytes: bigint = 0n;
  readonly #bytes: bigint;

  private constructor(
    runtime: OnednnRuntime,
    product: ConvolutionProduct,
    descriptor: Handle,
    images: Record<"input" | "filter" | "output", Handle>,
  ) {
    const { symbols } = runtime.library;
    const memory = (layout: Handle) =>
      runtime.create(
        "a memory",
        (out) => symbols.dnnl_memory_create(out, layout, runtime.engine, NO_HANDLE),
      );
    this.#runtime = runtime;
    this.#product = product;
    this.#input = memory(images.input);
    this.#filter = memory(images.filter);
    this.#output = memory(images.output);
    const writesFilter = product === "filterGradient";
    const chosen = symbols.dnnl_primitive_desc_query_md(
      descriptor,
      writesFilter ? WEIGHTS_GRADIENT : WEIGHTS,
      0,
    );
    const sizeOf = (layout: Handle) => aligned(symbols.dnnl_memory_desc_get_size(layout));
    let filter = this.#filter;
    if (symbols.dnnl_memory_desc_equal(chosen, images.filter) === 0) {
      filter = memory(chosen);
      this.#filterBytes = sizeOf(chosen);
      const [from, to] = writesFilter ? [chosen, images.filter] : [images.filter, chosen];
      this.#reordering = {
        memory: filter,
        primitive: reorder(runtime, from, to),
        list: writesFilter
          ? argumentList([[arguments_.from, filter], [arguments_.to, this.#filter]])
          : argumentList([[arguments_.from, this.#filter], [arguments_.to, filter]]),
      };
    }
    const scratchpad = symbols.dnnl_primitive_desc_query_md(descriptor, SCRATCHPAD, 0);
    this.#scratchpad = memory(scratchpad);
    this.#bytes = this.#filterBytes + sizeOf(scratchpad);
    this.#primitive = runtime.create(
      "a convolution",
      (out) => symbols.dnnl_primitive_create(out, descriptor),
    );
    const { input, output } = arguments_;
    this.#list = argumentList([
      [product === "inputGradient" ? gradientArguments.input : input, this.#input],
      [writesFilter ? gradientArguments.filter : arguments_.filter, filter],
      [product === "forward" ? output : gradientArguments.output, this.#output],
      [arguments_.scratchpad, this.#scratchpad],
    ]);
  }

  /** The product of these sizes, or null if the library has no good implementation of it. */
  static create(
    runtime: OnednnRuntime,
    product: ConvolutionProduct,
    geometry: ConvolutionGeometry,
  ): OnednnConvolution | null {
    const { symbols } = runtime.library;
    const layouts = filterAndImageLayouts(runtime, geometry);
    let descriptor: Handle | null = null;
    try {
      descriptor = describe(runtime, product, geometry, layouts);
      if (descriptor === null || !isGood(implementation(runtime, descriptor), product, geometry)) return null;
      return new OnednnConvolution(runtime, product, descriptor, layouts);
    } finally {
      if (descriptor !== null) symbols.dnnl_primitive_desc_destroy(descriptor);
      for (const layout of Object.values(layouts)) symbols.dnnl_memory_desc_destroy(layout);
    }
  }

  /**
   * Computes, on tensors whose addresses begin at `base`.
   *
   * @throws {Error} The library reports a failure.
   */
  run(base: Handle, operands: ConvolutionOperands): void {
    const runtime = this.#runtime;
    const { dnnl_memory_set_data_handle: set, dnnl_primitive_execute: execute } = runtime.library.symbols;
    // An allocator that counts in 32-bit integers gives negative numbers beyond 2 GB.
    const at = (address: number) => base + BigInt(address >>> 0);
    let status = set(this.#input, at(operands.input));
    status ||= set(this.#filter, at(operands.filter));
    status ||= set(this.#output, at(operands.output));
    const working = runtime.workingMemory(this.#bytes);
    status ||= set(this.#scratchpad, working + this.#filterBytes);
    const reordering = this.#reordering;
    const after = this.#product === "filterGradient";
    if (reordering !== null) {
      status ||= set(reordering.memory, working);
      if (!after) status ||= execute(reordering.primitive, runtime.stream, 2, reordering.list);
    }
    status ||= execute(this.#primitive, runtime.stream, 4, this.#list);
    if (reordering !== null && after) {
      status ||= execute(reordering.primitive, runtime.stream, 2, reordering.list);
    }
    check("run a convolution", status);
  }

  /** Gives the library's memory back; the convolution must not be run after it. */
  destroy(): void {
    const { symbols } = this.#runtime.library;
    symbols.dnnl_primitive_destroy(this.#primitive);
    for (const memory of [this.#input, this.#filter, this.#output, this.#scratchpad]) {
      symbols.dnnl_memory_destroy(memory);
    }
    if (this.#reordering === null) return;
    symbols.dnnl_primitive_destroy(this.#reordering.primitive);
    symbols.dnnl_memory_destroy(this.#reordering.memory);
  }
}

type Layouts = Record<"input" | "filter" | "output" | "chosenFilter", Handle>;

/** The layouts of the tensors as they lie in memory, and one that leaves the filter's to the library. */
function filterAndImageLayouts(runtime: OnednnRuntime, geometry: ConvolutionGeometry): Layouts {
  const { symbols } = runtime.library;
  const { kind, batch, axes: [height, width], channels, outputs } = geometry;
  const plain = (sizes: number[], strides: number[]) =>
    runtime.create(
      "a layout",
      (out) =>
        symbols.dnnl_memory_desc_create_with_strides(
          out,
          sizes.length,
          dimensions(sizes),
          FLOAT32,
          dimensions(strides),
        ),
    );
  // The library names sizes in the order n, c, h, w, whatever the layout.
  const images = (c: number, h: number, w: number) => plain([batch, c, h, w], [h * w * c, 1, w * c, c]);
  const [kh, kw] = [height.kernel, width.kernel];
  const multiplier = outputs / channels;
  const [sizes, strides] = kind === "regular"
    ? [[outputs, channels, kh, kw], [1, outputs, kw * channels * outputs, channels * outputs]]
    : [[channels, multiplier, 1, kh, kw], [multiplier, 1, 1, kw * outputs, outputs]];
  return {
    input: images(channels, height.input, width.input),
    filter: plain(sizes, strides),
    output: images(outputs, height.output, width.output),
    chosenFilter: runtime.create(
      "a layout",
      (out) =>
        symbols.dnnl_memory_desc_create_with_tag(out, sizes.length, dimensions(sizes), FLOAT32, ANY_LAYOUT),
    ),
  };
}

/** The description of a primitive, or null if the library has none for these sizes. */
function describe(
  runtime: OnednnRuntime,
  product: ConvolutionProduct,
  { axes }: ConvolutionGeometry,
  { input, chosenFilter, output }: Layouts,
): Handle | null {
  const { library: { symbols }, attributes } = runtime;
  const strides = dimensions(axes.map(({ stride }) => stride));
  const dilations = dimensions(axes.map(({ dilation }) => dilation - 1));
  const before = dimensions(axes.map((axis) => axis.before));
  const after = dimensions(axes.map(paddingAfter));
  const window = [strides, dilations, before, after] as const;
  const attempt = (make: (out: BigUint64Array<ArrayBuffer>) => number): Handle | null => {
    let status = 0;
    const descriptor = runtime.create("a convolution", (out) => {
      status = make(out);
      return status === UNIMPLEMENTED ? 0 : status;
    });
    return status === UNIMPLEMENTED ? null : descriptor;
  };
  const forward = attempt((out) =>
    symbols.dnnl_convolution_forward_primitive_desc_create(
      ...[out, runtime.engine, FORWARD_TRAINING, DIRECT, input, chosenFilter, NO_HANDLE, output] as const,
      ...[...window, attributes] as const,
    )
  );
  if (forward === null || product === "forward") return forward;
  try {
    return attempt((out) =>
      product === "inputGradient"
        ? symbols.dnnl_convolution_backward_data_primitive_desc_create(
          ...[out, runtime.engine, DIRECT, input, chosenFilter, output] as const,
          ...[...window, forward, attributes] as const,
        )
        : symbols.dnnl_convolution_backward_weights_primitive_desc_create(
          ...[out, runtime.engine, DIRECT, input, chosenFilter, NO_HANDLE, output] as const,
          ...[...window, forward, attributes] as const,
        )
    );
  } finally {
    symbols.dnnl_primitive_desc_destroy(forward);
  }
}

/** Zeros after the last pixel; none where the convolution does not read all pixels. */
function paddingAfter({ input, kernel, output, stride, dilation, before }: Axis): number {
  return Math.max((output - 1) * stride + (kernel - 1) * dilation + 1 - before - input, 0);
}

/** Whether the code of this name is to be used: it is not plain loops, and it is right. */
function isGood(
  name: string,
  product: ConvolutionProduct,
  { kind, axes, channels }: ConvolutionGeometry,
): boolean {
  if (name.includes("ref")) return false;
  // A depthwise convolution as regular ones of its groups fills each group up to 16 channels: 16 times the work.
  if (kind === "depthwise") return name.includes("dw");
  // With AVX2 this code writes beyond its working memory where the channels are no multiple of its vectors.
  const strided = axes.some(({ stride }) => stride > 1);
  return !(name.startsWith("jit_1x1") && product === "filterGradient" && strided && channels % 16 !== 0);
}

/** Names the code that a primitive would run, e.g. "brgconv:avx512_core", "jit_dw:avx2" or "ref:any". */
function implementation(runtime: OnednnRuntime, descriptor: Handle): string {
  const address = new BigUint64Array(1);
  check(
    "describe a convolution",
    runtime.library.symbols.dnnl_primitive_desc_query(descriptor, IMPLEMENTATION_NAME, 0, address),
  );
  return runtime.library.textAt(address[0]!);
}

function reorder(runtime: OnednnRuntime, from: Handle, to: Handle): Handle {
  const { symbols } = runtime.library;
  const { engine } = runtime;
  const descriptor = runtime.create(
    "a reordering",
    (out) => symbols.dnnl_reorder_primitive_desc_create(out, from, engine, to, engine, NO_HANDLE),
  );
  try {
    return runtime.create("a reordering", (out) => symbols.dnnl_primitive_create(out, descriptor));
  } finally {
    symbols.dnnl_primitive_desc_destroy(descriptor);
  }
}

/** A number of bytes, or an address, up to the next multiple of the library's vectors. */
function aligned(bytes: bigint): bigint {
  return (bytes + ALIGNMENT - 1n) / ALIGNMENT * ALIGNMENT;
}

/** A dnnl_dims_t. */
function dimensions(values: readonly number[]): BigInt64Array<ArrayBuffer> {
  const list = new BigInt64Array(MOST_DIMENSIONS);
  values.forEach((value, i) => list[i] = BigInt(value));
  return list;
}

/** An array of dnnl_exec_arg_t: a 32-bit number, 4 bytes of nothing, an address. */
function argumentList(pairs: [number: number, memory: Handle][]): Uint8Array<ArrayBuffer> {
  const list = new DataView(new ArrayBuffer(16 * pairs.length));
  pairs.forEach(([number, memory], i) => {
    list.setInt32(16 * i, number, true);
    list.setBigUint64(16 * i + 8, memory, true);
  });
  return new Uint8Array(list.buffer);
}

function check(action: string, status: number): void {
  if (status === 0) return;
  const reason = statusTexts[status] ?? "it failed";
  throw new Error(`Cannot ${action} as oneDNN must succeed: ${reason} (status ${status})`);
}
