/** The layers that are timed: six published ones, twenty of the golden random graphs, and fresh random graphs. */
import { readFile } from "node:fs/promises";
import {
  aggregations,
  arity,
  binaryPrimitives,
  canonicalHash,
  type GraphNode,
  indexSets,
  isAggregation,
  type LayerGraph,
  primitives,
  publishedLayer,
  unaryPrimitives,
  usesX,
} from "../lib/graph/mod.ts";
import type { Stream } from "../lib/tensor/mod.ts";

/** One layer to time. */
export interface LayerCase {
  readonly name: string;
  readonly group: "published" | "random";
  readonly nodes: readonly GraphNode[];
  readonly groups: number;
}

/** Activation shapes [n, h, w, c] of the three stages of a CIFAR ResNet with wide maps. */
export const SHAPES: readonly (readonly [number, number, number, number])[] = [
  [32, 32, 32, 64],
  [32, 16, 16, 128],
  [128, 8, 8, 256],
];

/** Channel groups, as in the paper. */
const GROUPS = 32;

/** The six layers of the paper's Table 3. */
export function publishedCases(): LayerCase[] {
  return ["B0", "B1", "B2", "S0", "S1", "S2"].map((name) => ({
    name: `EvoNorm-${name}`,
    group: "published",
    nodes: publishedLayer(`EvoNorm-${name}`).graph.nodes,
    groups: GROUPS,
  }));
}

interface GoldenGraph {
  readonly id: number;
  readonly source: string;
  readonly nodes: readonly GraphNode[];
  readonly generic: Verdict;
  readonly init: Verdict;
}

interface Verdict {
  readonly finite_forward: boolean;
  readonly finite_grad: boolean;
  readonly finite_float32: boolean;
  readonly well_conditioned: boolean;
}

/** The first `count` golden graphs of source `random_filtered` that are finite and well conditioned on both golden input sets. */
export async function randomCases(count = 20): Promise<LayerCase[]> {
  const path = new URL("../tests/golden/evonorm/graphs/graphs.json", import.meta.url);
  const { graphs } = JSON.parse(await readFile(path, "utf8")) as { graphs: GoldenGraph[] };
  const sound = (verdict: Verdict) =>
    verdict.finite_forward && verdict.finite_grad && verdict.finite_float32 && verdict.well_conditioned;
  return graphs
    .filter(({ source, generic, init }) => source === "random_filtered" && sound(generic) && sound(init))
    .slice(0, count)
    .map(({ id, nodes }) => ({ name: `random-${id}`, group: "random", nodes, groups: GROUPS }));
}

/**
 * Distinct random graphs of 10 nodes that use x, in the way of the search space: op uniform over the 15 primitives, axes uniform over
 * the 4 index sets, each input uniform over all earlier nodes.
 */
export function drawGraphs(count: number, draws: Stream): LayerGraph[] {
  const found = new Map<string, LayerGraph>();
  while (found.size < count) {
    const graph = drawGraph(draws);
    if (usesX(graph)) found.set(canonicalHash(graph), graph);
  }
  return [...found.values()];
}

const OPS = [...binaryPrimitives, ...unaryPrimitives, ...aggregations];

function drawGraph(draws: Stream): LayerGraph {
  const pick = (below: number) => draws.integers(1, below)[0]!;
  const nodes: GraphNode[] = [];
  for (let index = 4; index < 14; index++) {
    const op = OPS[pick(primitives.length)]!;
    const axes = indexSets[pick(indexSets.length)]!;
    const inputs = Array.from({ length: arity(op) }, () => pick(index));
    nodes.push(isAggregation(op) ? { op, inputs, axes } : { op, inputs });
  }
  return { nodes };
}
