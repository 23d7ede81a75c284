/**
 * The inverse of the normal distribution function by + - * / and square root alone, which IEEE 754 rounds the same
 * on every machine; `Math.log` and `Math.cos` may differ in the last bit from one engine to the next.
 */

/** ln 2 as a double. */
const LN2 = 0.6931471805599453;

/** Natural logarithm of an integer 1 <= k < 2^32, to about 1e-15, by the series of artanh on [1/sqrt 2, sqrt 2]. */
function logOfInteger(k: number): number {
  let exponent = 31 - Math.clz32(k);
  let mantissa = k / ((1 << exponent) >>> 0);
  if (mantissa > Math.SQRT2) {
    mantissa *= 0.5;
    exponent++;
  }
  const s = (mantissa - 1) / (mantissa + 1);
  const q = s * s;
  const series =
    (((((((((q / 21 + 1 / 19) * q + 1 / 17) * q + 1 / 15) * q + 1 / 13) * q + 1 / 11) * q + 1 / 9) * q +
                1 / 7) * q + 1 / 5) * q + 1 / 3) * q + 1;
  return exponent * LN2 + 2 * s * series;
}

/**
 * The standard normal quantile at (word + 1/2) / 2^32, for an integer 0 <= word < 2^32: within +-6.34.
 * Algorithm AS 241, PPND16 (Wichura 1988), relative error below 3e-15 here.
 */
export function normalQuantile(word: number): number {
  const q = (word - 2147483647.5) * 2 ** -32; // exact, and odd about the median
  if (Math.abs(q) <= 0.425) return q * central(0.180625 - q * q);
  // The distance to the nearer end in units of 2^-33: an odd integer below 2^32, so exact.
  const k = 2 * (q < 0 ? word : 4294967295 - word) + 1;
  const r = Math.sqrt(33 * LN2 - logOfInteger(k)); // at most 4.79: AS 241's third range, from 5, is out of reach
  return q < 0 ? -outer(r - 1.6) : outer(r - 1.6);
}

function central(r: number): number {
  return (((((((2509.0809287301226727 * r + 33430.575583588128105) * r + 67265.770927008700853) * r +
                    45921.953931549871457) * r + 13731.693765509461125) * r + 1971.5909503065514427) * r +
        133.14166789178437745) * r + 3.387132872796366608) /
    (((((((5226.495278852854561 * r + 28729.085735721942674) * r + 39307.89580009271061) * r +
                      21213.794301586595867) * r + 5394.1960214247511077) * r + 687.1870074920579083) * r +
          42.313330701600911252) * r + 1);
}

function outer(r: number): number {
  return (((((((7.7454501427834140764e-4 * r + 0.0227238449892691845833) * r + 0.24178072517745061177) * r +
                    1.27045825245236838258) * r + 3.64784832476320460504) * r + 5.7694972214606914055) * r +
        4.6303378461565452959) * r + 1.42343711074968357734) /
    (((((((1.05075007164441684324e-9 * r + 5.475938084995344946e-4) * r + 0.0151986665636164571966) * r +
                      0.14810397642748007459) * r + 0.68976733498510000455) * r + 1.6763848301838038494) * r +
          2.05319162663775882187) * r + 1);
}
