/** The tables of results/bench/summary.md: geometric means over layers, speeds, memory. */
import { geometricMean, median, quantile } from "./_contender.ts";
import { NAMES } from "./_layer_contenders.ts";
import type { BenchRow } from "./_rows.ts";

/** Markdown for the rows of all benchmarks that there are. */
export function summarise(rows: readonly BenchRow[]): string {
  const of = (bench: string) => rows.filter((r) => r.bench === bench);
  const sections = [
    layersSection(of("layers")),
    firstCallSection(of("layers")),
    firstResultSection(of("first_result")),
    convolutionsSection(of("convolutions")),
    trainingSection(of("training")),
    searchSection(of("search")),
    attentionSection(of("attention")),
  ];
  return sections.filter((section) => section !== "").join("\n");
}

/** Which ratios of median times are averaged over layers; below 1 means that the first is faster. */
const RATIOS: readonly (readonly [string, string])[] = [
  [NAMES.compiled, NAMES.torchCompile],
  [NAMES.interpreted, NAMES.compiled],
  [NAMES.eager, NAMES.compiled],
  [NAMES.eager, NAMES.torchCompile],
  [NAMES.tensorflow, NAMES.torchCompile],
  [NAMES.compiled, NAMES.floor],
];

function layersSection(rows: readonly BenchRow[]): string {
  const lines: string[] = [];
  for (const group of ["published", "random"]) {
    for (const phase of ["forward+backward", "forward"]) {
      const chosen = rows.filter((r) => r.group === group && r.phase === phase);
      if (chosen.length === 0) continue;
      const shapes = [...new Set(chosen.map((r) => r.shape))];
      const count = new Set(chosen.map((r) => r.case)).size;
      const columns = [...shapes.map((shape) => `[${shape}]`), ...(shapes.length > 1 ? ["all"] : [])];
      lines.push(
        `### ${count} ${group} layers, ${phase}`,
        "",
        "Geometric means of ratios of median times (fastest runs: of the smallest, for a busy machine), each contender in its " +
          "better layout; 32 channel groups. " +
          (group === "published"
            ? "The six layers of the paper."
            : `The first ${count} golden graphs of source random_filtered that are finite and well conditioned.`),
        "",
        ...table(
          ["ratio", ...columns],
          ([["median_ms", ""], ["min_ms", ", fastest runs"]] as const).flatMap(([time, remark]) =>
            (time === "median_ms" ? RATIOS : RATIOS.slice(0, 3)).map(([above, below]) => {
              const at = (shape?: string) => {
                const there = chosen.filter((r) => shape === undefined || r.shape === shape);
                const ratios = ratiosOf(there, above, below, time);
                return ratios.length === 0 ? "" : geometricMean(ratios).toFixed(2);
              };
              const all = shapes.length > 1 ? [at()] : [];
              return [`${above} / ${below}${remark}`, ...shapes.map(at), ...all];
            })
          ),
        ),
      );
    }
  }
  return section("Layers", lines);
}

/** The ratio of two contenders' times, each in its better layout, at every case and shape that both have. */
export function ratiosOf(
  rows: readonly BenchRow[],
  above: string,
  below: string,
  time: "median_ms" | "min_ms" = "median_ms",
): number[] {
  const best = (contender: string) => {
    const times = new Map<string, number>();
    for (const r of rows.filter((one) => one.contender === contender)) {
      const key = `${r.case}|${r.shape}|${r.phase}`;
      times.set(key, Math.min(times.get(key) ?? Infinity, r[time]));
    }
    return times;
  };
  const under = best(below);
  return [...best(above)].filter(([key]) => under.has(key)).map(([key, ms]) => ms / under.get(key)!);
}

/** How long a new graph takes until its first result at full size. */
function firstCallSection(rows: readonly BenchRow[]): string {
  const chosen = rows.filter((r) => r.phase === "first call");
  const contenders = [...new Set(chosen.map((r) => r.contender))];
  const lines = table(
    ["contender", "median ms", "90th percentile ms", "graphs and shapes"],
    contenders.map((contender) => {
      const times = chosen.filter((r) => r.contender === contender).map((r) => r.median_ms);
      return [contender, median(times).toFixed(1), quantile(times, 0.9).toFixed(1), String(times.length)];
    }),
  );
  return section(
    "First call of a new layer (compilation and one forward+backward)",
    chosen.length === 0 ? [] : lines,
  );
}

