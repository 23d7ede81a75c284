/** A schedule as a WebAssembly kernel for one shape. */
import {
  call,
  type Code,
  countUp,
  f32,
  type FunctionBuilder,
  i32,
  i32x4,
  type Local,
  ModuleBuilder,
  type Operand,
  relaxedSimd,
  sequence,
  set,
  v128,
  when,
} from "../wasm/mod.ts";
import { type KernelShape, type Layout, layOut, passKey, type Source } from "./_wasm_layout.ts";
import { type MomentFunctions, momentFunctions, type Sums } from "./_wasm_moments.ts";
import { passFunction } from "./_wasm_pass.ts";
import { type RowContext, rowFunction, spanOf } from "./_wasm_rows.ts";
import type { Schedule } from "./schedule.ts";
import { overBatch, type Value } from "./value.ts";

export type { KernelShape } from "./_wasm_layout.ts";

/** Choices of how kernels are written. */
export interface WasmOptions {
  /** Multiply and add in one instruction; default: where the engine has relaxed SIMD. */
  readonly relaxed?: boolean;
}

/** A kernel's code and how to call it. */
export interface WasmKernel {
  /** The module; it imports `env.memory` and exports `run`. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Names of the tensors of which `run` takes the addresses, after those of working space and saved tensor. */
  readonly parameters: readonly string[];
  /** Bytes of working space. */
  readonly scratchBytes: number;
  /** Bytes of the tensor that the forward pass saves for the backward pass, 0 if there is none. */
  readonly savedBytes: number;
}

/**
 * Writes the kernel of a scheduled program: `run(scratch, saved, images read..., vectors read..., images written...,
 * vectors written...)`, addresses in bytes, in the order of `parameters`. Images are float32 [N, H, W, C], vectors [C].
 */
export function wasmKernel(schedule: Schedule, shape: KernelShape, options: WasmOptions = {}): WasmKernel {
  return new KernelWriter(schedule, shape, options.relaxed ?? relaxedSimd()).write();
}

class KernelWriter {
  readonly #schedule: Schedule;
  readonly #shape: KernelShape;
  readonly #layout: Layout;
  readonly #module = new ModuleBuilder();
  readonly #moments: MomentFunctions;
  readonly #context: RowContext & { imageNames: readonly string[] };
  readonly #vectorInputs: readonly number[];
  readonly #imageInputs: readonly string[];

