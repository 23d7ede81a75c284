import { active } from "./structure.ts";
import { initialNodes, type LayerGraph } from "./types.ts";

/**
 * The active graph as a tree for a terminal: the output on top, inputs below it, in order. A node that several others
 * read is drawn once, with its index, and named by it elsewhere.
 *
 * ```ts
 * import { drawText, publishedLayer } from "@normlab/normlab/graph";
 *
 * console.log(drawText(publishedLayer("EvoNorm-S1").graph));
 * // Div
 * // ├─ Mul
 * // │  ├─ x
 * // │  └─ Sigmoid
 * // │     └─ x
 * // └─ std[whc/g]
 * //    └─ x
 * ```
 */
export function drawText(graph: LayerGraph): string {
  const indices = active(graph);
  const users = new Map<number, number>();
  const nodeAt = (index: number) => graph.nodes[index - initialNodes.length];
  for (const index of indices) {
    for (const input of nodeAt(index)?.inputs ?? []) users.set(input, (users.get(input) ?? 0) + 1);
  }
  const lines: string[] = [];
  const drawn = new Set<number>();
  // A stack of our own: hostile graphs may be thousands of nodes deep.
  const waiting = [{ index: indices.at(-1)!, lead: "", below: "" }];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const { index, lead, below } = next;
    const node = nodeAt(index);
    if (node === undefined) {
      lines.push(lead + initialNodes[index]!);
      continue;
    }
    const label = node.op + (node.axes === undefined ? "" : `[${node.axes}]`);
    if (drawn.has(index)) {
      lines.push(`${lead}(${index}: ${label}, above)`);
      continue;
    }
    drawn.add(index);
    lines.push(`${lead}${label}${(users.get(index) ?? 0) > 1 ? `  (${index})` : ""}`);
    const last = node.inputs.length - 1;
    node.inputs.toReversed().forEach((input, k) =>
      waiting.push({
        index: input,
        lead: below + (k === 0 ? "└─ " : "├─ "),
        below: below + (k === 0 || last === 0 ? "   " : "│  "),
      })
    );
  }
  return lines.join("\n");
}
