/** The shaders that sweep over pixels. */
import type { PassStep, Source } from "./_wgsl_plan.ts";
import {
  inBatches,
  MOST_GROUPS,
  MOST_SHARED,
  RowReader,
  Shader,
  type ShaderContext,
} from "./_wgsl_shader.ts";
import { fullValues } from "./schedule.ts";
import type { Elementwise } from "./value.ts";

/** Where the numbers of a pass lie among the partial results: per number, sample, chunk and channel. */
export function partialAt(
  { shape, geometry }: ShaderContext,
  number: number,
  sample: string,
  chunk: string,
  channel: string,
): string {
  const { samples, channels } = shape, { chunks } = geometry;
  const base = number * samples * chunks * channels;
  return `${base}u + (${sample} * ${chunks}u + ${chunk}) * ${channels}u + ${channel}`;
}

/** How many partial results a pass has. */
export function partialCount({ sources }: PassStep, { shape, geometry }: ShaderContext): number {
  const numbers = sources.reduce(
    (most, { first, shifted, sum, square }) =>
      Math.max(most, first + (shifted ? 3 : Number(sum) + Number(square))),
    0,
  );
  return numbers * shape.samples * geometry.chunks * shape.channels;
}

/** The shader of a pass, and its workgroups: chunks of pixels, blocks of channels, samples. */
export function passShader(
  context: ShaderContext,
  pass: PassStep,
): { shader: Shader; threads: number; workgroups: [number, number, number] } {
  const shader = new Shader(context);
  const { samples } = context.shape, { lanes, rows, blocks, chunks } = context.geometry;
  new PassWriter(shader, pass).write();
  return { shader, threads: lanes * rows, workgroups: [chunks, blocks, Math.min(samples, MOST_GROUPS)] };
}

interface Accumulator {
  readonly source: Source;
  readonly sum: string;
  readonly square: string;
  readonly shift: string;
}

class PassWriter {
  readonly #shader: Shader;
  readonly #context: ShaderContext;
  readonly #pass: PassStep;

  constructor(shader: Shader, pass: PassStep) {
    this.#shader = shader;
    this.#context = shader.context;
    this.#pass = pass;
  }

