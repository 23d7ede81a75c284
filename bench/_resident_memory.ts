/** Resident memory of this process; NaN where there is no /proc. */
import { readFileSync, writeFileSync } from "node:fs";

/** MiB now (VmRSS) or at the largest since the last reset (VmHWM). */
export function residentMib(field: "VmRSS" | "VmHWM"): number {
  try {
    const found = readFileSync("/proc/self/status", "utf8").match(new RegExp(`^${field}:\\s*(\\d+) kB`, "m"));
    return Number(found?.[1]) / 1024;
  } catch {
    return NaN;
  }
}

/** Lets the largest resident memory start again from what is resident now, where the system can. */
export function resetPeak(): void {
  try {
    writeFileSync("/proc/self/clear_refs", "5");
  } catch {
    // Then the largest memory is that since the start.
  }
}
