/**
 * What a kernel on a GPU does between two barriers. Every dispatch is a barrier over the whole batch, so a reduction
 * over the batch is known as early as one over a sample: time is the number of passes over the pixels that a value
 * needs to have seen.
 */
import { accumulated } from "./schedule.ts";
import { isReduction, overBatch, type Program, type Value } from "./value.ts";

/** What a pass accumulates of one full value, in numbers per chunk of pixels and channel. */
export interface Source {
  readonly operand: number;
  /** For variances: a shift, the mean's distance from it, and the sum of squared deviations from the mean. Else sums. */
  readonly shifted: boolean;
  readonly sum: boolean;
  readonly square: boolean;
  /** The first of its numbers among those of the pass. */
  readonly first: number;
  readonly reductions: readonly number[];
}

/** One sweep over all pixels of all samples. */
export interface PassStep {
  readonly kind: "pass";
  readonly sources: readonly Source[];
  readonly stores: readonly { readonly name: string; readonly value: number }[];
}

/** A computation of rows: a workgroup works through a list of these. */
export type RowItem =
  /** Reductions along the same dimensions, from the numbers of the chunks. */
  | { readonly kind: "finish"; readonly sources: readonly Source[]; readonly reductions: readonly number[] }
  /** A reduction over a row. */
  | { readonly kind: "reduce"; readonly value: number }
  /** A vector handed out. */
  | { readonly kind: "store"; readonly name: string; readonly value: number };

/** Rows: those of each sample by workgroups of their own, and beside them those of the batch. */
export interface RowsStep {
  readonly kind: "rows";
  readonly sample: readonly RowItem[];
  readonly batch: readonly RowItem[];
}

/** Where a row of C numbers lies: per-sample ones have N of them. */
export interface RowPlace {
  readonly buffer: "rows" | "saved";
  readonly offset: number;
  readonly perSample: boolean;
}

/** The dispatches of a kernel and where their rows are. */
export interface Plan {
  readonly steps: readonly (PassStep | RowsStep)[];
  /** Of reductions and saved inputs, in numbers. Other rows are recomputed where they are used. */
  readonly places: ReadonlyMap<number, RowPlace>;
  readonly rows: number;
  readonly saved: number;
}

/** Whether a reduction of a row is arithmetic on it, as the row does not vary along its dimensions. */
export function isArithmetic(values: readonly Value[], index: number): boolean {
  const value = values[index]!;
  const input = values[value.inputs[0]!]!;
  return !input.full &&
    (input.op === "Constant" || value.axes === "wh" || (overBatch(value) && !input.perSample));
}

/** Plans a program for tensors of these sizes. */
export function plan(program: Program, { samples, channels }: { samples: number; channels: number }): Plan {
  const { values } = program;
  const times = timesOf(values);
  const { places, rows, saved } = layOut(program, samples, channels);
  const last = Math.max(
    0,
    ...times.filter((_, index) => places.has(index)),
    ...program.images.map(({ value }) => times[value]!),
  );
  const steps: (PassStep | RowsStep)[] = [];
  let sources: readonly Source[] = [];
  for (let time = 0; time <= last; time++) {
    // Vectors are written as soon as all of them are known: with the last reductions.
    const vectors = time === lastRows(program, times) ? program.vectors : [];
    steps.push(...rowSteps(values, times, time, { places, sources, vectors }));
    sources = sourcesOf(
      values,
      values.flatMap((_, index) => accumulated(values, index) && times[index] === time + 1 ? [index] : []),
    );
    const stores = program.images.filter(({ value }) => times[value] === time);
    if (sources.length > 0 || stores.length > 0) steps.push({ kind: "pass", sources, stores });
  }
  return { steps, places, rows, saved };
}

function lastRows(program: Program, times: readonly number[]): number {
  return Math.max(0, ...program.vectors.map(({ value }) => times[value]!));
}

function timesOf(values: readonly Value[]): number[] {
  const times: number[] = [];
  values.forEach((value, index) => {
    const ready = Math.max(0, ...value.inputs.map((input) => times[input]!));
    times.push(accumulated(values, index) ? ready + 1 : ready);
  });
  return times;
}

