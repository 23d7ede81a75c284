/** Who takes part in bench/layers.ts. */
import process from "node:process";
import { fileURLToPath } from "node:url";
import { availableBackends, type BackendName } from "../lib/tensor/mod.ts";
import { Contender } from "./_contender.ts";

/** How the contenders are called in the tables. */
export const NAMES = {
  compiled: "kit compiled (wasm)",
  interpreted: "kit op by op (wasm)",
  tensorflow: "kit (tensorflow)",
  eager: "PyTorch eager",
  torchCompile: "torch.compile",
  floor: "memory floor",
} as const;

/** Memory layouts of PyTorch. */
export const LAYOUTS = ["NCHW", "channels_last"] as const;

/** One process of a contender, in one layout. */
export interface Entry {
  readonly name: string;
  readonly layout: string;
  readonly contender: Contender;
}

/** The kit on one backend, its layers compiled or interpreted, one thread. */
export function kitContender(
  name: string,
  backend: BackendName,
  evaluation: "compiled" | "interpreted",
): Contender {
  const server = fileURLToPath(new URL("./_layer_server.ts", import.meta.url));
  return new Contender({
    name,
    command: process.execPath,
    args: ["run", "-A", "--quiet", server, backend, evaluation],
    env: { TF_NUM_INTRAOP_THREADS: "1", TF_NUM_INTEROP_THREADS: "1", TF_CPP_MIN_LOG_LEVEL: "3" },
  });
}

/** PyTorch in one layout, one thread. */
function torchContender(
  python: string,
  name: string,
  mode: "eager" | "compile",
  layout: typeof LAYOUTS[number],
): Contender {
  return new Contender({
    name: `${name} ${layout}`,
    command: python,
    args: [fileURLToPath(new URL("./peers/layers.py", import.meta.url)), mode, layout],
    // Compile times are those of a graph that nobody has compiled before.
    env: { TORCHINDUCTOR_FORCE_DISABLE_CACHES: "1", PYTHONWARNINGS: "ignore", OMP_NUM_THREADS: "1" },
  });
}

/** The processes of this machine: the kit's, and PyTorch's in both layouts. */
export async function layerContenders(python: string): Promise<Entry[]> {
  const missing = await availableBackends();
  const kit = (name: string, backend: BackendName, evaluation: "compiled" | "interpreted"): Entry => ({
    name,
    layout: "NHWC",
    contender: kitContender(name, backend, evaluation),
  });
  const torch = (name: string, mode: "eager" | "compile"): Entry[] =>
    LAYOUTS.map((layout) => ({ name, layout, contender: torchContender(python, name, mode, layout) }));
  return [
    kit(NAMES.compiled, "wasm", "compiled"),
    kit(NAMES.interpreted, "wasm", "interpreted"),
    ...(missing.get("tensorflow") === null ? [kit(NAMES.tensorflow, "tensorflow", "compiled")] : []),
    ...torch(NAMES.eager, "eager"),
    ...torch(NAMES.torchCompile, "compile"),
  ];
}
