import { layered, type Layout } from "./_layout.ts";
import { formula } from "./formula.ts";
import { active } from "./structure.ts";
import { type GraphNode, initialNodes, isAggregation, type LayerGraph } from "./types.ts";

/** More nodes than this make no picture. */
const maxDrawn = 200;

const rowHeight = 62;
const boxHeight = 28;
const margin = 12;
/** Room for the arrow out of the output. */
const headRoom = 26;

/** How {@link draw} draws. */
export interface DrawOptions {
  /** Whether to show dead nodes too, in grey. Default false. */
  readonly dead?: boolean;
}

/**
 * The graph as an SVG picture in the manner of the paper's: initial nodes at the bottom, the output on top, moments
 * with their index set as a subscript. The left arrow into a division comes from the numerator.
 *
 * ```ts
 * import { draw, publishedLayer } from "@normlab/normlab/graph";
 *
 * const svg = draw(publishedLayer("EvoNorm-B0").graph);
 * console.log(svg.startsWith("<svg")); // true
 * ```
 *
 * @throws RangeError if there are more than 200 nodes to draw.
 */
export function draw(graph: LayerGraph, { dead = false }: DrawOptions = {}): string {
  const nodes = drawn(graph, dead);
  if (nodes.length > maxDrawn) {
    throw new RangeError(
      `Cannot draw the graph as it must have at most ${maxDrawn} nodes: current number is ${nodes.length}`,
    );
  }
  const layout = layered(nodes.map(({ label, inputs }) => ({ width: boxWidth(label), inputs })));
  const marks = nodes.map((node, k) => box(node, position(layout, k)));
  const arrows = nodes.flatMap((node, k) => incoming(node, k, layout));
  const out = position(layout, nodes.findLastIndex((node) => node.alive));
  arrows.push(arrow([[out.x, out.y - boxHeight / 2], [out.x, out.y - boxHeight / 2 - headRoom]], true));
  return frame(layout, formula(graph), [...arrows, ...marks]);
}

/** A node of the picture; inputs count within the picture. */
interface Drawn {
  readonly op: GraphNode["op"] | "initial";
  readonly label: Label;
  readonly inputs: readonly number[];
  readonly alive: boolean;
}

interface Label {
  readonly text: string;
  readonly sub: string;
}

function drawn(graph: LayerGraph, dead: boolean): Drawn[] {
  const alive = new Set(active(graph));
  const all = Array.from({ length: initialNodes.length + graph.nodes.length }, (_, index) => index);
  const inputsOf = (index: number) => graph.nodes[index - initialNodes.length]?.inputs ?? [];
  const used = new Set(all.flatMap(inputsOf));
  const shown = all.filter((index) =>
    alive.has(index) || (dead && (index >= initialNodes.length || used.has(index)))
  );
  const at = new Map(shown.map((index, k) => [index, k]));
  return shown.map((index) => ({
    op: graph.nodes[index - initialNodes.length]?.op ?? "initial",
    label: labelOf(graph, index),
    inputs: inputsOf(index).map((input) => at.get(input)!),
    alive: alive.has(index),
  }));
}

const symbols: Readonly<Record<string, string>> = {
  Add: "+",
  Mul: "×",
  Div: "÷",
  Max: "max",
  Neg: "−",
  Sigmoid: "σ",
  Tanh: "tanh",
  Exp: "exp",
  Log: "log",
  Abs: "|·|",
  Square: "(·)²",
  Sqrt: "√",
};

function labelOf(graph: LayerGraph, index: number): Label {
  const node = graph.nodes[index - initialNodes.length];
  if (node !== undefined) return { text: symbols[node.op] ?? node.op, sub: node.axes ?? "" };
  const labels = [["x", ""], ["0", ""], ["v", "0"], ["v", "1"]] as const;
  const [text, sub] = labels[index]!;
  return { text, sub };
}

function boxWidth({ text, sub }: Label): number {
  return Math.max(34, 18 + 9 * text.length + 6.5 * sub.length);
}

interface Point {
  readonly x: number;
  readonly y: number;
}

/** The centre of a box on paper. */
function position(layout: Layout, k: number): Point {
  const { x, layer } = layout.boxes[k]!;
  return { x: x + margin, y: rowY(layout, layer) };
}

