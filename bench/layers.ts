/**
 * Normalization-activation layers, forward and forward+backward, one thread: the kit beside PyTorch and the memory-bandwidth floor.
 *
 *   deno run -A bench/layers.ts [--python PYTHON] [--quick] [--full]
 *
 * The six published layers and 20 golden random graphs at three shapes. Before anything is timed, all contenders' results and gradients
 * are compared with PyTorch's. torch.compile compiles the random graphs in the layout that won on the published ones (both with
 * --full). The floor is what moving the bytes takes at the bandwidth of a copy of x measured in the same run: forward reads x and
 * writes y (one copy), forward+backward also reads x and dy and writes dx (2.5 copies).
 */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stream } from "../lib/tensor/mod.ts";
import { alternate, geometricMean, median, report, type Timing } from "./_contender.ts";
import { type LayerCase, publishedCases, randomCases, SHAPES } from "./_layer_cases.ts";
import { type Entry, layerContenders, LAYOUTS, NAMES } from "./_layer_contenders.ts";
import type { LayerRequest } from "./_layer_server.ts";
import { type BenchRow, type BenchSettings, compare, row } from "./_rows.ts";

type Shape = readonly [number, number, number, number];

const PHASES = ["forward", "forward+backward"] as const;
/** Bytes that must move, in copies of x (a copy reads and writes it once). */
const COPIES = { forward: 1, "forward+backward": 2.5 } as const;

/** A loose bound, on the relative error of whole tensors: an answer to "is this the same function?", not to "how exact?". */
const SAME = 1e-3;

/** Runs the benchmark. */
export async function run(settings: BenchSettings): Promise<BenchRow[]> {
  const entries = await layerContenders(settings.python);
  const folder = await mkdtemp(join(tmpdir(), "normlab-bench-"));
  const published = publishedCases();
  const random = settings.quick ? [] : await randomCases();
  const shapes = settings.quick ? SHAPES.slice(0, 1) : SHAPES;
  const rows: BenchRow[] = [];
  try {
    let done = 0;
    for (const shape of shapes) {
      const inputs = join(folder, "inputs");
      await writeFile(inputs, new Uint8Array(drawInputs(shape).buffer));
      const floor = await copyTimes(entries, shape);
      let chosen = entries;
      for (const layer of [...published, ...random]) {
        if (layer.group === "random" && !settings.full) chosen = inBetterLayout(entries, rows, shape);
        done++;
        console.log(
          `\nlayers ${done}/${
            shapes.length * (published.length + random.length)
          }: ${layer.name} at [${shape}]`,
        );
        const fresh = await measureLayer(layer, shape, chosen, {
          inputs,
          folder,
          floor,
          quick: settings.quick,
        });
        for (const one of fresh) console.log(describe(one));
        rows.push(...fresh);
      }
    }
  } finally {
    await Promise.all(entries.map(({ contender }) => contender.close()));
    await rm(folder, { recursive: true });
  }
  return rows;
}

/** x, dy [n, h, w, c], v0, v1, gamma, beta [c] around the values where layers start. */
export function drawInputs(shape: Shape): Float32Array<ArrayBuffer> {
  const size = shape.reduce((product, extent) => product * extent, 1);
  const draws = stream(0).child("bench").child("inputs");
  const channels = shape[3];
  const parts = [
    draws.normal(2 * size),
    draws.normal(channels, 0, 0.5),
    draws.normal(channels, 1, 0.3),
    draws.normal(channels, 1, 0.3),
    draws.normal(channels, 0, 0.3),
  ];
  const flat = new Float32Array(2 * size + 4 * channels);
  let at = 0;
  for (const part of parts) {
    flat.set(part, at);
    at += part.length;
  }
  return flat;
}

/** Milliseconds of a copy of a tensor of this shape by one thread. */
async function copyTimes(entries: readonly Entry[], shape: Shape): Promise<number[]> {
  const eager = entries.find(({ name }) => name === NAMES.eager)!.contender;
  const request = { action: "copy", shape, seconds: 0.2, most: 50 };
  const milliseconds = await eager.ask<Timing>(request).then((answer) => answer.milliseconds, () => []);
  const bytes = 8 * shape.reduce((product, extent) => product * extent, 1);
  console.log(
    `\ncopy of [${shape}]: ${median(milliseconds).toFixed(2)} ms, ${
      (bytes / 1e6 / median(milliseconds)).toFixed(1)
    } GB/s`,
  );
  return milliseconds;
}

/** The contenders with torch.compile only in the layout that was faster on the published layers at this shape. */
function inBetterLayout(entries: readonly Entry[], rows: readonly BenchRow[], shape: Shape): Entry[] {
  const time = (layout: string) =>
    geometricMean(
      rows.filter((r) =>
        r.shape === String(shape) && r.contender === NAMES.torchCompile && r.layout === layout &&
        r.phase === "forward+backward" && r.group === "published"
      ).map((r) => r.median_ms),
    );
  const [better] = LAYOUTS.toSorted((a, b) => time(a) - time(b));
  return entries.filter(({ name, layout }) => name !== NAMES.torchCompile || layout === better);
}

