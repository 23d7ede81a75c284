import type { GraphNode, IndexSet, LayerGraph } from "./types.ts";

/** A layer from the literature as a graph: `y = post(gamma * z + beta)` with `z = graph(x)`. */
export interface PublishedLayer {
  /** Its key in {@link published}. */
  readonly name: string;
  /** What comes before the affine. */
  readonly graph: LayerGraph;
  /**
   * A second graph, applied after the affine: x stands for `gamma * z + beta` and v0 for a trained per-channel
   * threshold tau, where there is one. Its Max shares the gradient of a tie, half and half, as in every graph,
   * whereas the ReLU of deep-learning libraries has gradient 0 at 0: the two differ on that one point.
   */
  readonly post?: LayerGraph;
  /** The epsilon the layer was published with, where it is not the 1e-5 of the rest. */
  readonly epsilon?: number;
  /** Where the layer comes from. */
  readonly source: string;
}

const [x, zero, v0, v1] = [0, 1, 2, 3];

/** A graph from its nodes; indices start at 4. */
function graph(...nodes: GraphNode[]): LayerGraph {
  return { nodes };
}

/** (x - mean) / std over one index set. */
function standardise(axes: IndexSet): LayerGraph {
  return graph(
    { op: "mean", inputs: [x], axes },
    { op: "Neg", inputs: [4] },
    { op: "Add", inputs: [x, 5] },
    { op: "std", inputs: [x], axes },
    { op: "Div", inputs: [6, 7] },
  );
}

// x / max(std[bwh](x), v1*x + std[wh](x))
const b0 = graph(
  { op: "std", inputs: [x], axes: "bwh" },
  { op: "Mul", inputs: [v1, x] },
  { op: "std", inputs: [x], axes: "wh" },
  { op: "Add", inputs: [5, 6] },
  { op: "Max", inputs: [4, 7] },
  { op: "Div", inputs: [x, 8] },
);

// x / max(std[bwh](x), (x + 1) * rms[wh](x)), written x*rms + rms as the space has no constant 1
const b1 = graph(
  { op: "std", inputs: [x], axes: "bwh" },
  { op: "rms", inputs: [x], axes: "wh" },
  { op: "Mul", inputs: [x, 5] },
  { op: "Add", inputs: [6, 5] },
  { op: "Max", inputs: [4, 7] },
  { op: "Div", inputs: [x, 8] },
);

// x / max(std[bwh](x), rms[wh](x) - x)
const b2 = graph(
  { op: "std", inputs: [x], axes: "bwh" },
  { op: "rms", inputs: [x], axes: "wh" },
  { op: "Neg", inputs: [x] },
  { op: "Add", inputs: [5, 6] },
  { op: "Max", inputs: [4, 7] },
  { op: "Div", inputs: [x, 8] },
);

// x*sigmoid(v1*x) / std[whc/g](x)
const s0 = graph(
  { op: "Mul", inputs: [v1, x] },
  { op: "Sigmoid", inputs: [4] },
  { op: "std", inputs: [x], axes: "whc/g" },
  { op: "Mul", inputs: [x, 5] },
  { op: "Div", inputs: [7, 6] },
);

/** x*sigmoid(x) over a group moment: S1 with std, S2 with rms. */
function swishOver(op: "std" | "rms"): LayerGraph {
  return graph(
    { op: "Sigmoid", inputs: [x] },
    { op, inputs: [x], axes: "whc/g" },
    { op: "Mul", inputs: [x, 4] },
    { op: "Div", inputs: [6, 5] },
  );
}

const s1 = swishOver("std");
const s2 = swishOver("rms");

// x / rms[wh](x)
const filterResponse = graph({ op: "rms", inputs: [x], axes: "wh" }, { op: "Div", inputs: [x, 4] });

const relu = graph({ op: "Max", inputs: [x, zero] });
const silu = graph({ op: "Sigmoid", inputs: [x] }, { op: "Mul", inputs: [x, 4] });
const thresholded = graph({ op: "Max", inputs: [x, v0] });

const evonorm = "Liu, Brock, Simonyan, Le, Evolving Normalization-Activation Layers, 2020, arXiv 2004.02967";
const timm = `the variant of timm (EvoNorm2d...a, epsilon 1e-3) of: ${evonorm}`;
const batchNorm = "Ioffe, Szegedy, Batch Normalization, 2015, arXiv 1502.03167";
const groupNorm = "Wu, He, Group Normalization, 2018, arXiv 1803.08494";
const instanceNorm = "Ulyanov, Vedaldi, Lempitsky, Instance Normalization, 2016, arXiv 1607.08022";
const layerNorm = "Ba, Kiros, Hinton, Layer Normalization, 2016, arXiv 1607.06450";
const filterResponseNorm = "Singh, Krishnan, Filter Response Normalization Layer, 2019, arXiv 1911.09737";

const layers: readonly PublishedLayer[] = [
  { name: "EvoNorm-B0", graph: b0, source: evonorm },
  { name: "EvoNorm-B1", graph: b1, source: evonorm },
  { name: "EvoNorm-B2", graph: b2, source: evonorm },
  { name: "EvoNorm-S0", graph: s0, source: evonorm },
  { name: "EvoNorm-S1", graph: s1, source: evonorm },
  { name: "EvoNorm-S2", graph: s2, source: evonorm },
  { name: "EvoNorm-S0a", graph: s0, epsilon: 1e-3, source: timm },
  { name: "EvoNorm-S1a", graph: s1, epsilon: 1e-3, source: timm },
  { name: "EvoNorm-S2a", graph: s2, epsilon: 1e-3, source: timm },
  { name: "BN-ReLU", graph: standardise("bwh"), post: relu, source: batchNorm },
  { name: "BN-SiLU", graph: standardise("bwh"), post: silu, source: batchNorm },
  { name: "GN-ReLU", graph: standardise("whc/g"), post: relu, source: groupNorm },
  { name: "GN-SiLU", graph: standardise("whc/g"), post: silu, source: groupNorm },
  { name: "IN-ReLU", graph: standardise("wh"), post: relu, source: instanceNorm },
  { name: "LN", graph: standardise("whc"), source: layerNorm },
  { name: "LN-ReLU", graph: standardise("whc"), post: relu, source: layerNorm },
  { name: "FRN-TLU", graph: filterResponse, post: thresholded, source: filterResponseNorm },
];

/** The published layers by name. */
export const published: Readonly<Record<string, PublishedLayer>> = Object.freeze(
  Object.fromEntries(layers.map((layer) => [layer.name, layer])),
);

/**
 * The published layer of this name.
 *
 * ```ts
 * import { formula, publishedLayer } from "@normlab/normlab/graph";
 *
 * console.log(formula(publishedLayer("EvoNorm-B0").graph)); // x / max(std[bwh](x), v1*x + std[wh](x))
 * ```
 *
 * @throws RangeError if there is none; the message lists the names.
 */
export function publishedLayer(name: string): PublishedLayer {
  const layer = Object.hasOwn(published, name) ? published[name] : undefined;
  if (layer === undefined) {
    throw new RangeError(
      `Cannot find a published layer as its name must be one of ${Object.keys(published).join(", ")}: ` +
        `current name is ${JSON.stringify(name)}`,
    );
  }
  return layer;
}
