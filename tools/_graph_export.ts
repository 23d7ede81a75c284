/** A layer as text for other tools. */
import { draw, formula, latex, type NamedLayer, pytorchModule, simplify, toJSON } from "../lib/graph/mod.ts";

/** By format, the file extensions it is taken from, and its text. */
const formats = {
  json: { extensions: [".json"], write: layerText },
  formula: { extensions: [".txt"], write: ({ graph }: NamedLayer) => formula(graph) },
  latex: { extensions: [".tex"], write: latexText },
  pytorch: {
    extensions: [".py"],
    write: (layer: NamedLayer) => pytorchModule(layer),
  },
  svg: { extensions: [".svg"], write: ({ graph }: NamedLayer) => draw(graph) },
} as const;

export type Format = keyof typeof formats;
export const FORMATS = Object.keys(formats) as readonly Format[];

/** The format of this name, or the one that a file's name asks for. */
export function formatOf(name: string | undefined, file: string | undefined): Format | undefined {
  if (name !== undefined) return FORMATS.find((format) => format === name);
  return FORMATS.find((format) => formats[format].extensions.some((extension) => file?.endsWith(extension)));
}

export function exportText(layer: NamedLayer, format: Format): string {
  return formats[format].write(layer);
}

/** The layer with its graphs by the rules of simplify. */
export function simplifiedLayer(layer: NamedLayer): NamedLayer {
  return {
    ...layer,
    graph: simplify(layer.graph),
    ...(layer.post !== undefined && { post: simplify(layer.post) }),
  };
}

/** A bare graph, or a layer where there is more to it: what the graph commands read. */
export function layerText({ graph, post, ...about }: NamedLayer): string {
  if (post === undefined && about.epsilon === undefined) return toJSON(graph);
  return JSON.stringify({ ...about, graph, ...(post !== undefined && { post }) });
}

function latexText({ graph, post }: NamedLayer): string {
  if (post === undefined) return latex(graph);
  return `z = ${latex(graph)}, \\quad y = f(\\gamma z + \\beta), \\quad f(x) = ${
    latex(post).replaceAll("v_0", "\\tau")
  }`;
}
