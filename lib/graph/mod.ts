/**
 * Layer graphs: normalization-activation layers as plain data, after "Evolving Normalization-Activation Layers"
 * (Liu, Brock, Simonyan, Le 2020). A graph has four initial nodes, the input x, a constant zero and two trained
 * vectors v0, v1 (starting at 0 and 1), and up to a few dozen nodes made of 15 primitives: 12 element-wise ones and 3
 * moments (mean, rms, std) over one of 4 index sets. The last node is the output z, the layer is `gamma * z + beta`.
 *
 * - **Read and check**: {@link validate}, {@link fromJSON}; the {@link published} layers.
 * - **Look at**: {@link formula}, {@link latex}, {@link draw}, {@link drawText}; {@link active},
 *   {@link batchIndependent}. **Take elsewhere**: {@link toJSON}, {@link pytorchModule}.
 * - **Tell apart**: {@link simplify}, {@link canonical}, {@link canonicalHash}, {@link functionalHash};
 *   {@link compareGraphs}, and {@link simplification}: which known layers a graph equals, and when.
 * - **Compute**: {@link evaluate} is the float64 reference, {@link derivative} gives gradients as graphs over a set of
 *   operations closed under differentiation ({@link differentiate} again for second derivatives).
 *
 * Numerical conventions, with epsilon (1e-5) and sgn(0) = 0: `Div(a, b) = a / (±max(|b|, epsilon))` with the sign of b,
 * + at 0; `Log(a) = sgn(a) ln(|a| + epsilon)`; `Sqrt(a) = sgn(a) sqrt(|a| + epsilon)`; `rms` and biased `std` have
 * epsilon inside the root. Max shares the gradient of a tie in halves; Abs is flat at 0; the clamp of Div is flat.
 *
 * This room knows no tensor library and imports no other room.
 *
 * ```ts
 * import { batchIndependent, canonicalHash, formula, fromJSON } from "@normlab/normlab/graph";
 *
 * const graph = fromJSON('{"nodes":[{"op":"std","inputs":[0],"axes":"wh"},{"op":"Div","inputs":[0,4]}]}');
 * console.log(formula(graph), batchIndependent(graph), canonicalHash(graph)); // x / std[wh](x) true ...
 * ```
 *
 * @module
 */
export {
  type Aggregation,
  aggregations,
  arity,
  binaryPrimitives,
  type Elementwise,
  type GraphNode,
  type IndexSet,
  indexSets,
  initialNodes,
  isAggregation,
  type LayerGraph,
  primitives,
  unaryPrimitives,
} from "./types.ts";
export { fromJSON, maxNodes, toJSON, validate } from "./validate.ts";
export { active, batchIndependent, batchMoments, usesX } from "./structure.ts";
export { published, type PublishedLayer, publishedLayer } from "./published.ts";
export { formula, latex } from "./formula.ts";
export { draw, type DrawOptions } from "./draw.ts";
export { drawText } from "./draw_text.ts";
export { pytorchModule, type PytorchOptions } from "./pytorch.ts";
export { canonical, simplify } from "./simplify.ts";
export { canonicalHash, functionalHash } from "./hash.ts";
export {
  compareGraphs,
  type Comparison,
  describeEquivalence,
  type Difference,
  type Equivalence,
  type NamedLayer,
  type Simplification,
  simplification,
} from "./compare.ts";
export {
  bufferStart,
  evaluate,
  evaluateExtended,
  evaluateLayer,
  type EvaluationInput,
  type EvaluationOptions,
  type EvaluationResult,
  type LayerInput,
  type Numbers,
  statisticValues,
} from "./evaluate.ts";
export { derivative, differentiate, type GradientGraph, layerDerivative } from "./derivative.ts";
export {
  type ExtendedGraph,
  type ExtendedInput,
  type ExtendedNode,
  type ExtendedOp,
  forward,
  layerForward,
  type Mode,
  statisticName,
} from "./extended.ts";
