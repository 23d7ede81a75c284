/** The functions of a kernel that sweep over the pixels of one sample. */
import {
  type Code,
  countUp,
  doWhile,
  f32x4,
  f64x2,
  type FunctionBuilder,
  i32,
  type Local,
  type ModuleBuilder,
  sequence,
  set,
  shuffle32,
  v128,
} from "../wasm/mod.ts";
import type { KernelShape, Layout, Source } from "./_wasm_layout.ts";
import { VectorMath, type VectorSettings } from "./_wasm_math.ts";
import { absorbedProducts } from "./_wasm_contract.ts";
import { type Lanes, loadLanes, storeLanes } from "./_wasm_lanes.ts";
import { fullValues, type Pass } from "./schedule.ts";
import type { Elementwise, Program, Value } from "./value.ts";

/** Bytes of one image that a tile of pixels may take, so that the images of a pass stay in the first-level cache. */
const TILE_BYTES = 8192;

/** What the functions of a kernel are called with: working space, saved tensor, the sample's number, its images. */
export interface PassArguments {
  readonly scratch: Local;
  readonly saved: Local;
  readonly sample: Local;
  /** By name: addresses of the sample in the images read and written. */
  readonly images: ReadonlyMap<string, Local>;
}

/** Everything that writing a pass needs to know. */
export interface PassContext {
  readonly program: Program;
  readonly layout: Layout;
  readonly shape: KernelShape;
  readonly settings: VectorSettings;
  /** Images read by the kernel, then written ones: parameters after scratch, saved and sample. */
  readonly imageNames: readonly string[];
}

/** Adds the function of a pass: (scratch, saved, sample, images...). */
export function passFunction(
  module: ModuleBuilder,
  context: PassContext,
  pass: Pass,
  sources: readonly Source[],
): FunctionBuilder {
  const built = module.function(undefined, [
    "i32",
    "i32",
    "i32",
    ...context.imageNames.map(() => "i32" as const),
  ]);
  const [scratch, saved, sample, ...images] = built.params;
  const writer = new PassWriter(built, context, pass, sources, {
    scratch,
    saved,
    sample,
    images: new Map(context.imageNames.map((name, index) => [name, images[index]!])),
  });
  writer.write();
  return built;
}

