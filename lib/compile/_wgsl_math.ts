/** The element-wise operations of a program as WGSL expressions of one number. */
import type { Elementwise } from "./value.ts";

/**
 * WGSL compilers may assume that there is no NaN and no infinity, and fold x != x, or turn a comparison and a choice
 * into a maximum that drops a NaN. So wherever a NaN must live on, the bits of the number are compared instead; and
 * exp, log and tanh are written out, since built-in ones may be coarse or overflow. Polynomials: Cephes (Moshier:
 * expf, logf, tanhf; relative errors of about 1e-7). By name; each may use those before it.
 */
const functions: Readonly<Record<string, string>> = {
  magnitude_bits: `fn magnitude_bits(a: f32) -> u32 { return bitcast<u32>(a) & 0x7fffffffu; }`,
  is_nan: `fn is_nan(a: f32) -> bool { return magnitude_bits(a) > 0x7f800000u; }`,
  // Not a constant: constant expressions must be finite.
  infinity: `var<private> infinity_bits: u32 = 0x7f800000u;
fn infinity() -> f32 { return bitcast<f32>(infinity_bits); }`,
  // 0 times a number, and a number less itself, which a compiler makes 0 whatever the number.
  zero_if_finite: `fn zero_if_finite(a: f32) -> f32 {
  let not_a_number = bitcast<f32>(bitcast<u32>(a) | 0x00400000u);
  return select(0f, not_a_number, magnitude_bits(a) >= 0x7f800000u);
}`,
  not_negative: `fn not_negative(a: f32) -> f32 { return select(a, 0f, a <= 0f && !is_nan(a)); }`,
  maximum: `fn maximum(a: f32, b: f32) -> f32 {
  return select(select(a, b, a < b), a + b, is_nan(a) || is_nan(b));
}`,
  denominator: `fn denominator(b: f32, least: f32) -> f32 {
  let sign = select(0u, 0x80000000u, b < 0f);
  return bitcast<f32>(max(magnitude_bits(b), bitcast<u32>(least)) | sign);
}`,
  with_sign: `fn with_sign(a: f32, magnitude: f32) -> f32 {
  let signed = bitcast<f32>(bitcast<u32>(magnitude) ^ (bitcast<u32>(a) & 0x80000000u));
  return select(select(signed, 0f, a == 0f), a, is_nan(a));
}`,
  unless_zero:
    `fn unless_zero(a: f32, value: f32) -> f32 { return select(value, 0f, magnitude_bits(a) == 0u); }`,
  pass_through: `fn pass_through(d: f32, a: f32, b: f32) -> f32 {
  let shared_out = select(select(d, 0.5f * d, a == b), 0f, a < b);
  return select(shared_out, d, is_nan(a) || is_nan(b));
}`,
  gate: `fn gate(d: f32, b: f32, least: f32) -> f32 {
  return select(0f, d, magnitude_bits(b) >= bitcast<u32>(least) && !is_nan(b));
}`,
  pass_above: `fn pass_above(d: f32, a: f32) -> f32 { return select(d, 0f, a <= 0f && !is_nan(a)); }`,
  // e^x, clamped to the normal numbers: x = n ln 2 + r; ln 2 in two parts, so that n times the first is exact.
  exponential: `fn exponential(a: f32) -> f32 {
  let x = clamp(a, -87.33654f, 88.72283f);
  let n = round(x * 1.44269504088896341f);
  let r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  var p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  let power = (p * r) * r + r + 1f;
  return select(bitcast<f32>(bitcast<i32>(power) + (i32(n) << 23u)), a, is_nan(a));
}`,
  exponential_unclamped: `fn exponential_unclamped(a: f32) -> f32 {
  let bounded = select(exponential(a), infinity(), a > 88.72283f && !is_nan(a));
  return select(bounded, 0f, a < -103.97f && !is_nan(a));
}`,
  // ln of normal positive numbers, x = m 2^e with m in [sqrt(1/2), sqrt(2)); infinity and NaN are themselves.
  logarithm: `fn logarithm(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let half = bitcast<f32>((bits & 0x007fffffu) | 0x3f000000u);
  let low = half < 0.707106781186547524f;
  let e = f32(i32(bits >> 23u) - 126 - select(0, 1, low));
  let m = select(half, half + half, low) - 1f;
  var p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  let square = m * m;
  let tail = p * m * square - e * 2.12194440e-4f - 0.5f * square;
  return select(e * 0.693359375f + (m + tail), x, bits >= 0x7f800000u);
}`,
  // Near 0 a series keeps relative accuracy; elsewhere 1 - 2 / (e^(2|a|) + 1).
  hyperbolic_tangent: `fn hyperbolic_tangent(a: f32) -> f32 {
  let square = a * a;
  var p = -5.70498872745e-3f;
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  let far = 1f - 2f / (exponential(2f * abs(a)) + 1f);
  let outer = bitcast<f32>(bitcast<u32>(far) | (bitcast<u32>(a) & 0x80000000u));
  return select(p * square * a + a, outer, abs(a) > 0.625f);
}`,
};

