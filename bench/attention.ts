/**
 * Attention, dense and with the masks of Re-ttention, one thread: the kit on the wasm backend beside PyTorch's
 * scaled_dot_product_attention, the same with a mask, and compiled FlexAttention with block masks of several sizes.
 *
 *   deno run -A bench/attention.ts [--python PYTHON] [--quick]
 *
 * Times are processor time of the contender's process, which has one thread: other processes on the machine disturb it less than the
 * clock. GFLOP/s count the kept elements (4 dim per element), whatever a contender computes beside them. `refresh` is a dense and a
 * sparse attention with their statistics, rho and R. Every contender's output is compared with the kit's before it is timed. `memory` is
 * the peak of one call above its inputs in a process of its own.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { availableBackends, type BackendName, stream } from "../lib/tensor/mod.ts";
import type { AttentionMask, AttentionPhase, AttentionRequest } from "./_attention_server.ts";
import { alternate, Contender, report, type Timing } from "./_contender.ts";
import { type BenchRow, type BenchSettings, row } from "./_rows.ts";

const OWN = "kit wasm";
const TENSORFLOW = "kit tensorflow";
const DENSE = "PyTorch SDPA";
const MASKED = "PyTorch SDPA with mask";
const FLEX = "PyTorch FlexAttention";
/** Blocks of 128 are PyTorch's default. */
const FLEX_BLOCKS = [128, 64, 16];
const SPARSE = "sparse";

interface AttentionCase {
  readonly name: string;
  readonly group: string;
  readonly shape: AttentionRequest["shape"];
  readonly mask: AttentionMask;
  /** Whether this is the same dense attention as the case before. */
  readonly denseAgain?: boolean;
}

const COGVIDEOX = { kind: "frames", frames: 13, frameTokens: 1350, text: 226, half: 21 } as const;

/** Half of the window: floor(floor(tokens share) / 2) with the published share of 1/32. */
const CASES: readonly AttentionCase[] = [
  { name: "band 64 of 4096", group: "image", shape: [1, 1, 4096, 64], mask: { kind: "band", half: 64 } },
  { name: "PixArt 1024", group: "image", shape: [1, 1, 4096, 72], mask: { kind: "band", half: 64 } },
  { name: "PixArt 512", group: "image", shape: [1, 4, 1024, 72], mask: { kind: "band", half: 16 } },
  { name: "small PixArt", group: "small", shape: [2, 4, 256, 32], mask: { kind: "band", half: 4 } },
  {
    name: "small CogVideoX",
    group: "small",
    shape: [2, 4, 520, 32],
    mask: { kind: "frames", frames: 8, frameTokens: 64, text: 8, half: 1, order: "frame-major" },
  },
  {
    name: "CogVideoX, token-major",
    group: "video",
    shape: [1, 1, 17776, 64],
    mask: { ...COGVIDEOX, order: "token-major" },
  },
  {
    name: "CogVideoX, frame-major",
    group: "video",
    shape: [1, 1, 17776, 64],
    mask: { ...COGVIDEOX, order: "frame-major" },
    denseAgain: true,
  },
];
const QUICK = ["band 64 of 4096", "PixArt 512", "small PixArt"];

/** Outputs are averages of numbers of size 1, in float32 by all. */
const TOLERANCE = 2e-5;

interface Entry {
  readonly name: string;
  readonly layout: string;
  readonly phases: readonly AttentionPhase[];
  readonly contender: Contender;
}

/** Runs the benchmark. */
export async function run(settings: BenchSettings): Promise<BenchRow[]> {
  const cases = CASES.filter(({ name }) => !settings.quick || QUICK.includes(name));
  const timing = settings.quick ? { seconds: 0.3, most: 15 } : { seconds: 1, most: 40 };
  const rounds = settings.quick ? 2 : 3;
  const started = await entries(settings.python);
  const rows: BenchRow[] = [];
  const folder = mkdtempSync(join(tmpdir(), "normlab-attention-"));
  try {
    for (const [index, one] of cases.entries()) {
      const inputs = join(folder, String(index));
      writeInputs(inputs, one);
      const measured = await measureCase(started, one, { folder: inputs, ...timing }, rounds);
      const compared = withRatios(measured, [...rows, ...measured]);
      for (const one of compared) console.log(describe(one));
      rows.push(...compared);
      rmSync(inputs, { recursive: true });
    }
    if (!settings.quick) rows.push(...await memory(folder));
  } finally {
    await Promise.all(started.map(({ contender }) => contender.close()));
    rmSync(folder, { recursive: true });
  }
  return rows;
}