class PassWriter {
  readonly #f: FunctionBuilder;
  readonly #context: PassContext;
  readonly #pass: Pass;
  readonly #sources: readonly Source[];
  readonly #arguments: PassArguments;
  readonly #math: VectorMath;
  /** Byte offset of the block of channels in a row. */
  readonly #block: Local;
  readonly #rowBases: {
    readonly scratch: Local;
    readonly perSample: Local;
    readonly saved: Local;
    readonly savedPerSample: Local;
  };
  readonly #sums: Local;
  /** Byte offset of the pixel's block in an image. */
  readonly #pixel: Local;
  /** Images and kept buffers of which this pass reads or writes, as addresses moved along with the pixels. */
  readonly #full: Set<number>;
  /** By row, whether it is NaN, for the maxima of the block at hand. */
  readonly #masks = new Map<number, Local>();
  /** Products that are part of a multiply-add and never stand alone: the sum that each belongs to, or itself if that is over pixels. */
  readonly #absorbed: ReadonlyMap<number, number>;

  constructor(
    built: FunctionBuilder,
    context: PassContext,
    pass: Pass,
    sources: readonly Source[],
    given: PassArguments,
  ) {
    this.#f = built;
    this.#context = context;
    this.#pass = pass;
    this.#sources = sources;
    this.#arguments = given;
    this.#math = new VectorMath(built, context.settings);
    this.#block = built.local("i32");
    this.#pixel = built.local("i32");
    this.#rowBases = {
      scratch: built.local("i32"),
      perSample: built.local("i32"),
      saved: built.local("i32"),
      savedPerSample: built.local("i32"),
    };
    this.#sums = built.local("i32");
    const roots = [
      ...sources.map(({ operand }) => operand),
      ...pass.stores.map(({ value }) => value),
      ...pass.keeps,
    ];
    this.#full = fullValues(this.#values, roots, new Set(pass.kept));
    const computed = [...this.#full].filter((index) => !pass.kept.includes(index));
    this.#absorbed = absorbedProducts(this.#values, computed, roots, sources);
  }

  /** The full values that code is written for, in order, of some. */
  #inOrder(full: ReadonlySet<number>): number[] {
    return [...full].filter((index) => !this.#absorbed.has(index)).sort((a, b) => a - b);
  }

  get #values(): readonly Value[] {
    return this.#context.program.values;
  }

  write(): void {
    const { channels, pixels } = this.#context.shape;
    const whole = channels - channels % 4;
    const rest = channels % 4 as 0 | 1 | 2 | 3;
    const tile = Math.min(pixels, Math.max(8, Math.floor(TILE_BYTES / (4 * channels))));
    const first = this.#f.local("i32"), last = this.#f.local("i32");
    const body = (tilePixels: (block: Code) => Code) =>
      sequence(
        ...(whole > 0
          ? [countUp(this.#block, 0, 4 * whole, 16, tilePixels(this.#blockBody(first, last, 4)))]
          : []),
        ...(rest !== 0 ? [set(this.#block, 4 * whole), tilePixels(this.#blockBody(first, last, rest))] : []),
      );
    const code = [
      ...this.#shiftRows(whole, rest),
      countUp(
        first,
        0,
        pixels,
        tile,
        sequence(
          set(last, i32.add(first, tile)),
          ...(pixels % tile === 0 ? [] : [minimum(last, pixels)]),
          body((block) => block),
        ),
      ),
    ];
    this.#f.add(this.#math.prologue(), ...code);
  }

  /** Writes the rows that variances are shifted by: each operand at the sample's first pixel. */
  #shiftRows(whole: number, rest: 0 | 1 | 2 | 3): Code[] {
    const shifted = this.#sources.filter(({ shifted }) => shifted);
    if (shifted.length === 0) return [];
    const at = (lanes: Lanes): Code => {
      const known = new Map<number, Local>();
      const full = fullValues(this.#values, shifted.map(({ operand }) => operand), new Set(this.#pass.kept));
      return sequence(
        ...this.#setBases(),
        set(this.#pixel, this.#block),
        ...this.#inOrder(full).map((index) => this.#compute(index, lanes, known, false)),
        ...shifted.map(({ operand, shiftOffset }) =>
          v128.store(i32.add(this.#arguments.scratch, this.#block), known.get(operand)!, shiftOffset)
        ),
      );
    };
    return [
      ...(whole > 0 ? [countUp(this.#block, 0, 4 * whole, 16, at(4))] : []),
      ...(rest !== 0 ? [set(this.#block, 4 * whole), at(rest)] : []),
    ];
  }

  /** One block of channels over the pixels `first` to below `last`. */
  #blockBody(first: Local, last: Local, lanes: Lanes): Code {
    const { channels } = this.#context.shape;
    const stride = 4 * channels;
    const end = this.#f.local("i32");
    const known = new Map<number, Local>();
    const sums = this.#sources.map((source) => ({
      source,
      shift: source.shifted ? this.#f.local("v128") : null,
      sum: source.sum ? this.#f.local("v128") : null,
      square: source.square ? this.#f.local("v128") : null,
    }));
    const rows = this.#rowsBefore(known);
    const values = this.#inOrder(this.#full).map((index) => this.#compute(index, lanes, known, true));
    const stores = this.#pass.stores.map(({ name, value }) =>
      storeLanes(i32.add(this.#arguments.images.get(name)!, this.#pixel), known.get(value)!, lanes)
    );
    const scratch = this.#arguments.scratch;
    const keeps = this.#pass.keeps.map((value) =>
      storeLanes(
        i32.add(scratch, this.#pixel),
        known.get(value)!,
        lanes,
        this.#context.layout.kept.get(value)!,
      )
    );
    const accumulate = sums.flatMap(({ source, shift, sum, square }) => {
      if (this.#absorbed.has(source.operand)) {
        const [a, b] = this.#values[source.operand]!.inputs.map((input) => known.get(input)!) as [
          Local,
          Local,
        ];
        return [set(sum!, this.#math.multiplyAdd(a, b, sum!))];
      }
      const value = known.get(source.operand)!;
      const deviation = shift ? this.#f.local("v128") : value;
      return [
        ...(shift ? [set(deviation, f32x4.sub(value, shift))] : []),
        ...(sum ? [set(sum, f32x4.add(sum, deviation))] : []),
        ...(square ? [set(square, this.#math.multiplyAdd(deviation, deviation, square))] : []),
      ];
    });
    const flush = sums.flatMap(({ source, sum, square }) => [
      ...(sum ? addWide(this.#sums, sum, source.sumOffset) : []),
      ...(square ? addWide(this.#sums, square, source.squareOffset) : []),
    ]);
    const zero = this.#math.constant(0);
    return sequence(
      ...this.#setBases(),
      ...rows,
      ...sums.flatMap(({ source, shift, sum, square }) => [
        ...(shift ? [set(shift, v128.load(i32.add(scratch, this.#block), source.shiftOffset))] : []),
        ...(sum ? [set(sum, zero)] : []),
        ...(square ? [set(square, zero)] : []),
      ]),
      set(this.#pixel, i32.add(i32.mul(first, stride), this.#block)),
      set(end, i32.add(i32.mul(last, stride), this.#block)),
      doWhile(
        sequence(
          ...values,
          ...accumulate,
          ...keeps,
          ...stores,
          set(this.#pixel, i32.add(this.#pixel, stride)),
        ),
        i32.ltU(this.#pixel, end),
      ),
      ...flush,
    );
  }

  #setBases(): Code[] {
    const { scratch, saved, sample } = this.#arguments;
    const { rowBytes } = this.#context.layout;
    const { scratch: once, perSample, saved: savedOnce, savedPerSample } = this.#rowBases;
    const shift = i32.mul(sample, rowBytes);
    return [
      set(once, i32.add(scratch, this.#block)),
      set(perSample, i32.add(once, shift)),
      set(savedOnce, i32.add(saved, this.#block)),
      set(savedPerSample, i32.add(savedOnce, shift)),
      set(this.#sums, i32.add(once, this.#block)),
    ];
  }

  /** Loads the rows that the pass uses, in front of its loop over pixels. */
  #rowsBefore(known: Map<number, Local>): Code[] {
    const used = new Set<number>();
    for (const index of this.#full) {
      if (this.#pass.kept.includes(index)) continue;
      for (const input of this.#values[index]!.inputs) if (!this.#values[input]!.full) used.add(input);
    }
    for (const { value } of this.#pass.stores) if (!this.#values[value]!.full) used.add(value);
    return [...used].flatMap((index) => {
      if (this.#values[index]!.op === "Constant") {
        known.set(index, this.#math.constant(this.#values[index]!.constant!));
        return [];
      }
      const local = this.#f.local("v128");
      known.set(index, local);
      return [set(local, this.#row(index)), ...this.#maskBefore(index, local)];
    });
  }

  /** Where a row is compared with pixels, whether it is NaN is asked once, in front of the loop. */
  #maskBefore(index: number, row: Local): Code[] {
    const compared = [...this.#full].some((at) => this.#rowOfMax(at) === index);
    if (!compared) return [];
    const mask = this.#f.local("v128");
    this.#masks.set(index, mask);
    return [set(mask, f32x4.ne(row, row))];
  }

  /** The row in a maximum of a row and a full value. */
  #rowOfMax(index: number): number | undefined {
    const { op, inputs: [a, b] } = this.#values[index]!;
    if (op !== "Max" || this.#values[a!]!.full === this.#values[b!]!.full) return undefined;
    return this.#values[a!]!.full ? b : a;
  }

  #row(index: number): Code {
    const { base, offset, step } = this.#context.layout.rows.get(index)!;
    const { scratch, perSample, saved, savedPerSample } = this.#rowBases;
    const address = base === "scratch" ? (step ? perSample : scratch) : (step ? savedPerSample : saved);
    return v128.load(address, offset);
  }

  /** Code that puts a full value into a variable. Rows are loaded on the spot where `rowsKnown` is false. */
  #compute(index: number, lanes: Lanes, known: Map<number, Local>, rowsKnown: boolean): Code {
    const value = this.#values[index]!;
    const local = this.#f.local("v128");
    known.set(index, local);
    if (this.#pass.kept.includes(index)) {
      const offset = this.#context.layout.kept.get(index)!;
      return set(local, loadLanes(i32.add(this.#arguments.scratch, this.#pixel), lanes, offset));
    }
    if (value.op === "Input") {
      return set(
        local,
        loadLanes(i32.add(this.#arguments.images.get(value.name!)!, this.#pixel), lanes),
      );
    }
    const before: Code[] = [];
    const read = (input: number): Local => {
      const found = known.get(input);
      if (found) return found;
      if (rowsKnown) throw new Error(`value ${input} is not computed`);
      const { op, constant } = this.#values[input]!;
      const row = op === "Constant" ? this.#math.constant(constant!) : this.#f.local("v128");
      if (op !== "Constant") before.push(set(row, this.#row(input)));
      known.set(input, row);
      return row;
    };
    const result = this.#fused(index, read) ?? this.#maximum(index, read) ??
      this.#math.apply(value.op as Elementwise, value.inputs.map(read));
    return sequence(...before, set(local, result));
  }

  #maximum(index: number, read: (index: number) => Local): Code | null {
    const row = this.#rowOfMax(index);
    const mask = row === undefined ? undefined : this.#masks.get(row);
    if (mask === undefined) return null;
    const full = this.#values[index]!.inputs.find((input) => input !== row)!;
    // pmax keeps a NaN of its first operand; a mask of ones is a NaN.
    return v128.or(f32x4.pmax(read(full), read(row!)), mask);
  }

  /** A sum or difference with a product used nowhere else, in one instruction. */
  #fused(index: number, read: (index: number) => Local): Code | null {
    const { op, inputs } = this.#values[index]!;
    const product = inputs.find((input) => this.#absorbed.get(input) === index);
    if (product === undefined) return null;
    const [a, b] = this.#values[product]!.inputs.map(read) as [Local, Local];
    const other = read(inputs[0] === product ? inputs[1]! : inputs[0]!);
    return op === "Add" ? this.#math.multiplyAdd(a, b, other) : this.#math.multiplySubtract(a, b, other);
  }
}

/** Adds four float32 sums to four float64 ones in memory. */
function addWide(address: Local, sums: Local, offset: number): Code[] {
  const add = (low: Code | Local, at: number) =>
    v128.store(address, f64x2.add(v128.load(address, at), f64x2.promoteLow(low)), at);
  return [add(sums, offset), add(shuffle32(sums, sums, [2, 3, 2, 3]), offset + 16)];
}

function minimum(local: Local, most: number): Code {
  return set(local, i32.add(most, i32.mul(i32.sub(local, most), i32.ltS(local, most))));
}
