/** The figures of the benchmarks. */
import { from } from "arquero";
import { dotsWithInterval, figure, type FigureSpec, lineWithBand } from "../lib/figures/mod.ts";
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
  ].filter((one) => one !== null);
}

const CONTENDERS = { field: "contender", title: "contender" };

/** Times over that of torch.compile, by layer, contender and shape. */
function layerFigure(rows: readonly BenchRow[], group: string, title: string): FigureSpec | null {
  const chosen = rows.filter((r) =>
    r.bench === "layers" && r.group === group && r.phase === "forward+backward" && r.best &&
    r.contender !== NAMES.torchCompile && r.ratio !== null
  );
  if (chosen.length === 0) return null;
  const order = [NAMES.compiled, NAMES.interpreted, NAMES.tensorflow, NAMES.eager, NAMES.floor];
  const values = chosen.map((r) => ({
    layer: r.case,
    contender: r.contender,
    shape: `[${r.shape}]`,
    ratio: r.ratio,
  }));
  const unique = (texts: readonly string[]) => [...new Set(texts)];
  const contenders = order.filter((name) => values.some(({ contender }) => contender === name));
  return figure({
    name: `layers-${group}`,
    title: `${title}, forward and backward on one core`,
    caption:
      "Median times over that of torch.compile in its better layout (dashed), by layer; further left is faster. The memory " +
      "floor is what moving x, y, dy and dx takes at the bandwidth of a copy.",
    alt: `Dots for each of ${
      unique(values.map(({ layer }) => layer)).length
    } layers: the time of each contender over that of ` +
      "torch.compile, one panel per shape, on a logarithmic axis.",
  }, {
    data: { values },
    facet: {
      column: {
        field: "shape",
        type: "nominal",
        title: null,
        sort: unique(values.map(({ shape }) =>
          shape
        )),
      },
    },
    spec: {
      width: 260,
      height: { step: 24 },
      encoding: {
        y: {
          field: "layer",
          type: "nominal",
          title: null,
          sort: unique(values.map(({ layer }) => layer)),
          axis: { grid: true },
        },
      },
      layer: [
        {
          mark: { type: "rule", strokeDash: [4, 4], color: "#888888" },
          encoding: { x: { datum: 1 }, y: null },
        },
        {
          mark: { type: "point", filled: true, size: 90, opacity: 1 },
          encoding: {
            x: {
              field: "ratio",
              type: "quantitative",
              title: "time / torch.compile",
              scale: { type: "log", nice: false, padding: 10 },
              axis: { format: "~g", tickCount: 6 },
            },
            color: {
              field: "contender",
              type: "nominal",
              title: "contender",
              sort: contenders,
              scale: { domain: contenders },
            },
          },
        },
      ],
    },
  });
}

function convolutionFigure(rows: readonly BenchRow[]): FigureSpec | null {
  const chosen = rows.filter((r) => r.bench === "convolutions" && r.best && r.gflops !== null);
  if (chosen.length === 0) return null;
  return dotsWithInterval({
    name: "convolutions",
    title: "Convolutions on one core",
    caption:
      "Floating-point operations a second at the median time, by convolution, contender and phase; further right is faster.",
    alt:
      "Dots: the speed of each contender for each convolution, one panel per phase, on a logarithmic axis.",
  }, {
    table: from(chosen),
    x: { field: "gflops", title: "GFLOP/s", scale: "log", format: "~g" },
    y: { field: "case", title: "" },
    series: CONTENDERS,
    facet: { field: "phase", title: "" },
  });
}

/** Speed over that of PyTorch eager. */
function trainingFigure(rows: readonly BenchRow[]): FigureSpec | null {
  const chosen = trainingRows(rows).filter((r) => r.ratio !== null).map((r) => ({
    ...r,
    speed: 1 / r.ratio!,
  }));
  if (chosen.length === 0) return null;
  return dotsWithInterval({
    name: "training",
    title: "A training step of the CIFAR ResNet on one core: speed over PyTorch eager's",
    caption:
      "Images a second over those of PyTorch eager in its better layout (dashed: 1); further right is faster.",
    alt:
      "Dots: the training speed of each contender over that of PyTorch eager by layer, one panel per model.",
  }, {
    table: from(chosen),
    x: { field: "speed", title: "speed / PyTorch eager", scale: "log", format: "~g" },
    y: { field: "case", title: "" },
    series: CONTENDERS,
    facet: { field: "group", title: "" },
    reference: 1,
  });
}

function memoryFigure(rows: readonly BenchRow[]): FigureSpec | null {
  const chosen = trainingRows(rows).filter((r) => r.peak_mib !== null);
  if (chosen.length === 0) return null;
  return dotsWithInterval({
    name: "memory",
    title: "Peak memory of a training step",
    caption:
      "Largest resident memory during steps after warm-up, less what was resident after the imports; further left is less.",
    alt: "Dots: the peak memory of each contender by layer, one panel per model.",
  }, {
    table: from(chosen),
    x: { field: "peak_mib", title: "MiB above imports", format: "~g" },
    y: { field: "case", title: "" },
    series: CONTENDERS,
    facet: { field: "group", title: "" },
  });
}

function trainingRows(rows: readonly BenchRow[]): BenchRow[] {
  return rows.filter((r) => r.bench === "training" && r.phase === "step" && r.best);
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
    series: CONTENDERS,
    facet: { field: "case", title: "" },
    band: "none",
  });
}