function rowY(layout: Layout, layer: number): number {
  return margin + headRoom + boxHeight / 2 + (layout.layers - 1 - layer) * rowHeight;
}

/** The arrows into a box. Division keeps its inputs left and right; elsewhere arrows land so as not to cross. */
function incoming(node: Drawn, k: number, layout: Layout): string[] {
  const to = position(layout, k);
  const edges = node.inputs.map((input, which) => {
    const { x, y } = position(layout, input);
    const layer = layout.boxes[input]!.layer;
    // Straight up through a layer, between its boxes; curves only between layers.
    const bends = layout.bends[k]![which]!.flatMap((bend, step): [number, number][] => {
      const row = rowY(layout, layer + 1 + step);
      return [[bend + margin, row + boxHeight / 2], [bend + margin, row - boxHeight / 2]];
    });
    const path: [number, number][] = [[x, y - boxHeight / 2], ...bends];
    return { last: path.at(-1)![0], path };
  });
  if (node.op !== "Div") edges.sort((a, b) => a.last - b.last);
  return edges.map(({ path }, port) => {
    const x = to.x + (edges.length === 2 ? (port - 0.5) * 16 : 0);
    return arrow([...path, [x, to.y + boxHeight / 2]], node.alive);
  });
}

/** A smooth arrow upwards through the given points. */
function arrow(points: readonly (readonly [number, number])[], alive: boolean): string {
  const [[startX, startY], ...rest] = points as [[number, number], ...[number, number][]];
  let previous = startY;
  const curves = rest.map(([x, y], k) => {
    const end = k === rest.length - 1 ? y + 5 : y; // the head takes the last 5
    const middle = (previous + end) / 2;
    const fromX = k === 0 ? startX : rest[k - 1]![0];
    previous = end;
    return `C${round(fromX)} ${round(middle)} ${round(x)} ${round(middle)} ${round(x)} ${round(end)}`;
  });
  const [x, y] = rest.at(-1)!;
  const ink = alive ? "#444" : "#bbb";
  const path = `M${round(startX)} ${round(startY)}${curves.join("")}`;
  const head = `${round(x)},${round(y)} ${round(x - 3.5)},${round(y + 7)} ${round(x + 3.5)},${round(y + 7)}`;
  return `<path d="${path}" fill="none" stroke="${ink}" stroke-width="1.3"/><polygon points="${head}" fill="${ink}"/>`;
}

function box({ op, label, alive }: Drawn, { x, y }: Point): string {
  const fill = op === "initial" ? "#fff3d6" : isAggregation(op) ? "#dcebfa" : "#ffffff";
  const [paint, stroke, ink] = alive ? [fill, "#444", "#111"] : ["#f7f7f7", "#bbb", "#999"];
  const width = boxWidth(label);
  const sub = label.sub && `<tspan dy="4" font-size="10">${escape(label.sub)}</tspan>`;
  return `<rect x="${round(x - width / 2)}" y="${round(y - boxHeight / 2)}" width="${round(width)}" ` +
    `height="${boxHeight}" rx="${
      op === "initial" ? boxHeight / 2 : 5
    }" fill="${paint}" stroke="${stroke}"/>` +
    `<text x="${round(x)}" y="${round(y + 5)}" text-anchor="middle" fill="${ink}">${
      escape(label.text)
    }${sub}</text>`;
}

function frame(layout: Layout, title: string, content: readonly string[]): string {
  const width = Math.ceil(layout.width + 2 * margin);
  const height = Math.ceil(2 * margin + headRoom + boxHeight + (layout.layers - 1) * rowHeight);
  return `<svg xmlns="http://www.w3.org/2000/svg" role="img" width="${width}" height="${height}" ` +
    `viewBox="0 0 ${width} ${height}" font-family="Helvetica, Arial, sans-serif" font-size="15">` +
    `<title>${escape(title)}</title><rect width="100%" height="100%" fill="#ffffff"/>${
      content.join("")
    }</svg>`;
}

function escape(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll(
    '"',
    "&quot;",
  );
}

function round(value: number): string {
  return String(Math.round(value * 10) / 10);
}
