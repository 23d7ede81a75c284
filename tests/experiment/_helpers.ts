import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { readTrialFile, rowsDigest } from "../../lib/experiment/mod.ts";

const CLI = fileURLToPath(new URL("../../tools/normlab.ts", import.meta.url));
const TOY = fileURLToPath(new URL("./_toy.ts", import.meta.url));

/** A new empty folder, removed at the end of the `using` block. */
export function temporaryFolder(): { path: string } & Disposable {
  const path = mkdtempSync(join(tmpdir(), "normlab-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** The command line with the toy experiment, as a process. */
export function cli(args: readonly string[], cwd?: string): Deno.Command {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", CLI, ...args, "--registry", TOY],
    stdout: "piped",
    stderr: "piped",
    ...(cwd === undefined ? {} : { cwd }),
  });
}

/** Runs the command line to its end. */
export async function runCli(args: readonly string[], cwd?: string) {
  const { code, stdout, stderr } = await cli(args, cwd).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

/** Digest of each stored trial's rows by file name. Throws for a file that is not whole. */
export function digests(folder: string): Map<string, string> {
  const names = existsSync(folder)
    ? readdirSync(folder).filter((name) => name.endsWith(".arrow")).sort()
    : [];
  return new Map(names.map((name) => [name, rowsDigest(readTrialFile(join(folder, name)).rows)]));
}

/** Process ids of the children of a process (Linux), which it may have started from any of its threads. */
export function childrenOf(pid: number): number[] {
  const threads = readdirSync(`/proc/${pid}/task`);
  const lists = threads.map((thread) => readFileSync(`/proc/${pid}/task/${thread}/children`, "utf8"));
  return lists.join(" ").split(/\s+/).filter((word) => word !== "").map(Number);
}

/** Waits until none of the processes is left; false if some are after `milliseconds`. */
export async function allGone(pids: readonly number[], milliseconds: number): Promise<boolean> {
  const alive = (pid: number) => {
    try {
      return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
    } catch {
      return false;
    }
  };
  for (const end = performance.now() + milliseconds; performance.now() < end;) {
    if (!pids.some(alive)) return true;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return !pids.some(alive);
}
