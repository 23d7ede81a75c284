/**
 * Convolutions, forward and forward+backward, one thread: the kit on the wasm backend, by its own kernels and by oneDNN where that is
 * set up, beside PyTorch and TensorFlow.js as it comes.
 *
 *   deno run -A bench/convolutions.ts [--python PYTHON] [--quick]
 *
 * GFLOP/s count the operations of the definition (2 per product, forward+backward three times as many), whatever an algorithm saves.
 * The first calls of a new process, in which kernels are made and not yet optimised, are a phase of their own. The matrix product of
 * 1024 x 1024 says what TensorFlow.js's own kernels reach in the same run.
 */
import { existsSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { onednnFiles } from "../lib/tensor/mod.ts";
import { alternate, Contender, type Timing } from "./_contender.ts";
import type { ConvolutionCase, ConvolutionRequest } from "./_convolution_server.ts";
import { type BenchRow, type BenchSettings, compare, row } from "./_rows.ts";

const PYTORCH = "PyTorch eager";
const OWN = "kit wasm";
const STOCK = "TensorFlow.js wasm";
const LAYOUTS = ["NCHW", "channels_last"] as const;
const PHASES = ["forward", "forward+backward"] as const;

function regular(
  shape: ConvolutionCase["shape"],
  kernel: number,
  outputs: number,
  stride = 1,
): ConvolutionCase {
  return { shape, kernel, outputs, stride, depthwise: false };
}

function depthwise(shape: ConvolutionCase["shape"], kernel: number, stride = 1): ConvolutionCase {
  return { shape, kernel, outputs: shape[3], stride, depthwise: true };
}

/** The first two are the ones that claims are made about; the others are those of the CIFAR proxies. */
const CASES: readonly ConvolutionCase[] = [
  regular([32, 32, 32, 64], 3, 64),
  depthwise([32, 32, 32, 64], 3),
  regular([64, 24, 24, 16], 3, 16),
  regular([64, 12, 12, 32], 3, 32),
  regular([64, 6, 6, 64], 3, 64),
  regular([64, 24, 24, 16], 3, 32, 2),
  regular([64, 24, 24, 16], 1, 32, 2),
  regular([64, 24, 24, 3], 3, 16),
  regular([64, 32, 32, 64], 3, 128, 2),
  regular([64, 16, 16, 128], 3, 128),
  regular([64, 8, 8, 256], 3, 256),
  regular([32, 16, 16, 64], 1, 256),
  depthwise([32, 32, 32, 64], 3, 2),
  depthwise([32, 16, 16, 96], 5),
];

interface Entry {
  readonly name: string;
  readonly layout: string;
  readonly contender: Contender;
}

/** Runs the benchmark. */
export async function run(settings: BenchSettings): Promise<BenchRow[]> {
  const cases = settings.quick ? CASES.slice(0, 3) : CASES;
  const timing = settings.quick ? { seconds: 0.3, most: 15 } : { seconds: 0.7, most: 40 };
  const rounds = settings.quick ? 2 : 3;
  const started = entries(settings.python);
  const rows: BenchRow[] = [];
  try {
    rows.push(...await measure(started, { action: "matMul", size: 1024, ...timing }, rounds));
    for (const one of cases) {
      for (const phase of PHASES) {
        const able = started.filter(({ name }) => phase === "forward" || name !== STOCK);
        rows.push(...await measure(able, { action: "convolution", phase, ...one, ...timing }, rounds));
      }
    }
  } finally {
    await Promise.all(started.map(({ contender }) => contender.close()));
  }
  for (const one of cases.slice(0, 2)) rows.push(...await firstCalls(one));
  return rows;
}

async function measure(
  started: readonly Entry[],
  request: ConvolutionRequest,
  rounds: number,
): Promise<BenchRow[]> {
  const answers = await alternate<Timing>(started.map(({ contender }) => contender), request, rounds);
  const rows = compare(
    started.flatMap(({ name, layout, contender }) => {
      const answer = answers.get(contender.name);
      if (answer === undefined) return [];
      const one = row({
        ...labels(request),
        contender: name,
        layout,
        detail: answer.version ?? "",
        milliseconds: answer.milliseconds,
      });
      return [{ ...one, gflops: operations(request) / one.median_ms / 1e6 }];
    }),
    PYTORCH,
  );
  for (const one of rows) console.log(describe(one));
  return rows;
}

/** The first ten calls of a process: making the kernels, running them unoptimised, V8's optimisation. */
async function firstCalls(one: ConvolutionCase): Promise<BenchRow[]> {
  const own = kit(OWN, { NORMLAB_ONEDNN: "off" });
  try {
    const request = { action: "calls", phase: "forward+backward", ...one, seconds: 5, most: 10 } as const;
    const { milliseconds, version = "" } = await own.contender.ask<Timing>(request);
    return milliseconds.map((time, call) => {
      const phase = `call ${call + 1}`;
      const fresh = row({
        ...labels(request),
        phase,
        contender: OWN,
        layout: "NHWC",
        detail: version,
        milliseconds: [time],
      });
      console.log(describe(fresh));
      return fresh;
    });
  } finally {
    await own.contender.close();
  }
}

function labels(request: ConvolutionRequest): Pick<BenchRow, "bench" | "case" | "group" | "shape" | "phase"> {
  const bench = "convolutions";
  if (request.action === "matMul") {
    const { size } = request;
    return { bench, case: "matMul", group: "matMul", shape: `${size},${size},${size}`, phase: "forward" };
  }
  const { shape, kernel, outputs, stride, depthwise, phase } = request;
  const name = depthwise ? "depthwise" : `to ${outputs}`;
  return {
    bench,
    case: `${kernel}x${kernel} ${name}${stride > 1 ? ` / ${stride}` : ""}`,
    group: depthwise ? "depthwise" : "regular",
    shape: shape.join(),
    phase,
  };
}

/** Operations of the definition, a product and its addition being two. */
function operations(request: ConvolutionRequest): number {
  if (request.action === "matMul") return 2 * request.size ** 3;
  const { shape: [n, h, w, c], kernel, outputs, stride, depthwise, phase } = request;
  const pixels = n * Math.ceil(h / stride) * Math.ceil(w / stride);
  return 2 * pixels * outputs * (depthwise ? 1 : c) * kernel ** 2 * (phase === "forward" ? 1 : 3);
}

function kit(name: string, env: Record<string, string>, mode: "kit" | "stock" = "kit"): Entry {
  const server = fileURLToPath(new URL("./_convolution_server.ts", import.meta.url));
  const args = ["run", "-A", "--quiet", server, mode];
  return { name, layout: "NHWC", contender: new Contender({ name, command: process.execPath, args, env }) };
}

function entries(python: string): Entry[] {
  const peer = fileURLToPath(new URL("./peers/convolutions.py", import.meta.url));
  return [
    kit(OWN, { NORMLAB_ONEDNN: "off" }),
    ...(existsSync(onednnFiles().ready) ? [kit("kit wasm with oneDNN", { OMP_NUM_THREADS: "1" })] : []),
    kit(STOCK, { NORMLAB_ONEDNN: "off" }, "stock"),
    ...LAYOUTS.map((layout) => ({
      name: PYTORCH,
      layout,
      contender: new Contender({
        name: `${PYTORCH} ${layout}`,
        command: python,
        args: [peer, layout],
        env: { OMP_NUM_THREADS: "1" },
      }),
    })),
  ];
}

function describe(r: BenchRow): string {
  const ratio = r.ratio === null ? "" : `${r.ratio.toFixed(2)}x the time of ${r.reference}`;
  return [
    r.case.padEnd(16),
    `[${r.shape}]`.padEnd(18),
    r.phase.padEnd(16),
    `${r.contender} ${r.layout}`.padEnd(30),
    `min ${r.min_ms.toFixed(2)} median ${r.median_ms.toFixed(2)} ms`.padEnd(32),
    r.gflops === null ? "" : `${r.gflops.toFixed(0).padStart(4)} GFLOP/s`,
    ratio,
  ].join(" ");
}

if (import.meta.main) {
  const { benchSettings } = await import("./_settings.ts");
  await run(benchSettings());
}
