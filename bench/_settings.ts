/** The options that all benchmarks share. */
import process from "node:process";
import { parseArgs } from "node:util";
import type { BenchSettings } from "./_rows.ts";

/** Reads `--python PYTHON`, `--quick` and `--full` from the command line. */
export function benchSettings(args: readonly string[] = process.argv.slice(2)): BenchSettings {
  const { values } = parseArgs({
    args: [...args],
    options: {
      python: { type: "string", default: "python3" },
      quick: { type: "boolean", default: false },
      full: { type: "boolean", default: false },
    },
  });
  return values;
}
