/** The figures of the benchmarks. */
import { from } from "arquero";
import { figure, type FigureSpec, lineWithBand } from "../lib/figures/mod.ts";
import { NAMES } from "./_layer_contenders.ts";
import type { BenchRow } from "./_rows.ts";

/** Every figure that the rows there are can fill. */
export function figuresOf(rows: readonly BenchRow[]): FigureSpec[] {
  return [
    layerFigure(rows, "published", "The published layers"),
    layerFigure(rows, "random", "Twenty random layers"),
    convolutionFigure(rows),
    trainingFigure(rows),
    memoryFigure(rows),
    tierUpFigure(rows),
    searchFigure(rows),
    attentionFigure(rows),
  ].filter((one) => one !== null);
}

/** One dot: a contender in a line of a panel. */
interface Dot {
  readonly line: string;
  readonly contender: string;
  readonly panel: string;
  readonly value: number;
}

/** A line per case with a dot per contender, on a logarithmic axis, in panels side by side; a dashed rule at `reference`. */
function dotPlot(
  text: Parameters<typeof figure>[0],
  dots: readonly Dot[],
  { title, reference, order }: { title: string; reference?: number; order?: readonly string[] },
): FigureSpec | null {
  if (dots.length === 0) return null;
  const unique = (key: "line" | "contender" | "panel") => [...new Set(dots.map((dot) => dot[key]))];
  const contenders = order?.filter((name) => unique("contender").includes(name)) ?? unique("contender");
  const y = {
    field: "line",
    type: "nominal",
    title: null,
    sort: unique("line"),
    axis: { grid: true, labelLimit: 280 },
  };
  const x = {
    field: "value",
    type: "quantitative",
    title,
    scale: { type: "log", nice: false, padding: 10 },
    axis: { format: "~g", tickCount: 6 },
  };
  const color = {
    field: "contender",
    type: "nominal",
    title: "contender",
    sort: contenders,
    scale: { domain: contenders },
  };
  const rule = {
    mark: { type: "rule", strokeDash: [4, 4], color: "#888888" },
    encoding: { x: { datum: reference }, y: null },
  };
  const points = { mark: { type: "point", filled: true, size: 90, opacity: 1 }, encoding: { x, color } };
  return figure(text, {
    data: { values: dots },
    facet: { column: { field: "panel", type: "nominal", title: null, sort: unique("panel") } },
    spec: {
      width: 260,
      height: { step: 24 },
      encoding: { y },
      layer: [...(reference === undefined ? [] : [rule]), points],
    },
  });
}

/** Times over that of torch.compile, by layer, contender and shape. */
function layerFigure(rows: readonly BenchRow[], group: string, title: string): FigureSpec | null {
  const chosen = rows.filter((r) =>
    r.bench === "layers" && r.group === group && r.phase === "forward+backward" && r.best &&
    r.contender !== NAMES.torchCompile && r.ratio !== null
  );
  const text = {
    name: `layers-${group}`,
    title: `${title}, forward and backward on one core`,
    caption:
      "Median times over that of torch.compile in its better layout (dashed), by layer; further left is faster. The " +
      "memory floor is what moving x, y, dy and dx takes at the bandwidth of a copy.",
    alt:
      `Dots for each of ${
        new Set(chosen.map((r) => r.case)).size
      } layers: the time of each contender over that of ` +
      "torch.compile, one panel per shape, on a logarithmic axis.",
  };
  const dots = chosen.map((r) => ({
    line: r.case,
    contender: r.contender,
    panel: `[${r.shape}]`,
    value: r.ratio!,
  }));
  const order = [NAMES.compiled, NAMES.interpreted, NAMES.tensorflow, NAMES.eager, NAMES.floor];
  return dotPlot(text, dots, { title: "time / torch.compile", reference: 1, order });
}

function convolutionFigure(rows: readonly BenchRow[]): FigureSpec | null {
  const chosen = rows.filter((r) => r.bench === "convolutions" && r.best && r.gflops !== null);
  const text = {
    name: "convolutions",
    title: "Convolutions on one core",
    caption:
      "Operations of the definition a second at the median time, by convolution; further right is faster.",
    alt:
      "Dots: the speed of each contender for each convolution, one panel per phase, on a logarithmic axis.",
  };
  const dots = chosen.map((r) => ({
    line: `${r.case}, [${r.shape}]`,
    contender: r.contender,
    panel: r.phase,
    value: r.gflops!,
  }));
  return dotPlot(text, dots, { title: "GFLOP/s" });
}

