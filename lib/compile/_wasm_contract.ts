/** Which products become part of a multiply-add. */
import type { Source } from "./_wasm_layout.ts";
import type { Value } from "./value.ts";

/**
 * Products among `computed` values that are used once, by a sum: the sum that each belongs to, or the product itself if
 * the sum is one over pixels. `roots` are the values that a pass accumulates, stores or keeps.
 */
export function absorbedProducts(
  values: readonly Value[],
  computed: readonly number[],
  roots: readonly number[],
  sources: readonly Source[],
): ReadonlyMap<number, number> {
  const uses = new Map<number, number>();
  const count = (index: number) => uses.set(index, (uses.get(index) ?? 0) + 1);
  roots.forEach(count);
  for (const index of computed) values[index]!.inputs.forEach(count);
  const single = (index: number) =>
    computed.includes(index) && values[index]!.op === "Mul" && uses.get(index) === 1 &&
    !roots.includes(index);
  // The difference of two products may have to vanish exactly, so both must be rounded alike.
  const beside = (index: number, other: number) => single(index) && !isProduct(values, other);

  const absorbed = new Map<number, number>();
  for (const index of computed) {
    const { op, inputs: [a, b] } = values[index]!;
    if (op === "Add" && beside(a!, b!)) absorbed.set(a!, index);
    else if ((op === "Add" || op === "Sub") && beside(b!, a!)) absorbed.set(b!, index);
  }
  for (const { operand, sum, square } of sources) {
    if (sum && !square && values[operand]!.op === "Mul" && uses.get(operand) === 1) {
      absorbed.set(operand, operand);
    }
  }
  return absorbed;
}

function isProduct(values: readonly Value[], index: number): boolean {
  const { op, inputs } = values[index]!;
  return op === "Mul" || (op === "Neg" && isProduct(values, inputs[0]!));
}