async function measureCase(
  started: readonly Entry[],
  one: AttentionCase,
  given: Pick<AttentionRequest, "folder" | "seconds" | "most">,
  rounds: number,
): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const phase of ["dense", SPARSE, "sparse, rho O + R", "refresh"] as const) {
    const able = started.filter(({ phases }) => phases.includes(phase))
      .filter(({ name }) => name !== MASKED || phase === SPARSE)
      .filter(({ name }) => phase !== "dense" || name === OWN || !one.denseAgain);
    const { shape, mask } = one;
    const request: Omit<AttentionRequest, "action"> = {
      ...given,
      shape,
      mask,
      phase,
      path: join(given.folder, "output"),
    };
    const right = phase === "refresh" ? able : await agreeing(able, one, request);
    const answers = await alternate<Timing>(
      right.map(({ contender }) => contender),
      { action: "time", ...request },
      rounds,
    );
    for (const { name, layout, contender } of right) {
      const answer = answers.get(contender.name);
      if (answer === undefined) continue;
      const timed = row({
        bench: "attention",
        case: one.name,
        group: one.group,
        shape: shape.join(),
        phase,
        contender: name,
        layout,
        detail: answer.version ?? "",
        milliseconds: answer.milliseconds,
      });
      rows.push({ ...timed, gflops: operations(one, phase) / timed.median_ms / 1e6 });
    }
  }
  return rows;
}

/** Those whose output is the kit's, up to rounding; the others are reported. */
async function agreeing(
  able: readonly Entry[],
  one: AttentionCase,
  request: Omit<AttentionRequest, "action">,
): Promise<Entry[]> {
  const right: Entry[] = [];
  let expected: Float32Array | undefined;
  for (const entry of able) {
    try {
      await entry.contender.ask({ action: "output", ...request });
    } catch (error) {
      report((error as Error).message);
      continue;
    }
    const output = new Float32Array(readFileSync(request.path).slice().buffer);
    expected ??= output;
    const error = expected.reduce((most, value, at) => Math.max(most, Math.abs(value - output[at]!)), 0);
    if (output.length === expected.length && error <= TOLERANCE) right.push(entry);
    else report(`${one.name}, ${request.phase}: ${entry.contender.name} differs by ${error} from ${OWN}`);
  }
  return right;
}

/** Marks each contender's fastest blocks; ratios of all phases are to PyTorch's dense attention of that shape, in `all`. */
function withRatios(rows: readonly BenchRow[], all: readonly BenchRow[]): BenchRow[] {
  const dense = all.find((r) => r.contender === DENSE && r.phase === "dense" && r.shape === rows[0]?.shape)
    ?.median_ms;
  return rows.map((r) => ({
    ...r,
    reference: `${DENSE}, dense`,
    ratio: dense === undefined ? null : r.median_ms / dense,
    best: rows.every((other) =>
      other.contender !== r.contender || other.phase !== r.phase || other.median_ms >= r.median_ms
    ),
  }));
}

/** Peak memory of a call by the number of tokens, each in a new process. */
async function memory(folder: string): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const frameTokens of [337, 675, 1350]) {
    const tokens = COGVIDEOX.text + COGVIDEOX.frames * frameTokens;
    const one: AttentionCase = {
      name: `CogVideoX, ${tokens} tokens`,
      group: "memory",
      shape: [1, 1, tokens, 64],
      mask: { ...COGVIDEOX, frameTokens, order: "token-major" },
    };
    const inputs = join(folder, `memory-${tokens}`);
    writeInputs(inputs, one);
    for (const phase of ["dense", SPARSE] as const) {
      const contender = kit();
      try {
        const request = { action: "memory", folder: inputs, shape: one.shape, mask: one.mask, phase };
        const { peakMib } = await contender.ask<{ peakMib: number }>(request);
        const labels = { bench: "attention", case: one.name, group: one.group, shape: one.shape.join() };
        rows.push({
          ...row({ ...labels, contender: OWN, phase: `memory, ${phase}`, milliseconds: [] }),
          peak_mib: peakMib,
        });
        console.log(`${one.name}, ${phase}: ${peakMib.toFixed(1)} MiB above the inputs`);
      } catch (error) {
        report((error as Error).message);
      } finally {
        await contender.close();
      }
    }
  }
  return rows;
}

