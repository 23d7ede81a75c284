/** Where a kernel keeps its rows and sums, in bytes from the start of its working space or of the saved tensor. */
import { accumulated, type Schedule } from "./schedule.ts";
import { overBatch, type Value } from "./value.ts";

/** The sizes that a kernel is made for. */
export interface KernelShape {
  readonly samples: number;
  /** Pixels of a sample, height times width. */
  readonly pixels: number;
  readonly channels: number;
  /** Groups of the index set whc/g; divide the channels. */
  readonly groups: number;
}

/** Where a row of C numbers lies: a base, and per sample a step further. */
export interface RowPlace {
  readonly base: "scratch" | "saved";
  readonly offset: number;
  /** Bytes from one sample's row to the next; 0 for rows [C]. */
  readonly step: number;
}

/** What a pass accumulates of one full value: sums in float64, of the value or of its deviation from a shift row. */
export interface Source {
  readonly operand: number;
  readonly sum: boolean;
  readonly square: boolean;
  /** Deviations from the value at the sample's first pixel: so that a large mean does not cancel in the variance. */
  readonly shifted: boolean;
  /** The place of the sums of the sample at hand (or, if only the batch counts, of the batch). */
  readonly sumOffset: number;
  readonly squareOffset: number;
  readonly shiftOffset: number;
  /** Set if sums over the batch are kept beside those of the sample: sum, square, shift. */
  readonly batch:
    | { readonly sumOffset: number; readonly squareOffset: number; readonly shiftOffset: number }
    | null;
  /** The sums are of the batch alone. */
  readonly batchOnly: boolean;
  readonly reductions: readonly number[];
}

/** The places of everything that a kernel keeps. */
export interface Layout {
  readonly rowBytes: number;
  /** By value index. */
  readonly rows: ReadonlyMap<number, RowPlace>;
  /** By phase and pass. */
  readonly sources: ReadonlyMap<string, readonly Source[]>;
  /** Buffers [H, W, C] of kept values of the sample at hand. */
  readonly kept: ReadonlyMap<number, number>;
  /** A row of zeros, in float32 or in float64. */
  readonly zeros: number;
  readonly scratchBytes: number;
  readonly savedBytes: number;
}

/** The key of a pass in {@linkcode Layout.sources}. */
export function passKey(phase: number, pass: number): string {
  return `${phase}.${pass}`;
}

/** Lays out the working space of a kernel. */
export function layOut({ program, phases }: Schedule, { samples, pixels, channels }: KernelShape): Layout {
  const { values } = program;
  const rowBytes = 16 * Math.ceil(channels / 4);
  const space = new Allocator(), savedSpace = new Allocator();
  const rows = new Map<number, RowPlace>();
  const saved = new Set(program.saved.map(({ value }) => value));
  const place = (value: Value, base: RowPlace["base"]): RowPlace => ({
    base,
    offset: (base === "saved" ? savedSpace : space).take(value.perSample ? samples * rowBytes : rowBytes),
    step: value.perSample ? rowBytes : 0,
  });
  for (const { value } of program.saved) rows.set(value, place(values[value]!, "saved"));
  values.forEach((value, index) => {
    if (value.full || value.op === "Constant" || saved.has(index)) return;
    const isSavedInput = value.op === "Input" && value.name!.startsWith("saved");
    rows.set(index, place(value, isSavedInput ? "saved" : "scratch"));
  });
  const sources = new Map<string, Source[]>();
  phases.forEach(({ steps }, phase) =>
    steps.forEach(({ pass }, at) => {
      if (pass) sources.set(passKey(phase, at), sourcesOf(values, pass.reductions, space, rowBytes));
    })
  );
  const kept = new Map<number, number>();
  for (const { steps } of phases) {
    for (const { pass } of steps) {
      for (const value of pass?.keeps ?? []) kept.set(value, space.take(4 * pixels * channels));
    }
  }
  return {
    rowBytes,
    rows,
    sources,
    kept,
    zeros: space.take(2 * rowBytes),
    scratchBytes: space.size,
    savedBytes: savedSpace.size,
  };
}

class Allocator {
  size = 0;
  take(bytes: number): number {
    const offset = this.size;
    this.size += 16 * Math.ceil(bytes / 16);
    return offset;
  }
}

function sourcesOf(
  values: readonly Value[],
  reductions: readonly number[],
  space: Allocator,
  rowBytes: number,
): Source[] {
  const byOperand = Map.groupBy(
    reductions.filter((index) => accumulated(values, index)),
    (index) => values[index]!.inputs[0]!,
  );
  return [...byOperand].map(([operand, members]): Source => {
    const ops = members.map((index) => values[index]!.op);
    const shifted = ops.includes("variance");
    const square = shifted || ops.includes("meanSquare");
    const sum = shifted || ops.includes("mean") || ops.includes("sum");
    const batch = members.some((index) => overBatch(values[index]!));
    const batchOnly = !shifted && members.every((index) => overBatch(values[index]!));
    const sums = () => ({
      sumOffset: space.take(2 * rowBytes),
      squareOffset: space.take(2 * rowBytes),
      shiftOffset: space.take(rowBytes),
    });
    return {
      operand,
      sum,
      square,
      shifted,
      ...sums(),
      batch: batch && !batchOnly ? sums() : null,
      batchOnly,
      reductions: members,
    };
  });
}