interface Checked {
  firstMilliseconds: number;
  naturalDifference?: number;
}

/** Checks one layer on every contender, times it, and gives its rows. */
async function measureLayer(
  layer: LayerCase,
  shape: Shape,
  entries: readonly Entry[],
  { inputs, folder, floor, quick }: { inputs: string; folder: string; floor: number[]; quick: boolean },
): Promise<BenchRow[]> {
  const base = { bench: "layers", case: layer.name, group: layer.group, shape: String(shape) };
  const about = { layer, shape: [...shape] as [number, number, number, number], inputs };
  const rows: BenchRow[] = [];
  const results = new Map<Entry, Float32Array>();
  for (const entry of entries) {
    const outputs = join(folder, "outputs");
    const request: LayerRequest = { action: "check", ...about, outputs };
    try {
      const { firstMilliseconds, naturalDifference } = await entry.contender.ask<Checked>(request);
      if ((naturalDifference ?? 0) > SAME) {
        throw new Error(
          `Cannot trust the yardstick of ${layer.name}: its two forms differ by ${naturalDifference}`,
        );
      }
      results.set(entry, new Float32Array((await readFile(outputs)).buffer));
      if (entry.name === NAMES.torchCompile || entry.name === NAMES.compiled) {
        rows.push(
          row({
            ...base,
            contender: entry.name,
            layout: entry.layout,
            phase: "first call",
            milliseconds: [firstMilliseconds],
          }),
        );
      }
    } catch (error) {
      report(`${layer.name} at [${shape}]: ${(error as Error).message}`);
    }
  }
  const agreeing = sameFunction(layer.name, shape, results);
  const size = shape.reduce((product, extent) => product * extent, 1);
  for (const phase of PHASES) {
    const gbps = (ms: number) => COPIES[phase] * 8 * size / 1e6 / ms;
    const request: LayerRequest = { action: "time", ...about, phase, seconds: quick ? 0.1 : 0.12, most: 30 };
    const answers = await alternate<Timing>(
      agreeing.map(({ contender }) => contender),
      request,
      quick ? 1 : 2,
    );
    for (const { name, layout, contender } of agreeing) {
      const answer = answers.get(contender.name);
      if (!answer) continue;
      const { milliseconds, version } = answer;
      rows.push(row({
        ...base,
        contender: name,
        layout,
        phase,
        milliseconds,
        gbps: gbps(median(milliseconds)),
        detail: version ?? "",
      }));
    }
    const least = floor.map((ms) => COPIES[phase] * ms);
    rows.push(
      row({ ...base, contender: NAMES.floor, phase, milliseconds: least, gbps: gbps(median(least)) }),
    );
  }
  return compare(rows, NAMES.torchCompile);
}

/** The contenders whose y, dx, dv0, dv1, dgamma and dbeta equal PyTorch's; the others are reported and not timed. */
export function sameFunction(
  layer: string,
  shape: Shape,
  results: ReadonlyMap<Entry, Float32Array>,
): Entry[] {
  const reference = [...results].find(([{ name }]) => name === NAMES.eager)?.[1];
  if (!reference) return [...results.keys()];
  const size = shape.reduce((product, extent) => product * extent, 1);
  const ends = [size, 2 * size, ...[1, 2, 3, 4].map((k) => 2 * size + k * shape[3])];
  const parts = ["y", "dx", "dv0", "dv1", "dgamma", "dbeta"];
  return [...results].filter(([{ contender }, values]) =>
    parts.every((part, k) => {
      const from = k === 0 ? 0 : ends[k - 1]!;
      let difference = 0;
      let norm = 0;
      for (let i = from; i < ends[k]!; i++) {
        difference += (values[i]! - reference[i]!) ** 2;
        norm += reference[i]! ** 2;
      }
      // A gradient that cancels to nothing is compared with the size of dy, a standard normal.
      const error = Math.sqrt(difference / Math.max(norm, 1e-6 * size));
      const same = error <= SAME;
      if (!same) {
        report(
          `DIFFERENT: ${part} of ${layer} on ${contender.name}: relative error ${error}; not timed`,
        );
      }
      return same;
    })
  ).map(([entry]) => entry);
}

/** A row as a line of the terminal. */
export function describe(r: BenchRow): string {
  const ratio = r.ratio === null ? "" : `${r.ratio.toFixed(2)}x ${r.reference}`;
  return [
    r.case.padEnd(12),
    r.phase.padEnd(17),
    r.contender.padEnd(22),
    r.layout.padEnd(14),
    `${r.median_ms.toFixed(2)} ms`.padStart(12),
    ratio.padStart(22),
  ].join(" ");
}

if (import.meta.main) {
  const { benchSettings } = await import("./_settings.ts");
  await run(benchSettings());
}