  constructor(schedule: Schedule, shape: KernelShape, relaxed: boolean) {
    this.#schedule = schedule;
    this.#shape = shape;
    this.#layout = layOut(schedule, shape);
    this.#moments = momentFunctions(this.#module, shape);
    const { program } = schedule;
    const inputs = program.values.flatMap(({ op }, index) => op === "Input" ? [index] : []);
    this.#imageInputs = inputs.flatMap((index) =>
      program.values[index]!.full ? [program.values[index]!.name!] : []
    );
    this.#vectorInputs = inputs.filter((index) =>
      !program.values[index]!.full && !program.values[index]!.name!.startsWith("saved")
    );
    this.#context = {
      program,
      layout: this.#layout,
      shape,
      settings: { epsilon: program.epsilon, relaxed },
      moments: this.#moments,
      imageNames: [...this.#imageInputs, ...program.images.map(({ name }) => outputName(name))],
    };
  }

  write(): WasmKernel {
    const { program, phases } = this.#schedule;
    const { samples } = this.#shape;
    const parameters = [
      ...this.#imageInputs,
      ...this.#vectorInputs.map((index) => program.values[index]!.name!),
      ...program.images.map(({ name }) => outputName(name)),
      ...program.vectors.map(({ name }) => outputName(name)),
    ];
    // Functions are called before they are written, so the entry point comes last.
    const plans = phases.map(({ once, steps }, phase) => ({
      once: rowFunction(this.#module, this.#context, once),
      sources: steps.flatMap((_, at) => this.#layout.sources.get(passKey(phase, at)) ?? []),
      steps: steps.map(({ rows, pass }, at) => {
        const sources = this.#layout.sources.get(passKey(phase, at)) ?? [];
        return {
          rows: rowFunction(this.#module, this.#context, rows),
          pass: pass && passFunction(this.#module, { ...this.#context }, renamed(pass), sources),
          sources,
        };
      }),
    }));
    const run = this.#module.function("run", ["i32", "i32", ...parameters.map(() => "i32" as const)]);
    const [scratch, saved, ...rest] = run.params;
    const at = new Map(parameters.map((name, index) => [name, rest[index]!]));
    const sample = run.local("i32");
    const counter = run.local("i32");
    const images = this.#context.imageNames.map((name) => at.get(name)!);
    run.add(zero(scratch, counter, this.#layout.zeros, 2 * this.#layout.rowBytes));
    for (const index of this.#vectorInputs) {
      const { name } = program.values[index]!;
      run.add(copy(this.#address(scratch, saved, index), at.get(name!)!, counter, this.#shape.channels));
    }
    for (const { once, sources, steps } of plans) {
      if (once) run.add(call(once.index, scratch, saved, 0));
      for (const source of sources) run.add(...this.#clearBatch(source, scratch, counter));
      if (steps.length > 0) {
        run.add(countUp(
          sample,
          0,
          samples,
          1,
          sequence(
            ...steps.flatMap((step) => this.#step(step, { scratch, saved, sample, counter, images })),
          ),
        ));
      }
      for (const source of sources) run.add(...this.#finishBatch(source, scratch, saved));
    }
    for (const { name, value } of program.vectors) {
      run.add(this.#storeVector(at.get(outputName(name))!, value, scratch, saved, counter, run));
    }
    return {
      bytes: this.#module.bytes(),
      parameters,
      scratchBytes: this.#layout.scratchBytes,
      savedBytes: this.#layout.savedBytes,
    };
  }

  #step(
    { rows, pass, sources }: {
      rows: FunctionBuilder | null;
      pass: FunctionBuilder | null;
      sources: readonly Source[];
    },
    { scratch, saved, sample, counter, images }: {
      scratch: Local;
      saved: Local;
      sample: Local;
      counter: Local;
      images: readonly Local[];
    },
  ): Code[] {
    const imageBytes = 4 * this.#shape.pixels * this.#shape.channels;
    const codes: Code[] = [];
    if (rows) codes.push(call(rows.index, scratch, saved, sample));
    if (!pass) return codes;
    for (const source of sources) {
      if (!source.batchOnly) codes.push(...this.#clear(source, scratch, counter));
    }
    codes.push(
      call(
        pass.index,
        scratch,
        saved,
        sample,
        ...images.map((image) => i32.add(image, i32.mul(sample, imageBytes))),
      ),
    );
    for (const source of sources) {
      if (source.batch) codes.push(...this.#fold(source, scratch, sample, counter));
      for (const index of source.reductions) {
        if (!overBatch(this.#value(index))) {
          codes.push(
            this.#finish(
              index,
              this.#sums(source, scratch),
              this.#address(scratch, saved, index, sample),
              this.#shape.pixels,
            ),
          );
        }
      }
    }
    return codes;
  }

  #value(index: number): Value {
    return this.#schedule.program.values[index]!;
  }

  #finish(index: number, sums: Sums, out: Operand, pixels: number): Code {
    const { op } = this.#value(index);
    return this.#moments.finish(
      op as Parameters<MomentFunctions["finish"]>[0],
      sums,
      out,
      spanOf(this.#value(index), this.#shape),
      pixels,
    );
  }

  #sums(source: Source, scratch: Local, batch = false): Sums {
    const places = batch && source.batch ? source.batch : source;
    const at = (wanted: boolean, offset: number) => i32.add(scratch, wanted ? offset : this.#layout.zeros);
    return {
      sum: at(source.sum, places.sumOffset),
      square: at(source.square, places.squareOffset),
      shift: at(source.shifted, places.shiftOffset),
    };
  }

  #clear({ sum, square, sumOffset, squareOffset }: Source, scratch: Local, counter: Local): Code[] {
    const bytes = 2 * this.#layout.rowBytes;
    return [
      ...(sum ? [zero(scratch, counter, sumOffset, bytes)] : []),
      ...(square ? [zero(scratch, counter, squareOffset, bytes)] : []),
    ];
  }

  #clearBatch(source: Source, scratch: Local, counter: Local): Code[] {
    if (source.batchOnly) return this.#clear(source, scratch, counter);
    return source.batch ? this.#clear({ ...source, ...source.batch }, scratch, counter) : [];
  }

  #fold(source: Source, scratch: Local, sample: Local, counter: Local): Code[] {
    const { rowBytes } = this.#layout;
    // The batch's deviations are from the first sample's row.
    const first = source.shifted
      ? [
        when(
          i32.eqz(sample),
          copyBlock(
            i32.add(scratch, source.batch!.shiftOffset),
            i32.add(scratch, source.shiftOffset),
            counter,
            rowBytes,
          ),
        ),
      ]
      : [];
    return [...first, this.#moments.fold(this.#sums(source, scratch), this.#batchSums(source, scratch))];
  }

  /** Where the batch's sums are; those that are not kept go to a row that nobody reads. */
  #batchSums(source: Source, scratch: Local): Sums {
    const { sumOffset, squareOffset, shiftOffset } = source.batch!;
    return {
      sum: i32.add(scratch, sumOffset),
      square: i32.add(scratch, squareOffset),
      shift: i32.add(scratch, source.shifted ? shiftOffset : this.#layout.zeros),
    };
  }

  #finishBatch(source: Source, scratch: Local, saved: Local): Code[] {
    const { samples, pixels } = this.#shape;
    return source.reductions.filter((index) => overBatch(this.#value(index))).map((index) =>
      this.#finish(
        index,
        this.#sums(source, scratch, true),
        this.#address(scratch, saved, index),
        samples * pixels,
      )
    );
  }

  /** The address of a row; of the given sample where it differs between samples. */
  #address(scratch: Local, saved: Local, index: number, sample?: Local): Code {
    const { base, offset, step } = this.#layout.rows.get(index)!;
    const start = i32.add(base === "scratch" ? scratch : saved, offset);
    return step === 0 || sample === undefined ? start : i32.add(start, i32.mul(sample, step));
  }

  #storeVector(
    out: Local,
    index: number,
    scratch: Local,
    saved: Local,
    counter: Local,
    run: FunctionBuilder,
  ): Code {
    const { op, constant } = this.#value(index);
    if (op === "Constant") {
      return countUp(
        counter,
        0,
        4 * this.#shape.channels,
        4,
        f32.store(i32.add(out, counter), f32.const(constant!)),
      );
    }
    const from = run.local("i32");
    return sequence(
      set(from, this.#address(scratch, saved, index)),
      copy(out, from, counter, this.#shape.channels),
    );
  }
}

/** Written images have names of their own: `x` is read, its gradient written. */
export function outputName(name: string): string {
  return `out:${name}`;
}

function renamed<P extends { readonly stores: readonly { name: string; value: number }[] }>(pass: P): P {
  return { ...pass, stores: pass.stores.map(({ name, value }) => ({ name: outputName(name), value })) };
}

function zero(base: Local, counter: Local, offset: number, bytes: number): Code {
  return countUp(counter, 0, bytes, 16, v128.store(i32.add(base, counter), i32x4.const(0), offset));
}

/** Copies `count` numbers of 32 bits. */
function copy(to: Operand, from: Operand, counter: Local, count: number): Code {
  return countUp(counter, 0, 4 * count, 4, f32.store(i32.add(to, counter), f32.load(i32.add(from, counter))));
}

function copyBlock(to: Code, from: Code, counter: Local, bytes: number): Code {
  return countUp(counter, 0, bytes, 16, v128.store(i32.add(to, counter), v128.load(i32.add(from, counter))));
}