const zero = literal(0);

/** Collects the functions that some code calls. */
export class WgslMath {
  readonly #epsilon: string;
  readonly #used = new Set<string>();

  constructor(epsilon: number) {
    this.#epsilon = literal(epsilon);
  }

  /** The functions called so far, each after those that it calls. */
  text(): string {
    const wanted = new Set(this.#used);
    const names = Object.keys(functions);
    for (const name of names.toReversed()) {
      if (!wanted.has(name)) continue;
      for (const other of names) if (functions[name]!.includes(`${other}(`)) wanted.add(other);
    }
    return names.filter((name) => wanted.has(name)).map((name) => functions[name]!).join("\n");
  }

  /** A call of one of the functions. */
  call(name: string, ...inputs: string[]): string {
    this.#used.add(name);
    return `${name}(${inputs.join(", ")})`;
  }

  /** An operation on expressions that are names or calls. */
  apply(op: Elementwise, [a, b, c]: readonly string[] & { 0: string }): string {
    const epsilon = this.#epsilon;
    switch (op) {
      case "Add":
        return `${a} + ${b}`;
      case "Sub":
        return a === b ? this.call("zero_if_finite", a) : `${a} - ${b}`;
      case "Mul":
        if (a === zero) return this.call("zero_if_finite", b!);
        return b === zero ? this.call("zero_if_finite", a) : `${a} * ${b}`;
      case "Reciprocal":
        return `1f / ${a}`;
      case "Invert":
        return `1f / ${this.call("denominator", a, epsilon)}`;
      case "Max":
        return this.call("maximum", a, b!);
      case "Neg":
        return `-${a}`;
      case "Sigmoid":
        return `1f / (1f + ${this.call("exponential", `-${a}`)})`;
      case "Tanh":
        return this.call("hyperbolic_tangent", a);
      case "Exp":
        return this.call("exponential_unclamped", a);
      case "Log":
        return this.call("with_sign", a, this.call("logarithm", `abs(${a}) + ${epsilon}`));
      case "Abs":
        return `abs(${a})`;
      case "Square":
        return `${a} * ${a}`;
      case "Sqrt":
        return this.call("with_sign", a, `sqrt(abs(${a}) + ${epsilon})`);
      case "Root":
        return `sqrt(${a} + ${epsilon})`;
      case "Sign":
        return this.call("with_sign", a, "1f");
      case "LogSlope":
        return this.call("unless_zero", a, `1f / (abs(${a}) + ${epsilon})`);
      case "SqrtSlope":
        return this.call("unless_zero", a, `0.5f / sqrt(abs(${a}) + ${epsilon})`);
      case "Pass":
        return this.call("pass_through", a, b!, c!);
      case "Gate":
        return this.call("gate", a, b!, epsilon);
      case "Relu":
        return this.call("not_negative", a);
      case "PassAbove":
        return this.call("pass_above", a, b!);
    }
  }
}

/** A finite number as a WGSL expression. */
export function literal(value: number): string {
  const text = `${Math.abs(Math.fround(value))}f`;
  return value < 0 || Object.is(value, -0) ? `(-${text})` : text;
}
