/**
 * What a search pays for a graph that nobody has seen, and how soon a new layer is at its full speed, on wasm.
 *
 *   deno run -A bench/first_result.ts [--quick]
 *
 * - first result: 500 distinct random graphs of 10 nodes, one after the other in one process, at [4, 4, 4, 8]: from the graph to y and
 *   all gradients in JavaScript's hands. The kit's figure includes everything: derivative, code, instantiation, one run.
 * - tier-up: calls 1, 2, ... 200 (forward+backward) of S0 and B0 at [32, 32, 32, 64], each in a fresh process, until steady: the first
 *   call within 10% of the median of the last fifty, as the median of the ten calls from it on is.
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Contender, median, quantile, type Timing } from "./_contender.ts";
import { publishedCases, SHAPES } from "./_layer_cases.ts";
import { kitContender, NAMES } from "./_layer_contenders.ts";
import type { LayerRequest } from "./_layer_server.ts";
import { type BenchRow, type BenchSettings, row } from "./_rows.ts";
import { drawInputs } from "./layers.ts";

const FORMS = [["compiled", NAMES.compiled], ["interpreted", NAMES.interpreted]] as const;

/** Runs the benchmark. */
export async function run({ quick }: BenchSettings): Promise<BenchRow[]> {
  return [...await firstResults(quick ? 100 : 500), ...await tierUp(quick ? 60 : 200)];
}

async function firstResults(count: number): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  const shape: [number, number, number, number] = [4, 4, 4, 8];
  for (const [evaluation, name] of FORMS) {
    const contender = kitContender(name, "wasm", evaluation);
    const { milliseconds, version } = await answer(contender, { action: "first", count, shape, groups: 4 });
    const about = {
      bench: "first_result",
      group: "random",
      shape: String(shape),
      contender: name,
      detail: version ?? "",
    };
    milliseconds.forEach((one, k) =>
      rows.push(row({ ...about, case: `graph ${k + 1}`, phase: "first result", milliseconds: [one] }))
    );
    console.log(
      `graph to first result, ${name}: median ${median(milliseconds).toFixed(2)} ms, 90th percentile ` +
        `${quantile(milliseconds, 0.9).toFixed(2)} ms, largest ${
          Math.max(...milliseconds).toFixed(1)
        } ms over ${count} graphs`,
    );
  }
  return rows;
}

async function tierUp(calls: number): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  const shape = SHAPES[0]!;
  const folder = await mkdtemp(join(tmpdir(), "normlab-bench-"));
  const inputs = join(folder, "inputs");
  await writeFile(inputs, drawInputs(shape));
  try {
    for (
      const layer of publishedCases().filter(({ name }) => name === "EvoNorm-S0" || name === "EvoNorm-B0")
    ) {
      for (const [evaluation, name] of FORMS) {
        const request = { action: "tierUp", layer, shape: [...shape], inputs, calls } as LayerRequest;
        const { milliseconds, version } = await answer(kitContender(name, "wasm", evaluation), request);
        const about = {
          bench: "tier_up",
          case: layer.name,
          group: "published",
          shape: String(shape),
          contender: name,
        };
        milliseconds.forEach((one, k) =>
          rows.push(row({ ...about, phase: `call ${k + 1}`, milliseconds: [one], detail: version ?? "" }))
        );
        const steady = median(milliseconds.slice(-50));
        console.log(
          `tier-up of ${layer.name}, ${name}: first call ${milliseconds[0]!.toFixed(1)} ms, second ` +
            `${milliseconds[1]!.toFixed(1)} ms, steady at ${steady.toFixed(1)} ms from call ${
              steadyFrom(milliseconds, steady)
            } ` +
            `(${
              milliseconds.slice(0, steadyFrom(milliseconds, steady) - 1).reduce((sum, one) => sum + one, 0)
                .toFixed(0)
            } ms after the start)`,
        );
      }
    }
  } finally {
    await rm(folder, { recursive: true });
  }
  return rows;
}

/** The first call (from 1) that is within 10% of `steady`, as the median of the ten calls from it on is. */
function steadyFrom(milliseconds: readonly number[], steady: number): number {
  const found = milliseconds.findIndex((one, k) =>
    one <= 1.1 * steady && median(milliseconds.slice(k, k + 10)) <= 1.1 * steady
  );
  return found + 1;
}

/** One answer of a fresh process. */
async function answer(contender: Contender, request: LayerRequest): Promise<Timing> {
  try {
    return await contender.ask<Timing>(request);
  } finally {
    await contender.close();
  }
}

if (import.meta.main) {
  const { benchSettings } = await import("./_settings.ts");
  await run(benchSettings());
}
