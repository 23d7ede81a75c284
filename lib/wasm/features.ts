import { f32x4, set } from "./instructions.ts";
import { ModuleBuilder } from "./module.ts";

let relaxed: boolean | undefined;

/** Whether the engine has relaxed SIMD: multiplication and addition in one instruction. */
export function relaxedSimd(): boolean {
  if (relaxed === undefined) {
    const module = new ModuleBuilder();
    const probe = module.function("probe", []);
    const vector = probe.local("v128");
    probe.add(set(vector, f32x4.relaxedMadd(vector, vector, vector)));
    relaxed = WebAssembly.validate(module.bytes());
  }
  return relaxed;
}
