/** Sums of scaled tensors in as few operations as possible. Room-private. */
import type { Terms } from "./_derived_terms.ts";
import { isFull } from "./_derived_values.ts";

/**
 * A full value that is a sum, rebuilt: rows that scale the same tensor are added first, also where it is the same tensor around two
 * centres, (x - a) p + (x - b) q = (x - a) (p + q) + (a - b) q; tensors under the same row are added before they are scaled; the rest
 * is one operation. Sums that other values read too, by `uses`, stay as they are.
 */
export function combined(terms: Terms, index: number, uses: readonly number[]): number {
  const { values } = terms;
  /** The row of each tensor of the sum, in order of first appearance. */
  const scales = new Map<number, number>();
  /** The tensors x - a of the sum, by x. */
  const centred = new Map<number, number>();
  let rows = values.constant(0);
  const addRow = (row: number): void => void (rows = values.make("Add", rows, row));

  const collect = (at: number, scale: number, root: boolean): void => {
    const { op, inputs } = values.at(at);
    const [a, b] = inputs as [number, number];
    const full = (input: number) => isFull(values.at(input));
    if (!full(at)) addRow(values.make("Mul", scale, at));
    else if (root || uses[at] === 1) {
      if (op === "Add" || (op === "Sub" && full(a) === full(b))) {
        collect(a, scale, false);
        collect(b, op === "Add" ? scale : values.make("Neg", scale), false);
      } else if (op === "Mul" && full(a) !== full(b)) {
        const [tensor, row] = full(a) ? [a, b] : [b, a];
        place(tensor, values.make("Mul", scale, row));
      } else place(at, scale);
    } else place(at, scale);
  };
  const place = (tensor: number, scale: number): void => {
    const { op, inputs: [x, centre] } = values.at(tensor);
    let core = tensor;
    if (op === "Sub" && isFull(values.at(x!)) && !isFull(values.at(centre!))) {
      core = centred.get(x!) ?? tensor;
      centred.set(x!, core);
      if (core !== tensor) {
        addRow(values.make("Mul", scale, values.make("Sub", values.at(core).inputs[1]!, centre!)));
      }
    }
    const sofar = scales.get(core);
    scales.set(core, sofar === undefined ? scale : values.make("Add", sofar, scale));
  };

  collect(index, values.constant(1), true);
  const byRow = Map.groupBy(scales.keys(), (tensor) => scales.get(tensor)!);
  const scaled = [...byRow].map(([row, tensors]) => values.make("Mul", values.sum(tensors), row));
  return scaled.length === 0 ? index : values.make("Add", values.sum(scaled), rows);
}