function layOut({ values, saved }: Program, samples: number, channels: number) {
  const sizes = { rows: 0, saved: 0 };
  const places = new Map<number, RowPlace>();
  const place = (index: number, buffer: RowPlace["buffer"]) => {
    const { perSample } = values[index]!;
    places.set(index, { buffer, offset: sizes[buffer], perSample });
    sizes[buffer] += perSample ? samples * channels : channels;
  };
  for (const { value } of saved) if (!places.has(value)) place(value, "saved");
  values.forEach((value, index) => {
    if (places.has(index)) return;
    if (value.op === "Input" && !value.full && value.name!.startsWith("saved")) place(index, "saved");
    if (isReduction(value.op) && !isArithmetic(values, index)) place(index, "rows");
  });
  return { places, ...sizes };
}

function sourcesOf(values: readonly Value[], reductions: readonly number[]): Source[] {
  let first = 0;
  return [...Map.groupBy(reductions, (index) => values[index]!.inputs[0]!)].map(([operand, members]) => {
    const ops = members.map((index) => values[index]!.op);
    const shifted = ops.includes("variance");
    const square = !shifted && ops.includes("meanSquare");
    const sum = !shifted && (ops.includes("mean") || ops.includes("sum"));
    const source: Source = { operand, shifted, sum, square, first, reductions: members };
    first += shifted ? 3 : Number(sum) + Number(square);
    return source;
  });
}

/** The scope in which a row that is not per sample is made is the batch's. */
type Scope = "sample" | "batch";

/**
 * The rows known after `time` passes, as few dispatches as possible: a workgroup sees what it has made itself, and what
 * the workgroups of the other scope made in an earlier dispatch.
 */
function rowSteps(
  values: readonly Value[],
  times: readonly number[],
  time: number,
  { places, sources, vectors }: Pick<Plan, "places"> & {
    sources: readonly Source[];
    vectors: Program["vectors"];
  },
): RowsStep[] {
  const levels = new Map<number, number>();
  const scopeOf = (index: number): Scope => values[index]!.perSample ? "sample" : "batch";
  const levelOf = (inputs: readonly number[], scope: Scope): number => {
    const made = storedBehind(values, places, inputs).filter((index) => levels.has(index));
    return Math.max(0, ...made.map((index) => levels.get(index)! + (scopeOf(index) === scope ? 0 : 1)));
  };
  const items: { readonly level: number; readonly scope: Scope; readonly item: RowItem }[] = [];
  const alike = Map.groupBy(sources.flatMap(({ reductions }) => reductions), (index) => {
    const { op, axes } = values[index]!;
    return op === "sum" ? "bwh" : axes!;
  });
  for (const reductions of alike.values()) {
    const read = sources.filter((source) => source.reductions.some((index) => reductions.includes(index)));
    items.push({
      level: 0,
      scope: scopeOf(reductions[0]!),
      item: { kind: "finish", sources: read, reductions },
    });
    for (const index of reductions) levels.set(index, 0);
  }
  values.forEach((value, index) => {
    if (times[index] !== time || !places.has(index) || !isReduction(value.op) || accumulated(values, index)) {
      return;
    }
    const scope = scopeOf(index), level = levelOf(value.inputs, scope);
    levels.set(index, level);
    items.push({ level, scope, item: { kind: "reduce", value: index } });
  });
  for (const { name, value } of vectors) {
    items.push({ level: levelOf([value], "batch"), scope: "batch", item: { kind: "store", name, value } });
  }
  const most = Math.max(-1, ...items.map(({ level }) => level));
  return Array.from({ length: most + 1 }, (_, level): RowsStep => {
    const of = (scope: Scope) =>
      items.filter((entry) => entry.level === level && entry.scope === scope).map(({ item }) => item);
    return { kind: "rows", sample: of("sample"), batch: of("batch") };
  });
}

/** The stored rows that some values are made of, themselves included. */
function storedBehind(
  values: readonly Value[],
  places: ReadonlyMap<number, RowPlace>,
  from: readonly number[],
): number[] {
  const found = new Set<number>(), seen = new Set<number>();
  const visit = (index: number): void => {
    if (seen.has(index)) return;
    seen.add(index);
    if (places.has(index)) found.add(index);
    else values[index]!.inputs.forEach(visit);
  };
  from.forEach(visit);
  return [...found];
}
