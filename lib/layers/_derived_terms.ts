/**
 * Arithmetic on terms: a full tensor times a row. Factors that are constant over pixels wait in the row, so they are combined with each
 * other first, pass through moments for free, and meet the full tensor once. Room-private.
 */
import type { Aggregation, IndexSet } from "../graph/mod.ts";
import { isFull, type Op, type Values } from "./_derived_values.ts";

/** row * full, or the row alone; both are indices of values. */
export interface Term {
  readonly row: number;
  readonly full: number | null;
}

/** The operations of extended graphs on terms; `epsilon` is the layer's. */
export class Terms {
  readonly values: Values;
  readonly #epsilon: number;
  readonly #one: number;

  constructor(values: Values, epsilon: number) {
    this.values = values;
    this.#epsilon = epsilon;
    this.#one = values.constant(1);
  }

  /** A value as a term. */
  of(index: number): Term {
    return isFull(this.values.at(index)) ? { row: this.#one, full: index } : { row: index, full: null };
  }

  constant(value: number): Term {
    return this.of(this.values.constant(value));
  }

  /** A term as one value. */
  value({ row, full }: Term): number {
    return full === null ? row : this.values.make("Mul", this.#finished(full), row);
  }

  /** A term as one full value. */
  image(term: Term): number {
    const value = this.value(term);
    return isFull(this.values.at(value)) ? value : this.values.make("Repeat", value);
  }

  /** Any element-wise operation of one argument without a rule of its own. */
  apply(op: Op, a: Term): Term {
    return this.of(this.values.make(op, this.value(a)));
  }

  multiply(a: Term, b: Term): Term {
    const row = this.values.make("Mul", a.row, b.row);
    if (a.full === null || b.full === null) return { row, full: a.full ?? b.full };
    return { row, full: this.#product(a.full, b.full) };
  }

  negate({ row, full }: Term): Term {
    return { row: this.values.make("Neg", row), full };
  }

  square({ row, full }: Term): Term {
    return {
      row: this.values.make("Square", row),
      full: full === null ? null : this.values.make("Square", this.#finished(full)),
    };
  }

  absolute({ row, full }: Term): Term {
    return {
      row: this.#magnitude(row),
      full: full === null ? null : this.values.make("Abs", this.#finished(full)),
    };
  }

  add(a: Term, b: Term): Term {
    const { values } = this;
    if (a.full !== null && b.full !== null) {
      const [p, q] = [this.#finished(a.full), this.#finished(b.full)];
      if (a.row === b.row) return { row: a.row, full: values.make("Add", p, q) };
      if (values.make("Neg", a.row) === b.row) return { row: a.row, full: values.make("Sub", p, q) };
    }
    return this.of(values.make("Add", this.value(a), this.value(b)));
  }

  max(a: Term, b: Term): Term {
    return this.of(this.values.make("Max", this.value(a), this.value(b)));
  }

  /** a / (s1(b) max(|b|, epsilon)); the clamp is left out where b is a root or a maximum with one. */
  divide(a: Term, b: Term): Term {
    const { values } = this;
    const raw = this.value(b);
    const denominator = this.#aboveClamp(raw) ? raw : values.make("Clamped", raw);
    if (b.full === null) {
      return { row: values.make("Mul", a.row, values.make("Div", this.#one, denominator)), full: a.full };
    }
    const full = a.full === null
      ? values.make("Div", this.#one, denominator)
      : values.make("Div", this.#finished(a.full), denominator);
    return { row: a.row, full };
  }

  /** sgn(a) f(|a| + epsilon) for Log and Sqrt. */
  safe(op: "Log" | "Sqrt", a: Term): Term {
    const value = this.value(a);
    return this.multiply(
      this.of(this.values.make("Sign", value)),
      this.of(this.values.make(op, this.#shifted(value))),
    );
  }

  /** The slope of Log, 1 / (|a| + epsilon), or of Sqrt, 1 / (2 sqrt(|a| + epsilon)); 0 at 0. */
  slope(op: "Log" | "Sqrt", a: Term): Term {
    const { values } = this;
    const value = this.value(a);
    const nonzero = values.make("Abs", values.make("Sign", value));
    const shifted = this.#shifted(value);
    const inverse = this.of(
      values.make("Div", this.#one, op === "Log" ? shifted : values.make("Sqrt", shifted)),
    );
    const slope = this.multiply(this.of(nonzero), inverse);
    return op === "Log" ? slope : this.multiply(this.constant(0.5), slope);
  }

  /** The share of Max(a, b)'s gradient d that a gets: d (1 + sgn(a - b)) / 2; b's is the same with the other sign. */
  pass(d: Term, a: Term, b: Term, sign: 1 | -1): Term {
    const difference = this.add(a, this.negate(b));
    const sided = this.multiply(d, this.of(this.values.make("Sign", this.value(difference))));
    return this.multiply(this.constant(0.5), this.add(d, sign === 1 ? sided : this.negate(sided)));
  }

  /** d where |b| >= epsilon, else 0. */
  gate(d: Term, b: Term): Term {
    return this.multiply(d, this.of(this.values.make("Unclamped", this.value(b))));
  }

  /** A moment over an index set before any root: a row. */
  moment(op: Aggregation, a: Term, axes: IndexSet): number {
    const { values } = this;
    if (op === "rms") return this.moment("mean", this.square(a), axes);
    const full = a.full === null ? null : this.#finished(a.full);
    const overPixels = full === null ? a.row : values.make("Mul", a.row, values.pixelMean(full));
    const mean = values.rowMean(overPixels, axes);
    if (op === "mean") return mean;
    // Within the pixels of a channel, and of the channels' means around the common one: no difference of large sums.
    const within = full === null
      ? values.constant(0)
      : values.make("Mul", values.make("Square", a.row), values.pixelVariance(full));
    if (full !== null && mean === overPixels) return within;
    const between = values.make("Square", values.make("Sub", overPixels, mean));
    return values.rowMean(values.make("Add", within, between), axes);
  }

  /** sqrt(moment + epsilon). */
  root(moment: number): number {
    return this.values.make("Root", this.values.make("Add", moment, this.values.constant(this.#epsilon)));
  }

  /** The sum over batch and pixels, `count` in number: a row without batch. */
  sum(a: Term, count: number): number {
    return this.values.make("Mul", this.values.constant(count), this.moment("mean", a, "bwh"));
  }

  /** A full value that is more than a factor in waiting. */
  #finished(full: number): number {
    const { op, inputs } = this.values.at(full);
    const [a] = inputs;
    if (op === "SigmoidSlope") return this.values.make("Sub", a!, this.values.make("Square", a!));
    if (op === "TanhSlope") return this.values.make("Sub", this.#one, this.values.make("Square", a!));
    return full;
  }

  #product(p: number, q: number): number {
    for (const [slope, other] of [[p, q], [q, p]] as const) {
      const { op, inputs } = this.values.at(slope);
      if (op === "SigmoidSlope") return this.values.make("SigmoidGrad", inputs[0]!, this.#finished(other));
      if (op === "TanhSlope") return this.values.make("TanhGrad", inputs[0]!, this.#finished(other));
    }
    return this.values.make("Mul", p, q);
  }

  #magnitude(row: number): number {
    const { op, constant } = this.values.at(row);
    return op === "Constant" ? this.values.constant(Math.abs(constant!)) : this.values.make("Abs", row);
  }

  #shifted(value: number): number {
    return this.values.make("Add", this.values.make("Abs", value), this.values.constant(this.#epsilon));
  }

  #aboveClamp(index: number): boolean {
    const { op, inputs } = this.values.at(index);
    return op === "Root" || (op === "Max" && inputs.some((input) => this.values.at(input).op === "Root"));
  }
}
