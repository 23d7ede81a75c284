/**
 * When each value is computed: rows over the whole batch, then a pass over the pixels that goes through the batch in blocks, then the
 * rows that depend on what the pass has accumulated, and so on. Room-private.
 */
import { reachable } from "./_derived_program.ts";
import { BATCH, isFull, type Op, overPixels, type Value } from "./_derived_values.ts";

/** What to do with one block. */
export interface Instruction {
  /** The value to compute. */
  readonly index: number;
  /** Full values that no later instruction of the pass needs. */
  readonly free: readonly number[];
}

/** One sweep over the pixels. */
export interface Pass {
  readonly instructions: readonly Instruction[];
  /** Inputs [n, ...] that are needed block by block: images, and rows that differ from sample to sample. */
  readonly split: readonly number[];
  /** Rows accumulated and images made: collected from the blocks. */
  readonly collected: readonly number[];
  /** Full values kept block by block for a later pass. */
  readonly kept: readonly number[];
  /** Full values that an earlier pass has kept. */
  readonly reused: readonly number[];
}

/** Rows to compute, then a pass. */
export interface Step {
  readonly rows: readonly number[];
  readonly pass: Pass | null;
}

/** The order of execution, and the values whose tensors have to be there. */
export interface Plan {
  readonly steps: readonly Step[];
  readonly given: readonly number[];
}

/** Microseconds of an operation on a block in the cache, measured on a processor: by operation, where one side is a row, else. */
const costs: Partial<Record<Op, number>> = {
  Sigmoid: 40,
  Tanh: 25,
  Exp: 35,
  Log: 50,
  Clamped: 50,
  Unclamped: 50,
};
const rowCost = 17, plainCost = 11;
/** Microseconds to write a block to memory and read it again. */
const keepCost = 25;

/** Plans the computation of `outputs` from the inputs and the `given` values. */
export function plan(values: readonly Value[], outputs: readonly number[], given: readonly number[]): Plan {
  const available = new Set(given);
  const needed = reachable(values, outputs, available);
  const isGiven = (index: number) => available.has(index) || values[index]!.op === "Input";
  const times = new Map<number, number>();
  for (const index of needed) {
    const { inputs } = values[index]!;
    if (isGiven(index)) times.set(index, 0);
    // A variance comes with its mean, in the pass over the value itself.
    else if (overPixels(values[index]!)) times.set(index, times.get(inputs[0]!)! + 1);
    else times.set(index, Math.max(0, ...inputs.map((input) => times.get(input)!)));
  }
  const computed = needed.filter((index) => !isGiven(index) && values[index]!.op !== "Constant");
  const last = Math.max(0, ...needed.map((index) => times.get(index)!));
  const collected = Array.from(
    { length: last + 1 },
    (_, time) =>
      computed.filter((index) =>
        overPixels(values[index]!)
          ? times.get(index) === time + 1
          : isFull(values[index]!) && outputs.includes(index) && times.get(index) === time
      ),
  );
  const wanted = collected.map((roots) => inBlocks(values, roots, isGiven));
  const steps: Step[] = [];
  const kept = new Set<number>();
  for (let time = 0; time <= last; time++) {
    const rows = computed.filter((index) =>
      times.get(index) === time && !isFull(values[index]!) && !overPixels(values[index]!)
    );
    if (collected[time]!.length === 0) {
      if (rows.length > 0) steps.push({ rows, pass: null });
      continue;
    }
    const later = new Set(wanted.slice(time + 1).flat());
    const reused = wanted[time]!.filter((index) => kept.has(index));
    const stop = (index: number) => isGiven(index) || kept.has(index);
    const needed = inBlocks(values, collected[time]!, stop);
    const laterOutputs = collected.slice(time + 1).flat();
    // An image made here is joined from its blocks, which end with this pass.
    const keep = worthKeeping(values, needed, inBlocks(values, laterOutputs, stop), laterOutputs)
      .filter((index) => !collected[time]!.includes(index));
    for (const index of keep) kept.add(index);
    steps.push({ rows, pass: pass(values, needed, collected[time]!, { isGiven, keep, reused, later }) });
  }
  return { steps, given: needed.filter(isGiven) };
}

/** The full values, and the means within them, that `roots` are made of in a block, in order. */
function inBlocks(
  values: readonly Value[],
  roots: readonly number[],
  stop: (index: number) => boolean,
): number[] {
  const found = new Set<number>();
  const visit = (index: number, root: boolean): void => {
    const value = values[index]!;
    if (found.has(index) || stop(index) || !(isFull(value) || root)) return;
    found.add(index);
    for (const input of value.inputs) visit(input, value.op === "PixelVariance");
  };
  for (const root of roots) visit(root, true);
  return [...found].sort((a, b) => a - b);
}

/** Of what one pass computes and a later one needs: the full values that are dearer to compute again than to keep. */
function worthKeeping(
  values: readonly Value[],
  now: readonly number[],
  later: readonly number[],
  outputs: readonly number[],
): number[] {
  const common = new Set(now.filter((index) => later.includes(index) && isFull(values[index]!)));
  const used = new Set([
    ...outputs,
    ...later.filter((index) => !common.has(index)).flatMap((index) => values[index]!.inputs),
  ]);
  const keep = new Set([...common].filter((index) => used.has(index)));
  const costAgain = (index: number, seen: Set<number>): number => {
    if (!common.has(index) || seen.has(index) || (seen.size > 0 && keep.has(index))) return 0;
    seen.add(index);
    const { op, inputs } = values[index]!;
    const own = costs[op] ?? (inputs.every((input) => isFull(values[input]!)) ? plainCost : rowCost);
    return inputs.reduce((sum, input) => sum + costAgain(input, seen), own);
  };
  for (const index of [...keep].sort((a, b) => a - b)) {
    if (costAgain(index, new Set()) < keepCost) keep.delete(index);
  }
  return [...keep];
}

function pass(
  values: readonly Value[],
  needed: readonly number[],
  collected: readonly number[],
  { isGiven, keep, reused, later }: {
    isGiven: (index: number) => boolean;
    keep: readonly number[];
    reused: readonly number[];
    later: ReadonlySet<number>;
  },
): Pass {
  const here = new Set(needed);
  const operands = new Set([...needed.flatMap((index) => values[index]!.inputs), ...collected]);
  const split = [...operands].filter((index) =>
    !here.has(index) && !reused.includes(index) && (values[index]!.extent & BATCH) !== 0
  );
  const lasting = new Set([...collected, ...keep, ...split, ...reused.filter((index) => later.has(index))]);
  const lastUse = new Map<number, number>();
  for (const index of needed) for (const input of values[index]!.inputs) lastUse.set(input, index);
  const instructions = needed.map((index): Instruction => ({
    index,
    free: [...new Set(values[index]!.inputs)].filter((input) =>
      lastUse.get(input) === index && (here.has(input) || reused.includes(input)) && !lasting.has(input) &&
      !isGiven(input)
    ),
  }));
  return { instructions, split, collected, kept: keep, reused };
}
