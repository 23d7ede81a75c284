/** The element-wise operations of a program on vectors of four numbers. */
import {
  type Code,
  f32x4,
  type FunctionBuilder,
  i32x4,
  type Local,
  type Operand,
  sequence,
  set,
  v128,
} from "../wasm/mod.ts";
import type { Elementwise } from "./value.ts";

/** How code for vectors is written. */
export interface VectorSettings {
  /** Added inside roots; keeps denominators and logarithms off zero. */
  readonly epsilon: number;
  /** Multiply and add in one instruction. */
  readonly relaxed: boolean;
}

// exp: x = n ln 2 + r; ln 2 in two parts, the first with so few bits that n times it is exact. The polynomial
// of exp is a minimax fit on |r| <= ln 2 / 2 (relative error 3e-9); those of log and tanh are from Cephes (Moshier: logf,
// tanhf; about 1e-7).
const LOG2E = 1.44269504088896341, LN2_HIGH = 0.693359375, LN2_LOW = -2.12194440e-4;
const MAGIC = 1.5 * 2 ** 23;
const EXP = [0.001381453988, 0.0083687451272, 0.04166839079, 0.16666520399, 0.49999993432, 1, 1];
const EXP_MOST = 88.72283, EXP_LEAST = -87.33654, EXP_ZERO = -103.97;
const LOG = [
  7.0376836292e-2,
  -1.1514610310e-1,
  1.1676998740e-1,
  -1.2420140846e-1,
  1.4249322787e-1,
  -1.6668057665e-1,
  2.0000714765e-1,
  -2.4999993993e-1,
  3.3333331174e-1,
];
const SQRT_HALF = 0.707106781186547524;
const TANH = [-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1];
const TANH_SMALL = 0.625;

/** Writes element-wise operations; temporaries become variables of the function. */
export class VectorMath {
  readonly #function: FunctionBuilder;
  readonly #settings: VectorSettings;
  readonly #constants = new Map<string, Local>();

  constructor(built: FunctionBuilder, settings: VectorSettings) {
    this.#function = built;
    this.#settings = settings;
  }