/** Speed over that of PyTorch eager. */
function trainingFigure(rows: readonly BenchRow[]): FigureSpec | null {
  const chosen = trainingRows(rows).filter((r) => r.ratio !== null && r.contender !== r.reference);
  const text = {
    name: "training",
    title: "A training step of the CIFAR ResNet on one core",
    caption:
      "Images a second over those of PyTorch eager in its better layout (dashed); further right is faster.",
    alt:
      "Dots: the training speed of each contender over that of PyTorch eager by layer, one panel per model.",
  };
  const dots = chosen.map((r) => ({
    line: r.case,
    contender: r.contender,
    panel: r.group,
    value: 1 / r.ratio!,
  }));
  return dotPlot(text, dots, { title: "speed / PyTorch eager", reference: 1 });
}

function memoryFigure(rows: readonly BenchRow[]): FigureSpec | null {
  const chosen = trainingRows(rows).filter((r) => r.peak_mib !== null && Number.isFinite(r.peak_mib));
  const text = {
    name: "memory",
    title: "Peak memory of a training step",
    caption:
      "Largest resident memory during steps after warm-up, less what was resident after the imports; further left is less.",
    alt: "Dots: the peak memory of each contender by layer, one panel per model, on a logarithmic axis.",
  };
  const dots = chosen.map((r) => ({
    line: r.case,
    contender: r.contender,
    panel: r.group,
    value: r.peak_mib!,
  }));
  return dotPlot(text, dots, { title: "MiB above imports" });
}

function trainingRows(rows: readonly BenchRow[]): BenchRow[] {
  return rows.filter((r) => r.bench === "training" && r.phase === "step" && r.best);
}

/** Speed of the search over that of the same loop in PyTorch eager, by stage. */
function searchFigure(rows: readonly BenchRow[]): FigureSpec | null {
  const shown = ["candidate", "quality", "stability", "training"];
  const chosen = rows.filter((r) =>
    r.bench === "search" && r.contender !== r.reference && r.ratio !== null && shown.includes(r.phase)
  );
  const text = {
    name: "search",
    title: "Candidates of the search, one process per core",
    caption:
      "Speed over that of the same loop in PyTorch eager in its better layout (dashed), for whole candidates " +
      "and for each stage; further right is faster.",
    alt: "Dots: the speed of the search over PyTorch eager by stage, one panel per task.",
  };
  const dots = chosen.map((r) => ({
    line: r.phase === "candidate" ? "whole candidate" : r.phase,
    contender: r.contender,
    panel: `${r.group} task`,
    value: 1 / r.ratio!,
  }));
  return dotPlot(text, dots, { title: "speed / PyTorch eager", reference: 1 });
}

/** Times over that of PyTorch's dense attention. */
function attentionFigure(rows: readonly BenchRow[]): FigureSpec | null {
  const chosen = rows.filter((r) =>
    r.bench === "attention" && r.best && r.ratio !== null && ["dense", "sparse"].includes(r.phase) &&
    !(r.phase === "dense" && r.contender === "PyTorch SDPA")
  );
  const text = {
    name: "attention",
    title: "Attention on one core",
    caption:
      "Median time over that of PyTorch's dense attention (scaled_dot_product_attention, dashed), dense and with the windows of " +
      "Re-ttention; further left is faster. FlexAttention with its fastest size of blocks.",
    alt:
      "Dots: the time of each contender over PyTorch's dense attention by case, one panel for dense and one for sparse.",
  };
  const dots = chosen.map((r) => ({
    line: r.case,
    contender: r.contender,
    panel: r.phase,
    value: r.ratio!,
  }));
  return dotPlot(text, dots, { title: "time / PyTorch dense", reference: 1 });
}

/** The first calls of a new layer. */
function tierUpFigure(rows: readonly BenchRow[]): FigureSpec | null {
  const chosen = rows.filter((r) => r.bench === "tier_up").map((r) => ({
    ...r,
    call: Number(r.phase.replace("call ", "")),
  }));
  if (chosen.length === 0) return null;
  return lineWithBand({
    name: "tier-up",
    title: "The first calls of a new layer, x [32, 32, 32, 64]",
    caption:
      "Time of each call (forward and backward) in a fresh process; the first one includes deriving, compiling and loading.",
    alt: "Curves falling from the first call to a steady time, one per contender and one panel per layer.",
  }, {
    table: from(chosen),
    x: { field: "call", title: "call", scale: "log", format: "~g" },
    y: { field: "median_ms", title: "ms", scale: "log", format: "~g" },
    series: { field: "contender", title: "contender" },
    facet: { field: "case", title: "" },
    band: "none",
  });
}
