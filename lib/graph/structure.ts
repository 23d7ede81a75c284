import { initialNodes, type LayerGraph } from "./types.ts";

/** Indices of the nodes on a path to the output, initial nodes included, in ascending order. */
export function active(graph: LayerGraph): number[] {
  const first = initialNodes.length;
  const size = first + graph.nodes.length;
  const reached = new Uint8Array(size);
  reached[size - 1] = 1;
  // Pointers go backwards, so one sweep from the output sees every user of a node before the node itself.
  for (let index = size - 1; index >= first; index--) {
    if (reached[index]) { for (const input of graph.nodes[index - first]!.inputs) reached[input] = 1; }
  }
  const indices: number[] = [];
  for (let index = 0; index < size; index++) if (reached[index]) indices.push(index);
  return indices;
}

/** Whether the input x reaches the output. A layer without it is a constant. */
export function usesX(graph: LayerGraph): boolean {
  return active(graph)[0] === 0;
}

/**
 * Whether no active node is a moment over the batch, (b,w,h): then a sample's output does not depend on its
 * neighbours and the layer needs no moving statistics. Dead nodes do not count.
 */
export function batchIndependent(graph: LayerGraph): boolean {
  return batchMoments(graph).length === 0;
}

/** Indices of the active (b,w,h) nodes: those that keep one moving statistic [C] each. */
export function batchMoments(graph: LayerGraph): number[] {
  const first = initialNodes.length;
  return active(graph).filter((index) => index >= first && graph.nodes[index - first]!.axes === "bwh");
}
