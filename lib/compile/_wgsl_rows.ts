/** The shaders that compute rows: statistics from the results of a pass, statistics of rows, vectors handed out. */
import { partialAt } from "./_wgsl_pass.ts";
import type { RowItem, RowsStep } from "./_wgsl_plan.ts";
import { MOST_GROUPS, rowAt, RowReader, Shader, type ShaderContext } from "./_wgsl_shader.ts";
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
    const sum = (entries: number, before: string[], term: string) =>
      this.#total(together, perGroup, entries, before, term);
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

  /** The sum of a term over entries `e`; every thread of the group gets it. */
  #total(together: number, perGroup: number, entries: number, before: string[], term: string): string {
    const name = this.#shader.name("total"), own = this.#shader.name("own");
    this.#shader.add(
      `var ${own} = 0f;`,
      `for (var e = part; e < ${entries}u; e += ${perGroup}u) {`,
      ...before,
      `${own} += ${term};`,
      "}",
    );
    if (perGroup === 1) return own;
    const shared = this.#shader.shared("shared_sums", this.#threads);
    this.#shader.add(
      `${shared}[thread] = ${own};`,
      "workgroupBarrier();",
      `for (var s = ${this.#threads / 2}u; s >= ${together}u; s /= 2u) {`,
      `if (thread < s) { ${shared}[thread] += ${shared}[thread + s]; }`,
      "workgroupBarrier();",
      "}",
      `let ${name} = ${shared}[thread % ${together}u];`,
      "workgroupBarrier();",
    );
    return name;
  }

  /** Moments from the partial results of a pass: of a sample's chunks, or of all samples'. */
  #finish(
    { source, reductions }: Extract<RowItem, { kind: "finish" }>,
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
    const let_ = (stem: string, expression: string) => {
      const lines: string[] = [];
      const name = this.#shader.let(stem, expression, lines);
      this.#shader.add(...lines);
      return name;
    };
    let mean = "", meanSquare = "", variance = "";
    if (source.shifted) {
      const first = partialAt(this.#context, source.first, sample ?? "0u", "0u", "start");
      const origin = let_("origin", `${this.#shader.buffer("partials")}[${first}]`);
      const distance = [
        ...where,
        `let many = f32(min(${pixels}u - p * ${chunk}u, ${chunk}u));`,
        `let away = (${partial(source.first)} - ${origin}) + ${partial(source.first + 1)};`,
      ];
      const centre = let_("centre", `${sum(entries, distance, "many * away")} / ${count}`);
      const squares = sum(
        entries,
        [...distance, `let apart = away - ${centre};`],
        `(${partial(source.first + 2)} + many * apart * apart)`,
      );
      mean = let_("mean", `${origin} + ${centre}`);
      variance = let_("variance", `${squares} / ${count}`);
      meanSquare = `${variance} + ${mean} * ${mean}`;
    } else {
      if (source.sum) mean = let_("mean", `${sum(entries, where, partial(source.first))} / ${count}`);
      if (source.square) {
        const squares = sum(entries, where, partial(source.first + Number(source.sum)));
        meanSquare = let_("square", `${squares} / ${count}`);
      }
    }
    return reductions.map((index) => {
      const { op } = this.#value(index);
      return [
        index,
        op === "mean"
          ? mean
          : op === "variance"
          ? variance
          : op === "meanSquare"
          ? meanSquare
          : `${mean} * ${count}`,
      ];
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
        return [[index, `${sum(entries, lines, `${term} * ${term}`)} / ${count}`]];
      case "variance": {
        const mean = `${sum(entries, lines, term)} / ${count}`;
        const centre = this.#shader.name("centre");
        this.#shader.add(`let ${centre} = ${mean};`);
        const apart = [...lines, `let apart = ${term} - ${centre};`];
        return [[index, `${sum(entries, apart, "apart * apart")} / ${count}`]];
      }
      case "sum": // a row stands for all pixels of its sample
        return [[index, `${sum(entries, lines, term)} * ${literal(pixels)}`]];
      default:
        return [[index, `${sum(entries, lines, term)} / ${count}`]];
    }
  }
}

/** Adds the code that sums a term over entries, given the lines that it needs; returns the sum's name. */
type Sum = (entries: number, before: string[], term: string) => string;
