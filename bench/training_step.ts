/**
 * One training step of the CIFAR ResNet, one thread: the kit on each backend beside PyTorch eager and compiled, with peak memory.
 *
 *   deno run -A bench/training_step.ts [--python PYTHON] [--quick]
 *
 * A process per contender, layout and model, so that memory is its own: `peak_mib` is the largest resident memory during the timed
 * steps (warm-up and compilation excluded) less what was resident after the imports, `peak_absolute_mib` that memory whole.
 */
import { existsSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { availableBackends, type BackendName, onednnFiles } from "../lib/tensor/mod.ts";
import { alternate, Contender } from "./_contender.ts";
import { type BenchRow, type BenchSettings, compare, row } from "./_rows.ts";
import type { TrainingAnswer, TrainingRequest } from "./_training_server.ts";

type Model = Pick<TrainingRequest, "batch" | "size" | "width" | "blocks" | "groups">;

const MODELS: readonly Model[] = [
  { batch: 64, size: 24, width: 16, blocks: [2, 2, 2], groups: 8 },
  { batch: 64, size: 32, width: 64, blocks: [1, 1, 1], groups: 8 },
];

const LAYERS = ["BN-ReLU", "EvoNorm-S0", "EvoNorm-B0"] as const;
const LAYOUTS = ["NCHW", "channels_last"] as const;
const EAGER = "PyTorch eager";
const COMPILE = "torch.compile";

interface Entry {
  readonly name: string;
  readonly layout: string;
  readonly contender: Contender;
}

/** Runs the benchmark. */
export async function run(settings: BenchSettings): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  const layers = settings.quick ? ["EvoNorm-S0"] : LAYERS;
  const models = settings.quick ? MODELS.slice(0, 1) : MODELS;
  for (const model of models) {
    for (const layer of layers) {
      console.log(`\ntraining step: ${layer} in ${nameOf(model)}`);
      const fresh = await measureModel(layer, model, settings);
      for (const one of fresh) if (one.phase === "step") console.log(describe(one, model.batch));
      rows.push(...fresh);
    }
  }
  return rows;
}

function nameOf({ blocks, width }: Model): string {
  return `ResNet-${2 * blocks.reduce((sum, count) => sum + count, 0) + 2} of width ${width}`;
}

async function measureModel(layer: string, model: Model, settings: BenchSettings): Promise<BenchRow[]> {
  const { quick, python } = settings;
  const request: TrainingRequest = { layer, ...model, seconds: quick ? 1 : 2, most: 15 };
  const rounds = quick ? 1 : 2;
  const eager = LAYOUTS.map((layout) => torchEntry(python, EAGER, "eager", layout));
  const kit = await kitEntries();
  const compiled = quick ? [] : LAYOUTS.map((layout) => torchEntry(python, COMPILE, "compile", layout));
  const started = [...eager, ...kit, ...compiled];
  try {
    const answers = await alternate<TrainingAnswer>(
      started.map(({ contender }) => contender),
      request,
      rounds,
    );
    requireEqualParameters(answers);
    const rows = started.flatMap(({ name, layout, contender }) => {
      const answer = answers.get(contender.name);
      if (answer === undefined) return [];
      const { milliseconds, firstMilliseconds, importedMib, peakMib, version = "" } = answer;
      const base = {
        bench: "training",
        case: layer,
        group: nameOf(model),
        shape: `${model.batch},${model.size},${model.size},3`,
        contender: name,
        layout,
        detail: version,
      };
      const memory = { peak_mib: peakMib - importedMib, peak_absolute_mib: peakMib };
      const first = firstMilliseconds === undefined ? [] : [firstMilliseconds];
      return [
        row({ ...base, phase: "first step", milliseconds: first }),
        row({ ...base, phase: "step", milliseconds, ...memory }),
      ];
    });
    return compare(rows, EAGER);
  } finally {
    await Promise.all(started.map(({ contender }) => contender.close()));
  }
}

function torchEntry(python: string, name: string, mode: "eager" | "compile", layout: string): Entry {
  const args = [fileURLToPath(new URL("./peers/resnet_step.py", import.meta.url)), mode, layout];
  const env = { TORCHINDUCTOR_FORCE_DISABLE_CACHES: "1", PYTHONWARNINGS: "ignore", OMP_NUM_THREADS: "1" };
  return {
    name,
    layout,
    contender: new Contender({ name: `${name} ${layout}`, command: python, args, env }),
  };
}

/** The kit: wasm alone, wasm with oneDNN and the native TensorFlow backend where these are set up. */
async function kitEntries(): Promise<Entry[]> {
  const server = fileURLToPath(new URL("./_training_server.ts", import.meta.url));
  const entry = (name: string, backend: BackendName, env: Record<string, string>): Entry => ({
    name,
    layout: "NHWC",
    contender: new Contender({
      name,
      command: process.execPath,
      args: ["run", "-A", "--quiet", server, backend],
      env,
    }),
  });
  const available = await availableBackends();
  const threads = { TF_NUM_INTRAOP_THREADS: "1", TF_NUM_INTEROP_THREADS: "1", TF_CPP_MIN_LOG_LEVEL: "3" };
  return [
    entry("kit wasm", "wasm", { NORMLAB_ONEDNN: "off" }),
    ...(existsSync(onednnFiles().ready)
      ? [entry("kit wasm with oneDNN", "wasm", { OMP_NUM_THREADS: "1" })]
      : []),
    ...(available.get("tensorflow") === null ? [entry("kit tensorflow", "tensorflow", threads)] : []),
  ];
}

/** All contenders train the same model. */
function requireEqualParameters(answers: ReadonlyMap<string, TrainingAnswer>): void {
  const counts = [...answers].map(([name, { parameters }]) => `${name}: ${parameters}`);
  if (new Set([...answers.values()].map(({ parameters }) => parameters)).size > 1) {
    throw new Error(
      `Cannot compare training steps as all models must have the same parameters: ${counts.join(", ")}`,
    );
  }
}

function describe(r: BenchRow, batch: number): string {
  return [
    r.case.padEnd(11),
    r.group.padEnd(22),
    r.contender.padEnd(22),
    r.layout.padEnd(14),
    `${r.median_ms.toFixed(0)} ms`.padStart(8),
    `${(1000 * batch / r.median_ms).toFixed(0)} images/s`.padStart(14),
    `speed ${r.ratio === null ? "?" : (1 / r.ratio).toFixed(2)}x ${r.reference}`.padStart(26),
    `peak ${r.peak_mib?.toFixed(0)} MiB above imports, ${r.peak_absolute_mib?.toFixed(0)} in all`,
  ].join(" ");
}

if (import.meta.main) {
  const { benchSettings } = await import("./_settings.ts");
  await run(benchSettings());
}
