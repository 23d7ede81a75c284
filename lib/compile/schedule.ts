/**
 * When each value of a program is computed. A kernel is a sequence of phases, with a barrier over the batch between
 * them; within a phase each sample goes through a sequence of passes over its pixels. Before each pass come the rows
 * [C] that it needs. A sample stays in the cache from one pass to the next.
 */
import { isReduction, overBatch, type Program, type Value } from "./value.ts";

/** A place in the sequence: the pass `pass` of phase `phase`, or the rows before it. */
export interface Time {
  readonly phase: number;
  readonly pass: number;
}

/** One sweep over the pixels of a sample. */
export interface Pass {
  /** Full values whose reductions are accumulated: the reductions, by index. */
  readonly reductions: readonly number[];
  /** Images written. */
  readonly stores: readonly { readonly name: string; readonly value: number }[];
  /** Full values that are expensive and needed again by a later pass of this phase: kept for the sample at hand. */
  readonly keeps: readonly number[];
  /** Full values that an earlier pass of this phase has kept. */
  readonly kept: readonly number[];
}

/** What happens between two barriers. */
export interface Phase {
  /** Rows [C] and reductions over rows [N, C] to [C], computed once, in order. */
  readonly once: readonly number[];
  /** For each sample: rows [C] (in order), then the pass; the last entry may have no pass. */
  readonly steps: readonly { readonly rows: readonly number[]; readonly pass: Pass | null }[];
}

/** A program with its order of execution. */
export interface Schedule {
  readonly program: Program;
  readonly phases: readonly Phase[];
}

const costly: ReadonlySet<Value["op"]> = new Set(["Sigmoid", "Tanh", "Exp", "Log"]);

/** Orders a program: every reduction as early as its argument allows, so that as few passes as possible are made. */
export function schedule(program: Program): Schedule {
  const { values } = program;
  const times = availability(values);
  const last = values.reduce((most, _, index) => later(most, times[index]!), { phase: 0, pass: 0 });
  const phases = Array.from({ length: last.phase + 1 }, (_, phase): Phase => {
    const here = values.flatMap((_, index) => times[index]!.phase === phase ? [index] : []);
    // Reductions over pixels are finished where the pass ends; those over rows [N, C] at the barrier.
    const computed = here.filter((index) =>
      !values[index]!.full && !accumulated(values, index) && !isLeaf(values[index]!)
    );
    const once = computed.filter((index) => !values[index]!.perSample);
    const rows = computed.filter((index) => values[index]!.perSample);
    const reductions = values.flatMap((value, index) =>
      isReduction(value.op) && values[value.inputs[0]!]!.full && times[value.inputs[0]!]!.phase === phase
        ? [index]
        : []
    );
    const stores = program.images.filter(({ value }) => times[value]!.phase === phase);
    const passes = 1 + Math.max(
      -1,
      ...reductions.map((index) => times[values[index]!.inputs[0]!]!.pass),
      ...stores.map(({ value }) => times[value]!.pass),
    );
    const steps = Math.max(passes, 1 + Math.max(-1, ...rows.map((index) => times[index]!.pass)));
    const plain = Array.from({ length: steps }, (_, pass) => ({
      rows: rows.filter((index) => times[index]!.pass === pass),
      reductions: reductions.filter((index) => times[values[index]!.inputs[0]!]!.pass === pass),
      stores: stores.filter(({ value }) => times[value]!.pass === pass),
    }));
    return { once, steps: withKept(values, plain) };
  });
  return { program, phases };
}

/** Whether a value is a reduction over pixels, made by a pass. */
export function accumulated(values: readonly Value[], index: number): boolean {
  const { op, inputs } = values[index]!;
  return isReduction(op) && values[inputs[0]!]!.full;
}

function isLeaf({ op }: Value): boolean {
  return op === "Input" || op === "Constant";
}

function later(a: Time, b: Time): Time {
  return a.phase > b.phase || (a.phase === b.phase && a.pass >= b.pass) ? a : b;
}

function availability(values: readonly Value[]): Time[] {
  const times: Time[] = [];
  for (const value of values) {
    const ready = value.inputs.reduce<Time>((most, input) => later(most, times[input]!), {
      phase: 0,
      pass: 0,
    });
    const input = isReduction(value.op) ? values[value.inputs[0]!]! : null;
    if (input === null || (!input.perSample)) times.push(ready);
    else if (overBatch(value)) times.push({ phase: ready.phase + 1, pass: 0 });
    else times.push(input.full ? { phase: ready.phase, pass: ready.pass + 1 } : ready);
  }
  return times;
}

interface PlainStep {
  readonly rows: readonly number[];
  readonly reductions: readonly number[];
  readonly stores: Pass["stores"];
}

/** Decides which full values a phase keeps from one pass for the next. */
function withKept(values: readonly Value[], steps: readonly PlainStep[]): Phase["steps"] {
  const roots = steps.map(({ reductions, stores }) => [
    ...reductions.map((index) => values[index]!.inputs[0]!),
    ...stores.map(({ value }) => value),
  ]);
  const kept = new Set<number>();
  const plans = roots.map((from, pass) => {
    const needed = fullValues(values, from, kept);
    const later = new Set(roots.slice(pass + 1).flatMap((next) => [...fullValues(values, next, new Set())]));
    const keeps = [...needed].filter((index) =>
      !kept.has(index) && later.has(index) && costly.has(values[index]!.op)
    ).sort((a, b) => a - b);
    const reused = [...needed].filter((index) => kept.has(index));
    for (const index of keeps) kept.add(index);
    return { keeps, kept: reused };
  });
  return steps.map(({ rows, reductions, stores }, pass) => ({
    rows,
    pass: roots[pass]!.length === 0 ? null : { reductions, stores, ...plans[pass]! },
  }));
}

/** The full values that some are made of, themselves included, not looking behind kept ones. */
export function fullValues(
  values: readonly Value[],
  from: readonly number[],
  kept: ReadonlySet<number>,
): Set<number> {
  const found = new Set<number>();
  const visit = (index: number): void => {
    if (!values[index]!.full || found.has(index)) return;
    found.add(index);
    if (!kept.has(index)) values[index]!.inputs.forEach(visit);
  };
  from.forEach(visit);
  return found;
}
