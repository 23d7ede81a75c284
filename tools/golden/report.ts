/** What a comparison with reference values found. */

/** One tensor compared: how far, as a share of the largest reference magnitude, and where. */
export interface Comparison {
  /** "layers/mid/EvoNorm-S0/dx". */
  readonly name: string;
  /** max |measured - reference| / max |reference|. */
  readonly error: number;
  readonly tolerance: number;
  /** Index of the worst element. */
  readonly worst: readonly number[];
  readonly passed: boolean;
}

/** How layers are evaluated. */
export interface Evaluation {
  /** As fused kernels where the backend has them, or operation by operation. */
  readonly evaluation: "compiled" | "interpreted";
  /** Compare with the interpreter's values too, within the same tolerances. */
  readonly toInterpreter?: boolean;
}

/** The result of one group of reference values, on one backend where it computes tensors. */
export interface GroupReport {
  readonly group: string;
  /** Null where no backend is needed. */
  readonly backend: string | null;
  readonly evaluation: Evaluation["evaluation"] | null;
  readonly comparisons: readonly Comparison[];
  /** What was not compared, and why. */
  readonly skipped: readonly string[];
}

/**
 * Compares a tensor with its reference. Errors are relative to `scale`, by default the largest reference magnitude; a value that is
 * finite on one side only never passes.
 */
export function compare(
  name: string,
  measured: ArrayLike<number>,
  reference: ArrayLike<number>,
  shape: readonly number[],
  tolerance: number,
  scale: number = largest(reference),
): Comparison {
  if (measured.length !== reference.length) {
    throw new TypeError(
      `Cannot compare '${name}' as both sides must have ${reference.length} elements: current size is ${measured.length}`,
    );
  }
  let error = 0;
  let worst = 0;
  for (let i = 0; i < reference.length; i++) {
    const [a, b] = [measured[i]!, reference[i]!];
    const distance = Object.is(a, b) || a === b ? 0 : Math.abs(a - b);
    const relative = Number.isFinite(distance) ? distance / (scale || 1) : Infinity;
    if (relative > error) [error, worst] = [relative, i];
  }
  return { name, error, tolerance, worst: unravel(worst, shape), passed: error <= tolerance };
}

/** The largest finite magnitude. */
export function largest(values: ArrayLike<number>): number {
  let magnitude = 0;
  for (let i = 0; i < values.length; i++) {
    const size = Math.abs(values[i]!);
    if (Number.isFinite(size)) magnitude = Math.max(magnitude, size);
  }
  return magnitude;
}

function unravel(index: number, shape: readonly number[]): number[] {
  const position: number[] = [];
  for (const size of shape.toReversed()) {
    position.unshift(index % size);
    index = Math.floor(index / size);
  }
  return position;
}

/** A table of a group's worst errors by tensor kind (the last part of the name), and every miss in full. */
export function render({ group, backend, evaluation, comparisons, skipped }: GroupReport): string {
  const kinds = Map.groupBy(comparisons, ({ name }) => name.slice(name.lastIndexOf("/") + 1));
  const where = backend === null ? "" : ` on ${backend}, ${evaluation}`;
  const lines = [`${group}${where}: ${comparisons.length} tensors compared`];
  for (const [kind, members] of kinds) {
    const worst = members.reduce((a, b) => b.error / b.tolerance > a.error / a.tolerance ? b : a);
    lines.push(
      `  ${kind.padEnd(18)} ${String(members.length).padStart(4)} tensors, worst error ${
        worst.error.toExponential(1)
      }` +
        ` of ${worst.tolerance.toExponential(1)} allowed, in ${worst.name} at [${worst.worst}]`,
    );
  }
  for (const { name, error, tolerance, worst, passed } of comparisons) {
    if (!passed) {
      lines.push(
        `  MISS ${name}: error ${error.toExponential(2)} > ${tolerance.toExponential(2)} at [${worst}]`,
      );
    }
  }
  for (const reason of skipped) lines.push(`  skipped: ${reason}`);
  return lines.join("\n");
}
