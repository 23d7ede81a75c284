/** Processor time of child processes: what a shared machine falsifies less than elapsed time. */
import { readdirSync, readFileSync } from "node:fs";
import process from "node:process";

/** Of Linux, in every architecture that the kit runs on. */
const TICKS_PER_SECOND = 100;

/** Seconds of all threads of the living children of this process; NaN where there is no /proc. */
export function childrenSeconds(): number {
  let numbers: string[];
  try {
    numbers = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  } catch {
    return NaN;
  }
  return numbers.reduce((sum, number) => sum + secondsOf(number), 0);
}

function secondsOf(number: string): number {
  try {
    // After the name in brackets, which may hold anything: state, parent, and from the 12th on user and system time.
    const fields = readFileSync(`/proc/${number}/stat`, "utf8").split(")").at(-1)!.trim().split(" ");
    if (Number(fields[1]) !== process.pid) return 0;
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  } catch {
    // It has ended meanwhile.
    return 0;
  }
}