function firstResultSection(rows: readonly BenchRow[]): string {
  const contenders = [...new Set(rows.map((r) => r.contender))];
  const lines = table(
    ["contender", "graphs", "median ms", "90th percentile ms", "largest ms"],
    contenders.map((contender) => {
      const times = rows.filter((r) => r.contender === contender).map((r) => r.median_ms);
      const figures = [median(times), quantile(times, 0.9), Math.max(...times)].map((ms) => ms.toFixed(2));
      return [contender, String(times.length), ...figures];
    }),
  );
  return section("From graph to first result with gradients, x [4, 4, 4, 8]", rows.length === 0 ? [] : lines);
}

/** One line per case, phase and contender. */
function convolutionsSection(rows: readonly BenchRow[]): string {
  const chosen = rows.filter((r) => r.best && r.gflops !== null);
  const lines = table(
    ["case", "x", "phase", "contender", "median ms", "GFLOP/s", "time of PyTorch eager"],
    chosen.map((r) => [
      r.case,
      `[${r.shape}]`,
      r.phase,
      r.contender,
      r.median_ms.toFixed(2),
      r.gflops!.toFixed(1),
      r.ratio === null ? "" : `${r.ratio.toFixed(2)}x`,
    ]),
  );
  return section("Convolutions", chosen.length === 0 ? [] : lines);
}

function trainingSection(rows: readonly BenchRow[]): string {
  const chosen = rows.filter((r) => r.phase === "step" && r.best);
  const peer = (r: BenchRow, contender: string) =>
    chosen.find((one) => one.contender === contender && one.case === r.case && one.group === r.group);
  const times = (above: number | null | undefined, below: number | null) =>
    above === null || above === undefined || below === null ? "" : `${(above / below).toFixed(2)}x`;
  const head = [
    "model",
    "layer",
    "contender",
    "layout",
    "median ms",
    "speed of eager",
    "speed of torch.compile",
  ];
  const memory = ["peak MiB above imports", "of eager's", "peak MiB in all", "of eager's"];
  const lines = table(
    [...head, ...memory],
    chosen.map((r) => {
      const eager = peer(r, "PyTorch eager");
      return [
        `${r.group}, [${r.shape}]`,
        r.case,
        r.contender,
        r.layout,
        r.median_ms.toFixed(0),
        times(eager?.median_ms, r.median_ms),
        times(peer(r, NAMES.torchCompile)?.median_ms, r.median_ms),
        r.peak_mib?.toFixed(0) ?? "",
        times(r.peak_mib, eager?.peak_mib ?? null),
        r.peak_absolute_mib?.toFixed(0) ?? "",
        times(r.peak_absolute_mib, eager?.peak_absolute_mib ?? null),
      ];
    }),
  );
  return section("Training step", chosen.length === 0 ? [] : lines);
}

/** One line per contender: throughput, and where the time went. */
function searchSection(rows: readonly BenchRow[]): string {
  const phases = [...new Set(rows.map((r) => r.phase))].filter((phase) => phase !== "candidate");
  const lines = table(
    ["task", "contender", "layout", "candidates/s", "speed of eager", "ms per candidate", ...phases],
    rows.filter((r) => r.phase === "candidate").map((whole) => {
      const of = (phase: string) =>
        rows.find((r) =>
          r.phase === phase && r.case === whole.case && r.contender === whole.contender &&
          r.layout === whole.layout
        )?.median_ms;
      const parts = phases.map((phase) => {
        const ms = of(phase);
        return ms === undefined ? "" : `${ms.toFixed(1)} (${(100 * ms / whole.median_ms).toFixed(1)}%)`;
      });
      const processes = parseInt(whole.detail);
      return [
        `${whole.case}, ${whole.detail}`,
        whole.contender,
        whole.layout,
        (1000 * processes / whole.median_ms).toFixed(2),
        whole.ratio === null ? "" : `${(1 / whole.ratio).toFixed(2)}x`,
        whole.median_ms.toFixed(0),
        ...parts,
      ];
    }),
  );
  const words =
    "Process milliseconds per candidate: the elapsed time times the processes over the candidates, and " +
    "the seconds of each stage over all candidates. `outside the stages` is their difference: drawing, hashing, journal, store, " +
    "messages, building networks, idle processes. `processor time` is that of the processes that evaluate, with all of their " +
    "threads; `coordinator` is that of the process that hands out the candidates.";
  return section("Search: complete candidates", rows.length === 0 ? [] : [words, "", ...lines]);
}

