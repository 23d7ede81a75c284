/** The shaders that compute rows: statistics from the results of a pass, statistics of rows, vectors handed out. */
import { partialAt } from "./_wgsl_pass.ts";
import type { RowItem, RowsStep } from "./_wgsl_plan.ts";
import {
  inBatches,
  MOST_GROUPS,
  MOST_SHARED,
  rowAt,
  RowReader,
  Shader,
  type ShaderContext,
} from "./_wgsl_shader.ts";
import { literal } from "./_wgsl_math.ts";
import type { KernelShape } from "./_wasm_layout.ts";
import type { Value } from "./value.ts";

const THREADS = 256, FEW_THREADS = 64;
/** Channels that a workgroup takes of the batch's rows, where no statistic runs over channels. */
const BATCH_CHANNELS = 16;

/** How many neighbouring channels a moment runs over. */
function spanOf({ axes }: Value, { channels, groups }: KernelShape): number {
  return axes === "whc" ? channels : axes === "whc/g" ? channels / groups : 1;
}

/** The shader of a rows step: workgroups of the batch first, then one per sample. */
export function rowsShader(
  context: ShaderContext,
  step: RowsStep,
): { shader: Shader; threads: number; workgroups: [number, number, number] } {
  const { samples, channels } = context.shape, { chunks } = context.geometry;
  const shader = new Shader(context);
  const threads = channels * chunks >= 4 * FEW_THREADS ? THREADS : FEW_THREADS;
  const writer = new RowsWriter(shader, threads);
  const acrossChannels = step.batch.some((item) => writer.span(item) > 1);
  const width = acrossChannels ? channels : Math.min(channels, BATCH_CHANNELS);
  const batchGroups = step.batch.length > 0 ? Math.ceil(channels / width) : 0;
  const sampleGroups = step.sample.length > 0 ? Math.min(samples, MOST_GROUPS - batchGroups) : 0;
  if (batchGroups > 0) {
    shader.add(
      `if (group.x < ${batchGroups}u) {`,
      `let low = group.x * ${width}u;`,
      `let high = min(low + ${width}u, ${channels}u);`,
    );
    writer.write(step.batch, null, width);
    shader.add("}");
  }
  if (sampleGroups > 0) {
    shader.add(
      `if (group.x >= ${batchGroups}u) {`,
      "let low = 0u;",
      `let high = ${channels}u;`,
      `for (var n = group.x - ${batchGroups}u; n < ${samples}u; n += ${sampleGroups}u) {`,
    );
    writer.write(step.sample, "n", channels);
    shader.add("}", "}");
  }
  return { shader, threads, workgroups: [batchGroups + sampleGroups, 1, 1] };
}

class RowsWriter {
  readonly #shader: Shader;
  readonly #context: ShaderContext;
  readonly #threads: number;

  constructor(shader: Shader, threads: number) {
    this.#shader = shader;
    this.#context = shader.context;
    this.#threads = threads;
  }

  /** How many channels an item combines. */
  span(item: RowItem): number {
    if (item.kind === "store") return 1;
    const index = item.kind === "finish" ? item.reductions[0]! : item.value;
    return spanOf(this.#value(index), this.#context.shape);
  }

  /** The items for the channels from `low` to `high`, `width` at most, of the sample or (null) of the batch. */
  write(items: readonly RowItem[], sample: string | null, width: number): void {
    items.forEach((item, at) => {
      this.#shader.add("{");
      if (item.kind === "store") this.#store(item);
      else this.#groups(item, sample, width);
      // What the threads have written is read by others of the same workgroup, in the next items or for the next sample.
      this.#shader.add("}", ...(at < items.length - 1 || sample !== null ? ["storageBarrier();"] : []));
    });
  }

  #value(index: number): Value {
    return this.#context.program.values[index]!;
  }