  /** Sets the constants that were used: to be placed before the code that uses them. Constants inside of loops are slow. */
  prologue(): Code {
    const constants = [...this.#constants];
    return (out) => {
      for (const [key, local] of constants) {
        const [kind, value] = key.split(" ") as [string, string];
        set(local, kind === "i" ? i32x4.const(Number(value)) : f32x4.const(Number(value)))(out);
      }
    };
  }

  /** A number in all lanes. */
  constant(value: number): Local {
    return this.#constant(`f ${Object.is(value, -0) ? "-0" : value}`);
  }

  /** a * b + c. */
  multiplyAdd(a: Operand, b: Operand, c: Operand): Code {
    return this.#settings.relaxed ? f32x4.relaxedMadd(a, b, c) : f32x4.add(f32x4.mul(a, b), c);
  }

  /** c - a * b. */
  multiplySubtract(a: Operand, b: Operand, c: Operand): Code {
    return this.#settings.relaxed ? f32x4.relaxedNmadd(a, b, c) : f32x4.sub(c, f32x4.mul(a, b));
  }

  /** An operation on variables. */
  apply(op: Elementwise, inputs: readonly Local[]): Code {
    const [a, b, c] = inputs as [Local, Local, Local];
    switch (op) {
      case "Add":
        return f32x4.add(a, b);
      case "Sub":
        return f32x4.sub(a, b);
      case "Mul":
        return f32x4.mul(a, b);
      case "Reciprocal":
        return f32x4.div(this.constant(1), a);
      case "Invert":
        return f32x4.div(this.constant(1), this.#denominator(a));
      case "Max":
        // pmax keeps a NaN of a only; the comparison turns one of b into all ones, which is a NaN.
        return v128.or(f32x4.pmax(a, b), f32x4.ne(b, b));
      case "Neg":
        return f32x4.neg(a);
      case "Sigmoid":
        return f32x4.div(this.constant(1), f32x4.add(this.constant(1), this.#exp(a, -1)));
      case "Tanh":
        return this.#tanh(a);
      case "Exp": {
        const overflow = v128.select(
          this.constant(Infinity),
          this.#exp(a),
          f32x4.gt(a, this.constant(EXP_MOST)),
        );
        return v128.andNot(overflow, f32x4.lt(a, this.constant(EXP_ZERO)));
      }
      case "Log":
        return this.#withSign(a, this.#log(f32x4.add(f32x4.abs(a), this.constant(this.#settings.epsilon))));
      case "Abs":
        return f32x4.abs(a);
      case "Square":
        return f32x4.mul(a, a);
      case "Sqrt":
        return this.#withSign(a, f32x4.sqrt(f32x4.add(f32x4.abs(a), this.constant(this.#settings.epsilon))));
      case "Root":
        return f32x4.sqrt(f32x4.add(a, this.constant(this.#settings.epsilon)));
      case "Sign":
        return this.#withSign(a, this.constant(1));
      case "LogSlope":
        return this.#unlessZero(
          a,
          f32x4.div(this.constant(1), f32x4.add(f32x4.abs(a), this.constant(this.#settings.epsilon))),
        );
      case "SqrtSlope":
        return this.#unlessZero(
          a,
          f32x4.div(
            this.constant(0.5),
            f32x4.sqrt(f32x4.add(f32x4.abs(a), this.constant(this.#settings.epsilon))),
          ),
        );
      case "Pass": { // a where b > c, a - a / 2 at a tie, 0 below; a where either is NaN
        const passed = this.#temporary();
        const tied = v128.and(passed, f32x4.eq(b, c));
        return sequence(
          set(passed, v128.andNot(a, f32x4.lt(b, c))),
          this.multiplySubtract(tied, this.constant(0.5), passed),
        );
      }
      case "Gate":
        return v128.and(a, f32x4.ge(f32x4.abs(b), this.constant(this.#settings.epsilon)));
      case "Relu":
        return f32x4.pmax(a, this.constant(0));
      case "PassAbove":
        return v128.andNot(a, f32x4.le(b, this.constant(0)));
    }
  }

  #constant(key: string): Local {
    let local = this.#constants.get(key);
    if (local === undefined) {
      local = this.#function.local("v128");
      this.#constants.set(key, local);
    }
    return local;
  }

  #integer(value: number): Local {
    return this.#constant(`i ${value}`);
  }

  #temporary(): Local {
    return this.#function.local("v128");
  }

  /** s1(b) * max(|b|, epsilon), NaN where b is. */
  #denominator(b: Local): Code {
    const magnitude = f32x4.pmax(f32x4.abs(b), this.constant(this.#settings.epsilon));
    // -0 counts as positive, so its sign bit is of no use.
    const sign = v128.and(f32x4.lt(b, this.constant(0)), this.#integer(-(2 ** 31)));
    return v128.or(magnitude, sign);
  }

  /** A value times the sign of a, 0 where a is 0. */
  #withSign(a: Local, magnitude: Operand): Code {
    const signed = v128.xor(magnitude, v128.and(a, this.#integer(-(2 ** 31))));
    // NaN is not equal to 0, so a NaN magnitude stays; a NaN a must be one of the result too.
    return v128.or(this.#unlessZero(a, signed), f32x4.ne(a, a));
  }

  #unlessZero(a: Local, value: Operand): Code {
    return v128.andNot(value, f32x4.eq(a, this.constant(0)));
  }

  #polynomial(x: Local, coefficients: readonly number[]): Code {
    const [first, ...rest] = coefficients as [number, ...number[]];
    return rest.reduce<Operand>(
      (sum, term) => this.multiplyAdd(sum, x, this.constant(term)),
      this.constant(first),
    ) as Code;
  }

  /** e^x, or e^-x for sign -1, clamped to the normal numbers. */
  #exp(argument: Operand, sign: 1 | -1 = 1): Code {
    const x = this.#temporary(), shifted = this.#temporary(), r = this.#temporary();
    const [least, most] = sign === 1 ? [EXP_LEAST, EXP_MOST] : [-EXP_MOST, -EXP_LEAST];
    const clamped = f32x4.pmin(f32x4.pmax(argument, this.constant(least)), this.constant(most));
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
    const n = f32x4.sub(shifted, this.constant(MAGIC));
    const steps: Code[] = [
      set(x, clamped),
      set(shifted, this.multiplyAdd(x, this.constant(sign * LOG2E), this.constant(MAGIC))),
      set(r, this.multiplySubtract(n, this.constant(sign * LN2_HIGH), x)),
      set(r, this.multiplySubtract(n, this.constant(sign * LN2_LOW), r)),
    ];
    const power = this.#polynomial(
      r,
      EXP.map((term, at) => sign === -1 && (EXP.length - 1 - at) % 2 ? -term : term),
    );
    return sequence(...steps, i32x4.add(power, i32x4.shl(shifted, 23)));
  }

  /** ln x of normal positive numbers; infinity and NaN are themselves. */
  #log(argument: Operand): Code {
    const x = this.#temporary(), exponent = this.#temporary(), m = this.#temporary(), low = this.#temporary();
    const square = this.#temporary();
    // x = m 2^e with m in [sqrt(1/2), sqrt(2)): logarithm of 1 + (m - 1).
    const steps: Code[] = [
      set(x, argument),
      set(
        exponent,
        f32x4.fromI32x4(i32x4.sub(i32x4.shrU(x, 23), this.#integer(126))),
      ),
      set(m, v128.or(v128.and(x, this.#integer(0x007fffff)), this.#integer(0x3f000000))),
      set(low, f32x4.lt(m, this.constant(SQRT_HALF))),
      set(exponent, f32x4.sub(exponent, v128.and(low, this.constant(1)))),
      set(m, f32x4.sub(f32x4.add(m, v128.and(low, m)), this.constant(1))),
      set(square, f32x4.mul(m, m)),
    ];
    const tail = this.multiplyAdd(
      exponent,
      this.constant(LN2_LOW),
      f32x4.mul(f32x4.mul(this.#polynomial(m, LOG), m), square),
    );
    const logarithm = this.multiplyAdd(
      exponent,
      this.constant(LN2_HIGH),
      f32x4.add(m, this.multiplySubtract(this.constant(0.5), square, tail)),
    );
    // Infinity and NaN are not below infinity.
    const result = v128.select(logarithm, x, f32x4.lt(x, this.constant(Infinity)));
    return sequence(...steps, result);
  }

  #tanh(a: Local): Code {
    const square = this.#temporary(), magnitude = this.#temporary();
    // Near 0 a series keeps relative accuracy; elsewhere 1 - 2 / (e^(2|a|) + 1).
    const near = this.multiplyAdd(f32x4.mul(this.#polynomial(square, TANH), square), a, a);
    const power = this.#exp(f32x4.add(magnitude, magnitude));
    const far = f32x4.sub(
      this.constant(1),
      f32x4.div(this.constant(2), f32x4.add(power, this.constant(1))),
    );
    const signed = v128.or(far, v128.and(a, this.#integer(-(2 ** 31))));
    return sequence(
      set(square, f32x4.mul(a, a)),
      set(magnitude, f32x4.abs(a)),
      v128.select(signed, near, f32x4.gt(magnitude, this.constant(TANH_SMALL))),
    );
  }
}
