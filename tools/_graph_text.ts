/** What the graph commands print. */
import {
  active,
  batchMoments,
  canonicalHash,
  compareGraphs,
  describeEquivalence,
  type Difference,
  drawText,
  formula,
  functionalHash,
  initialNodes,
  latex,
  type LayerGraph,
  type NamedLayer,
  published,
  simplification,
} from "../lib/graph/mod.ts";
import { layerText } from "./_graph_export.ts";

type Fact = readonly [name: string, value: string];

/** Everything that can be said of a layer; `drawing` false leaves the tree out. */
export function showText(layer: NamedLayer, accuracies: readonly string[], drawing: boolean): string {
  const { graph } = layer;
  const others = Object.values(published).filter(({ name }) => name !== layer.name);
  const { nodes, equivalences } = simplification(graph, others, layer.epsilon);
  const moments = batchMoments(graph);
  return [
    layer.name + (layer.source === undefined ? "" : ` (${layer.source})`),
    "",
    facts([
      ...formulas(layer),
      ["LaTeX", latex(graph)],
      [
        "reads",
        active(graph).filter((index) => index < initialNodes.length).map((i) => initialNodes[i]!).join(", "),
      ],
      ["nodes", `${nodes.genotype} in the genotype, ${nodes.active} active, ${nodes.simplified} simplified`],
      [
        "batch",
        moments.length === 0
          ? "independent: no moment over the batch, no moving statistics"
          : `dependent: moving statistics of nodes ${moments.join(", ")}`,
      ],
      ["z equals", equivalences.map(describeEquivalence).join("\n") || "none of the other published layers"],
      ["hashes", `${canonicalHash(graph)} (form), ${functionalHash(graph)} (function)`],
      ["accuracy", accuracies.join("\n") || "nothing stored"],
      ["JSON", layerText(layer)],
    ]),
    ...(drawing ? ["", drawText(graph)] : []),
  ].join("\n");
}

/** Two layers side by side, and what parts them. */
export function compareText(
  [a, b]: readonly [NamedLayer, NamedLayer],
  accuracies: readonly (readonly string[])[],
): string {
  const blocks = [a, b].map((layer, k) => {
    const { nodes } = simplification(layer.graph, []);
    return [
      `${"AB"[k]}: ${layer.name}`,
      facts([
        ...formulas(layer),
        [
          "nodes",
          `${nodes.genotype} in the genotype, ${nodes.active} active, ${nodes.simplified} simplified`,
        ],
        ["accuracy", accuracies[k]!.join("\n") || "nothing stored"],
      ]),
      "",
    ].join("\n");
  });
  const { sameForm, sameFunction, training, inference } = compareGraphs(a.graph, b.graph);
  const other = { ...b, name: "B" };
  const relations = simplification(a.graph, [other], a.epsilon).equivalences.map(describeEquivalence);
  return [
    ...blocks,
    facts([
      ["same form", yes(sameForm)],
      ["same function", `${yes(sameFunction)}: ${differenceText(training)}`],
      ["in inference", differenceText(inference)],
      ["A equals", relations.join("\n") || "B under no condition that is tried"],
      ...(a.post === undefined && b.post === undefined ? [] : [
        ["after the affine", sameGraph(a.post, b.post) ? "the same" : "not the same"] as const,
      ]),
      ...((a.epsilon ?? 1e-5) === (b.epsilon ?? 1e-5) ? [] : [
        ["epsilon", `${a.epsilon ?? 1e-5} and ${b.epsilon ?? 1e-5}; compared at 1e-5`] as const,
      ]),
    ]),
  ].join("\n");
}

function formulas({ graph, post, epsilon }: NamedLayer): Fact[] {
  const { simplified } = simplification(graph, []);
  const [whole, simple] = [formula(graph), formula(simplified)];
  return [
    ["z", whole],
    ...(whole === simple ? [] : [["simplified", simple] as const]),
    ...(post === undefined ? [] : [
      [
        "y",
        `${formula(post).replaceAll("v0", "tau").replace(/\bx\b/g, "t")} with t = gamma*z + beta`,
      ] as const,
    ]),
    ...(epsilon === undefined ? [] : [["epsilon", String(epsilon)] as const]),
  ];
}

function sameGraph(a: LayerGraph | undefined, b: LayerGraph | undefined): boolean {
  return a === undefined || b === undefined ? a === b : functionalHash(a) === functionalHash(b);
}

function differenceText({ largest, scale }: Difference): string {
  if (Number.isNaN(scale)) return "an output is not finite on the probe inputs";
  if (largest === 0) return "no difference on the probe inputs";
  return `largest difference ${largest.toPrecision(3)} on the probe inputs, where the largest value is ${
    scale.toPrecision(3)
  }`;
}

function yes(is: boolean): string {
  return is ? "yes" : "no";
}

/** Names in one column, values in the next, line by line. */
function facts(all: readonly Fact[]): string {
  const width = Math.max(...all.map(([name]) => name.length));
  return all.map(([name, value]) =>
    value.split("\n").map((line, k) => `  ${(k === 0 ? name : "").padEnd(width)}  ${line}`).join("\n")
  ).join("\n");
}