/** 4 dim operations for each kept element, a product and its addition being two. */
function operations(
  { shape: [batch, heads, tokens, dim], mask }: AttentionCase,
  phase: AttentionPhase,
): number {
  const matrices = batch * heads;
  const dense = 4 * matrices * tokens ** 2 * dim;
  const sparse = 4 * matrices * keptElements(mask, tokens) * dim;
  return phase === "dense" ? dense : phase === "refresh" ? dense + sparse : sparse;
}

/** Elements that a mask keeps. */
export function keptElements(mask: AttentionMask, tokens: number): number {
  const inBand = (length: number, half: number) => length * (2 * half + 1) - half * (half + 1);
  if (mask.kind === "band") return inBand(tokens, mask.half);
  const video = tokens - mask.text;
  return tokens ** 2 - video ** 2 + mask.frames ** 2 * inBand(mask.frameTokens, mask.half);
}

function writeInputs(folder: string, { name, shape }: AttentionCase): void {
  const draws = stream("attention bench").child(name);
  const size = shape.reduce((product, length) => product * length, 1);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  const write = (file: string, numbers: Float32Array) =>
    writeFileSync(join(folder, file), new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength));
  for (const file of ["q", "k", "v", "residual"]) write(file, draws.child(file).normal(size));
  write("rho", draws.child("rho").uniform(size / shape[3]));
}

function kit(name = OWN, backend: BackendName = "wasm"): Contender {
  const server = fileURLToPath(new URL("./_attention_server.ts", import.meta.url));
  const env = { TF_NUM_INTRAOP_THREADS: "1", TF_NUM_INTEROP_THREADS: "1", TF_CPP_MIN_LOG_LEVEL: "3" };
  return new Contender({
    name,
    command: process.execPath,
    args: ["run", "-A", "--quiet", server, backend],
    env,
  });
}

async function entries(python: string): Promise<Entry[]> {
  const hasTensorflow = (await availableBackends()).get("tensorflow") === null;
  const peer = (
    name: string,
    layout: string,
    phases: readonly AttentionPhase[],
    ...args: string[]
  ): Entry => ({
    name,
    layout,
    phases,
    contender: new Contender({
      name: `${name} ${layout}`.trim(),
      command: python,
      args: [fileURLToPath(new URL("./peers/attention.py", import.meta.url)), ...args],
      env: { OMP_NUM_THREADS: "1" },
    }),
  });
  return [
    { name: OWN, layout: "", phases: ["dense", SPARSE, "sparse, rho O + R", "refresh"], contender: kit() },
    ...(hasTensorflow
      ? [{
        name: TENSORFLOW,
        layout: "",
        phases: ["dense", SPARSE] as const,
        contender: kit(TENSORFLOW, "tensorflow"),
      }]
      : []),
    peer(DENSE, "", ["dense"], "dense"),
    peer(MASKED, "", [SPARSE], "mask"),
    ...FLEX_BLOCKS.map((block) => peer(FLEX, `blocks of ${block}`, [SPARSE], "flex", String(block))),
  ];
}

function describe(r: BenchRow): string {
  return [
    r.case.padEnd(24),
    `[${r.shape}]`.padEnd(16),
    r.phase.padEnd(18),
    `${r.contender} ${r.layout}`.padEnd(36),
    `min ${r.min_ms.toFixed(2)} median ${r.median_ms.toFixed(2)} ms`.padEnd(34),
    r.gflops === null ? "" : `${r.gflops.toFixed(1).padStart(6)} GFLOP/s`,
    r.ratio === null ? "" : `${r.ratio.toFixed(3)}x the time of ${r.reference}`,
  ].join(" ");
}

if (import.meta.main) {
  const { benchSettings } = await import("./_settings.ts");
  await run(benchSettings());
}