/** What the mask saves, beside PyTorch; then every contender's times, and memory by tokens. */
function attentionSection(rows: readonly BenchRow[]): string {
  const [own, dense, flex] = ["kit wasm", "PyTorch SDPA", "PyTorch FlexAttention"];
  const cases = [...new Set(rows.filter((r) => r.group !== "memory").map((r) => r.case))];
  const over = (above: number | undefined, below: number | undefined, digits = 2) =>
    above === undefined || below === undefined ? "" : `${(above / below).toFixed(digits)}x`;
  const savings = cases.map((name) => {
    const there = rows.filter((r) => r.case === name && r.best);
    const of = (contender: string, phase: string) =>
      there.find((r) => r.contender === contender && r.phase === phase);
    const ms = (contender: string, phase: string) => of(contender, phase)?.median_ms;
    const again = rows.filter((r) =>
      r.shape === there[0]!.shape && r.contender === dense && r.phase === "dense"
    );
    const [sdpa, full, sparse] = [again[0]?.median_ms, ms(own, "dense"), ms(own, "sparse")];
    const detail = of(own, "sparse")?.detail ?? "";
    const [, kept, tiles] = detail.match(/kept ([\d.]+)%, tiles ([\d.]+)%/) ?? [];
    const share = sparse === undefined || full === undefined ? undefined : sparse / full;
    return [
      `${name}, [${there[0]!.shape}]`,
      `${kept}%`,
      `${tiles}%`,
      share === undefined ? "" : `${(100 * share).toFixed(2)}%`,
      over(share, Number(tiles) / 100),
      over(sdpa, sparse, 1),
      over(ms(flex, "sparse"), sparse),
      over(sdpa, full),
      over(ms(own, "refresh"), full),
      over(ms(own, "sparse, rho O + R"), sparse),
    ];
  });
  const times = rows.filter((r) => r.group !== "memory").map((r) => [
    r.case,
    r.phase,
    `${r.contender}${r.layout && `, ${r.layout}`}`,
    r.median_ms.toFixed(2),
    r.min_ms.toFixed(2),
    r.gflops?.toFixed(1) ?? "",
  ]);
  const memory = rows.filter((r) => r.group === "memory").map((r) => [
    r.case,
    r.phase.replace("memory, ", ""),
    r.peak_mib?.toFixed(1) ?? "",
  ]);
  const words =
    "Medians of processor time. Tiles of 64 queries x 32 keys; the kernel computes, for each 8 queries of a tile row, from the first " +
    "key that one of them sees to the last one. FlexAttention with its fastest size of blocks.";
  const head = ["case", "kept", "tiles touched", "sparse / own dense", "of tiles' share"];
  const peers = ["SDPA dense / sparse", "FlexAttention / sparse", "SDPA dense / own dense"];
  const lines = [
    words,
    "",
    ...table([...head, ...peers, "refresh / dense", "rho O + R / sparse"], savings),
    ...table(["case", "phase", "contender", "median ms", "min ms", "GFLOP/s of kept"], times),
    ...(memory.length === 0 ? [] : table(["case", "phase", "peak MiB above inputs"], memory)),
  ];
  return section("Attention", rows.length === 0 ? [] : lines);
}

function section(title: string, lines: readonly string[]): string {
  return lines.length === 0 ? "" : [`## ${title}`, "", ...lines].join("\n");
}

function table(head: readonly string[], body: readonly (readonly string[])[]): string[] {
  const all = [head, head.map(() => ""), ...body];
  const widths = head.map((_, k) => Math.max(3, ...all.map((cells) => cells[k]!.length)));
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, k) => cell.padEnd(widths[k]!)).join(" | ")} |`;
  return [line(head), `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`, ...body.map(line), ""];
}