  write(): void {
    const { samples, pixels, channels } = this.#context.shape;
    const { lanes, rows, chunk } = this.#context.geometry;
    const before: string[] = [], loop: string[] = [];
    const accumulators = this.#pass.sources.map((source): Accumulator => ({
      source,
      sum: this.#shader.name("sum"),
      square: this.#shader.name("square"),
      shift: this.#shader.name("shift"),
    }));
    this.#values(before, loop, accumulators);
    this.#shader.add(
      `let lane = thread % ${lanes}u;`,
      `let row = thread / ${lanes}u;`,
      `let inside = group.y * ${lanes}u + lane < ${channels}u;`,
      `let channel = min(group.y * ${lanes}u + lane, ${channels - 1}u);`,
      `let first = group.x * ${chunk}u;`,
      `let last = min(first + ${chunk}u, ${pixels}u);`,
      `let end = select(0u, last, inside);`,
      `for (var n = group.z; n < ${samples}u; n += ${MOST_GROUPS}u) {`,
      ...before,
      ...accumulators.flatMap(({ source, sum, square, shift }) => [
        ...(source.shifted || source.sum ? [`var ${sum} = 0f;`] : []),
        ...(source.shifted || source.square ? [`var ${square} = 0f;`] : []),
        ...(source.shifted ? [`var ${shift} = 0f;`] : []),
      ]),
      `for (var pixel = first + row; pixel < end; pixel += ${rows}u) {`,
      `let at = (n * ${pixels}u + pixel) * ${channels}u + channel;`,
      ...loop,
      "}",
      ...this.#mergeSums(accumulators),
      ...accumulators.filter(({ source }) => source.shifted).flatMap((one) => this.#mergeMoments(one)),
      "}",
    );
  }

  /** The full values at a pixel, what is stored of them and what is accumulated; rows before the loop. */
  #values(before: string[], loop: string[], accumulators: readonly Accumulator[]): void {
    const { values } = this.#context.program;
    const rows = new RowReader(this.#shader, before, "n", "channel");
    const roots = [
      ...this.#pass.sources.map(({ operand }) => operand),
      ...this.#pass.stores.map(({ value }) => value),
    ];
    const known = new Map<number, string>();
    const read = (index: number): string => values[index]!.full ? known.get(index)! : rows.read(index);
    for (const index of [...fullValues(values, roots, new Set())].sort((a, b) => a - b)) {
      const { op, name, inputs } = values[index]!;
      const expression = op === "Input"
        ? `${this.#shader.buffer(name!)}[at]`
        : this.#shader.math.apply(op as Elementwise, inputs.map(read) as [string, ...string[]]);
      known.set(index, this.#shader.let("f", expression, loop));
    }
    for (const { name, value } of this.#pass.stores) {
      loop.push(`${this.#shader.buffer(`out:${name}`, "read_write")}[at] = ${read(value)};`);
    }
    for (const { source, sum, square, shift } of accumulators) {
      const value = read(source.operand);
      if (source.shifted) loop.push(`if (pixel == first + row) { ${shift} = ${value}; }`);
      const deviation = source.shifted ? this.#shader.let("d", `${value} - ${shift}`, loop) : value;
      if (source.shifted || source.sum) loop.push(`${sum} += ${deviation};`);
      if (source.shifted || source.square) loop.push(`${square} += ${deviation} * ${deviation};`);
    }
  }

  /** The threads' sums become those of the chunk; the rows of threads share the work. */
  #mergeSums(accumulators: readonly Accumulator[]): string[] {
    const { lanes, rows } = this.#context.geometry;
    const sums = accumulators.filter(({ source }) => !source.shifted).flatMap(({ source, sum, square }) => [
      ...(source.sum ? [{ name: sum, number: source.first }] : []),
      ...(source.square ? [{ name: square, number: source.first + Number(source.sum) }] : []),
    ]);
    return inBatches(sums, MOST_SHARED).flatMap((some) => {
      const shared = some.map((_, at) => this.#shader.shared(`shared_sums${at}`, lanes * rows));
      return [
        ...shared.map((array, at) => `${array}[thread] = ${some[at]!.name};`),
        "workgroupBarrier();",
        ...some.flatMap(({ number }, at) => [
          `if (row == ${at % rows}u && inside) {`,
          "var total = 0f;",
          `for (var r = 0u; r < ${rows}u; r++) { total += ${shared[at]!}[r * ${lanes}u + lane]; }`,
          `${this.#partial(number)} = total;`,
          "}",
        ]),
        "workgroupBarrier();",
      ];
    });
  }

  /**
   * Each thread has deviations from its own first value. Their mean and squares are put relative to the first thread's
   * (so that a large common part cancels without rounding), then combined about the mean of all.
   */
  #mergeMoments({ source, sum, square, shift }: Accumulator): string[] {
    const { lanes, rows } = this.#context.geometry;
    const means = this.#shader.shared("shared_sums0", lanes * rows);
    const squares = this.#shader.shared("shared_sums1", lanes * rows);
    const count = (row: string) => `(last - first + ${rows - 1}u - ${row}) / ${rows}u`;
    return [
      `${means}[thread] = ${shift};`,
      "workgroupBarrier();",
      "{",
      `let origin = ${means}[lane];`,
      "workgroupBarrier();",
      `let count = f32(${count("row")});`,
      `let mean = ${sum} / max(count, 1f);`,
      `${means}[thread] = (${shift} - origin) + mean;`,
      `${squares}[thread] = ${this.#shader.math.call("not_negative", `${square} - ${sum} * mean`)};`,
      "workgroupBarrier();",
      "if (row == 0u && inside) {",
      "var total = 0f;",
      `for (var r = 0u; r < ${rows}u; r++) {`,
      `let many = ${count("r")};`,
      `if (many > 0u) { total += f32(many) * ${means}[r * ${lanes}u + lane]; }`,
      "}",
      "let centre = total / f32(last - first);",
      "var spread = 0f;",
      `for (var r = 0u; r < ${rows}u; r++) {`,
      `let many = ${count("r")};`,
      "if (many > 0u) {",
      `let distance_r = ${means}[r * ${lanes}u + lane] - centre;`,
      `spread += ${squares}[r * ${lanes}u + lane] + f32(many) * distance_r * distance_r;`,
      "}",
      "}",
      `${this.#partial(source.first)} = origin;`,
      `${this.#partial(source.first + 1)} = centre;`,
      `${this.#partial(source.first + 2)} = spread;`,
      "}",
      "workgroupBarrier();",
      "}",
    ];
  }

  #partial(number: number): string {
    const at = partialAt(this.#context, number, "n", "group.x", "channel");
    return `${this.#shader.buffer("partials", "read_write")}[${at}]`;
  }
}
