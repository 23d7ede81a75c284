/** Limits of a trial that runs in a worker process, watched from outside: the trial itself may hang. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import process from "node:process";
import type { LimitName, TrialLimits } from "./_types.ts";

/** Milliseconds between two looks at a worker's memory. */
const INTERVAL = 100;

/** Calls `exceeded` once, when the process passes a limit; `stop` ends the watch. */
export function watchLimits(
  pid: number | undefined,
  { seconds, mib }: TrialLimits,
  exceeded: (limit: LimitName) => void,
): { stop(): void } {
  const stop = () => {
    clearTimeout(timer);
    clearInterval(interval);
  };
  const end = (limit: LimitName) => {
    stop();
    exceeded(limit);
  };
  const timer = seconds === undefined ? undefined : setTimeout(() => end("time limit"), 1000 * seconds);
  const interval = mib === undefined || pid === undefined
    ? undefined
    : setInterval(() => residentMiB(pid) > mib && end("memory limit"), INTERVAL);
  return { stop };
}

/** Resident memory of a process; 0 where it is gone, or the system does not say. */
function residentMiB(pid: number): number {
  try {
    const kib = process.platform === "linux"
      ? /^VmRSS:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]
      : spawnSync("ps", ["-o", "rss=", "-p", String(pid)], { encoding: "utf8" }).stdout;
    return Number(kib ?? 0) / 1024 || 0;
  } catch {
    return 0;
  }
}

/** @throws {RangeError} A limit is not above 0. */
export function requireLimits(limits: TrialLimits): void {
  for (const [name, value] of Object.entries(limits)) {
    if (value === undefined || value > 0) continue;
    throw new RangeError(`Cannot limit trials as '${name}' must be above 0: current ${name} is ${value}`);
  }
}
