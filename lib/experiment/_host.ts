/**
 * The one file of the room that knows which runtime it is in: versions for the provenance, and the command that
 * starts a worker process.
 */
import { fileURLToPath } from "node:url";
import process from "node:process";

const deno = (globalThis as { Deno?: typeof Deno }).Deno;

/** Versions of the runtime: Deno, V8 and TypeScript; in Node, Node and V8. */
export function runtimeVersions(): Record<string, string> {
  if (deno !== undefined) {
    return { deno: deno.version.deno, v8: deno.version.v8, typescript: deno.version.typescript };
  }
  return { node: process.versions.node, v8: process.versions.v8 };
}

/** Program and arguments that run the TypeScript file `script` as a worker for `backend`. */
export function workerCommand(script: URL, backend: string): { command: string; args: string[] } {
  const path = script.protocol === "file:" ? fileURLToPath(script) : script.href;
  if (deno === undefined) return { command: process.execPath, args: [path] };
  return {
    command: process.execPath,
    args: ["run", "--quiet", "--no-prompt", ...permissions(backend), path],
  };
}

/**
 * A worker computes and talks to its coordinator: it reads code, data and weights, and writes nothing. Native
 * backends load foreign libraries; so does wasm, for its convolutions, where this process might do so itself.
 */
function permissions(backend: string): string[] {
  const flags = ["--allow-read", "--allow-env", "--allow-sys"];
  const foreign = process.env.NORMLAB_ONEDNN !== "off" &&
    deno?.permissions.querySync({ name: "ffi" }).state === "granted";
  if (backend === "tensorflow" || backend === "auto" || (backend === "wasm" && foreign)) {
    flags.push("--allow-ffi");
  }
  return flags;
}