  #store({ name, value }: { name: string; value: number }): void {
    const lines: string[] = [];
    // Vectors are the same for all samples.
    const result = new RowReader(this.#shader, lines, "0u", "c").read(value);
    const { packed } = this.#context;
    const place = packed === null
      ? `${this.#shader.buffer(`out:${name}`, "read_write")}[c]`
      : `${this.#shader.buffer("rows", "read_write")}[${packed.get(`out:${name}`)!}u + c]`;
    this.#shader.add(
      `for (var c = low + thread; c < high; c += ${this.#threads}u) {`,
      ...lines,
      `${place} = ${result};`,
      "}",
    );
  }

  /** Statistics of groups of channels, several at a time, each by a few threads. */
  #groups(
    item: Extract<RowItem, { kind: "finish" | "reduce" }>,
    sample: string | null,
    width: number,
  ): void {
    const span = this.span(item);
    const together = Math.min(this.#threads, 2 ** Math.ceil(Math.log2(width / span)));
    const perGroup = this.#threads / together;
    this.#shader.add(
      `for (var base = low / ${span}u; base < high / ${span}u; base += ${together}u) {`,
      `let wanted = base + thread % ${together}u;`,
      `let start = min(wanted, high / ${span}u - 1u) * ${span}u;`,
      `let part = thread / ${together}u;`,
    );
    const sum: Sum = (entries, before, terms) => this.#totals({ together, perGroup, entries }, before, terms);
    const results = item.kind === "finish"
      ? this.#finish(item, sample, span, sum)
      : this.#reduce(item.value, sample, span, sum);
    this.#shader.add(
      `if (wanted < high / ${span}u) {`,
      `for (var c = start + part; c < start + ${span}u; c += ${perGroup}u) {`,
      ...results.map(([index, expression]) =>
        `${rowAt(this.#shader, index, sample ?? "0u", "c", "read_write")} = ${expression};`
      ),
      "}",
      "}",
      "}",
    );
  }

  /** The sums of terms over entries `e`; every thread of the group gets them. */
  #totals(
    { together, perGroup, entries }: { together: number; perGroup: number; entries: number },
    before: readonly string[],
    terms: readonly string[],
  ): string[] {
    const own = terms.map(() => this.#shader.name("own"));
    this.#shader.add(
      ...own.map((name) => `var ${name} = 0f;`),
      `for (var e = part; e < ${entries}u; e += ${perGroup}u) {`,
      ...before,
      ...terms.map((term, at) => `${own[at]!} += ${term};`),
      "}",
    );
    if (perGroup === 1) return own;
    return inBatches(own, MOST_SHARED).flatMap((some) => {
      const shared = some.map((_, at) => this.#shader.shared(`shared_sums${at}`, this.#threads));
      const totals = some.map(() => this.#shader.name("total"));
      this.#shader.add(
        ...shared.map((array, at) => `${array}[thread] = ${some[at]!};`),
        "workgroupBarrier();",
        `for (var s = ${this.#threads / 2}u; s >= ${together}u; s /= 2u) {`,
        "if (thread < s) {",
        ...shared.map((array) => `${array}[thread] += ${array}[thread + s];`),
        "}",
        "workgroupBarrier();",
        "}",
        ...shared.map((array, at) => `let ${totals[at]!} = ${array}[thread % ${together}u];`),
        "workgroupBarrier();",
      );
      return totals;
    });
  }

  /** Moments from the partial results of a pass: of a sample's chunks, or of all samples'. */
  #finish(
    { sources, reductions }: Extract<RowItem, { kind: "finish" }>,
    sample: string | null,
    span: number,
    sum: Sum,
  ): [number, string][] {
    const { samples, pixels } = this.#context.shape, { chunk, chunks } = this.#context.geometry;
    const entries = span * chunks * (sample === null ? samples : 1);
    const count = literal(span * pixels * (sample === null ? samples : 1));
    const where = [
      `let c = start + e % ${span}u;`,
      `let p = (e / ${span}u) % ${chunks}u;`,
      `let m = ${sample ?? `e / ${span * chunks}u`};`,
    ];
    const partial = (number: number) =>
      `${this.#shader.buffer("partials")}[${partialAt(this.#context, number, "m", "p", "c")}]`;
    const define = (stem: string, expression: string) => {
      const lines: string[] = [];
      const name = this.#shader.let(stem, expression, lines);
      this.#shader.add(...lines);
      return name;
    };
    const made = new Map<string, string>();
    const plain = sources.filter(({ shifted }) => !shifted).flatMap(({ operand, sum, square, first }) => [
      ...(sum ? [{ key: `mean ${operand}`, number: first }] : []),
      ...(square ? [{ key: `meanSquare ${operand}`, number: first + Number(sum) }] : []),
    ]).filter(({ key }) => this.#needs(reductions, key));
    if (plain.length > 0) {
      const totals = sum(entries, where, plain.map(({ number }) => partial(number)));
      plain.forEach(({ key }, at) => made.set(key, define("mean", `${totals[at]!} / ${count}`)));
    }
    const shifted = sources.filter(({ shifted }) => shifted).map(({ operand, first }) => ({
      operand,
      first,
      origin: define(
        "origin",
        `${this.#shader.buffer("partials")}[${
          partialAt(this.#context, first, sample ?? "0u", "0u", "start")
        }]`,
      ),
    }));
    if (shifted.length > 0) {
      const many = `let many = f32(min(${pixels}u - p * ${chunk}u, ${chunk}u));`;
      const away = ({ first, origin }: { first: number; origin: string }) =>
        `((${partial(first)} - ${origin}) + ${partial(first + 1)})`;
      const centres = sum(entries, [...where, many], shifted.map((one) => `many * ${away(one)}`))
        .map((total) => define("centre", `${total} / ${count}`));
      const spreads = sum(
        entries,
        [...where, many, ...shifted.map((one, at) => `let apart${at} = ${away(one)} - ${centres[at]!};`)],
        shifted.map(({ first }, at) => `(${partial(first + 2)} + many * apart${at} * apart${at})`),
      );
      shifted.forEach(({ operand, origin }, at) => {
        const mean = define("mean", `${origin} + ${centres[at]!}`);
        const variance = define("variance", `${spreads[at]!} / ${count}`);
        made.set(`mean ${operand}`, mean);
        made.set(`variance ${operand}`, variance);
        made.set(`meanSquare ${operand}`, `${variance} + ${mean} * ${mean}`);
      });
    }
    return reductions.map((index) => {
      const { op, inputs } = this.#value(index);
      const moment = made.get(`${op === "sum" ? "mean" : op} ${inputs[0]!}`)!;
      return [index, op === "sum" ? `${moment} * ${count}` : moment];
    });
  }

  /** Whether some reduction is made of the moment of this name. */
  #needs(reductions: readonly number[], key: string): boolean {
    return reductions.some((index) => {
      const { op, inputs } = this.#value(index);
      return key === `${op === "sum" ? "mean" : op} ${inputs[0]!}`;
    });
  }

  /** A reduction of rows: over neighbouring channels of one, or over the samples. */
  #reduce(index: number, sample: string | null, span: number, sum: Sum): [number, string][] {
    const value = this.#value(index);
    const { samples, pixels } = this.#context.shape;
    const input = value.inputs[0]!;
    const acrossBatch = sample === null && this.#value(input).perSample;
    const entries = acrossBatch ? samples : span;
    const lines = acrossBatch ? ["let m = e;", "let c = start;"] : ["let c = start + e;"];
    const which = acrossBatch ? "m" : sample ?? "0u";
    const term = new RowReader(this.#shader, lines, which, "c").read(input);
    const count = literal(entries);
    switch (value.op) {
      case "meanSquare":
        return [[index, `${sum(entries, lines, [`${term} * ${term}`])[0]!} / ${count}`]];
      case "variance": {
        const mean = `${sum(entries, lines, [term])[0]!} / ${count}`;
        const centre = this.#shader.name("centre");
        this.#shader.add(`let ${centre} = ${mean};`);
        const apart = [...lines, `let apart = ${term} - ${centre};`];
        return [[index, `${sum(entries, apart, ["apart * apart"])[0]!} / ${count}`]];
      }
      case "sum": // a row stands for all pixels of its sample
        return [[index, `${sum(entries, lines, [term])[0]!} * ${literal(pixels)}`]];
      default:
        return [[index, `${sum(entries, lines, [term])[0]!} / ${count}`]];
    }
  }
}

/** Adds the code that sums terms over entries, given the lines that they need; returns the sums' names. */
type Sum = (entries: number, before: readonly string[], terms: readonly string[]) => string[];
