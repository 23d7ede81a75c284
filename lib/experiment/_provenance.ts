import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import { runtimeVersions } from "./_host.ts";
import { sha256 } from "./_identity.ts";
import type { Provenance } from "./_types.ts";

/** The part of the provenance that all trials of a run share. */
export type RunProvenance = Pick<Provenance, "commit" | "dirty" | "versions" | "lock" | "cpu">;

/** Reads commit, runtime, lock file and CPU. What cannot be found out is `unknown`: it stops no run. */
export function runProvenance(): RunProvenance {
  const root = new URL("../../", import.meta.url);
  return { ...gitState(root), versions: runtimeVersions(), lock: lockHash(root), cpu: cpuModel() };
}

/** The commit, and whether code differs from it (results and the site are products, not code). */
function gitState(root: URL): { commit: string; dirty: boolean } {
  if (root.protocol !== "file:") return { commit: "unknown", dirty: false };
  const git = (...args: string[]) => {
    const { status, stdout } = spawnSync("git", args, { cwd: fileURLToPath(root), encoding: "utf8" });
    return status === 0 ? stdout.trim() : undefined;
  };
  try {
    const commit = git("rev-parse", "HEAD");
    if (commit === undefined) return { commit: "unknown", dirty: false };
    const changes = git("status", "--porcelain", "--", ".", ":(exclude)results", ":(exclude)site");
    return { commit, dirty: changes !== "" };
  } catch {
    return { commit: "unknown", dirty: false }; // no git, or no permission to run it
  }
}

function lockHash(root: URL): string {
  try {
    return sha256(readFileSync(new URL("deno.lock", root)));
  } catch {
    return "unknown";
  }
}

function cpuModel(): string {
  try {
    return cpus()[0]?.model.trim() ?? "unknown";
  } catch {
    return "unknown";
  }
}
