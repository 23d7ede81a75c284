/**
 * Runs notebooks headless on Deno's Jupyter kernel:
 * `deno run -A tools/notebook/run.ts [--write] [--param NAME=VALUE]... [--timeout SECONDS] NOTEBOOK...`
 *
 * Prints every cell with its time, the traceback of one that fails, and last `N passed, N failed` (cells); exits 1 if
 * any failed. `--write` keeps the outputs in the notebook.
 */

import process from "node:process";
import { parseArgs } from "node:util";
import { readNotebook, writeNotebook } from "./_notebook.ts";
import { type CellResult, runNotebook, type RunOptions } from "./runner.ts";

const usage =
  "deno run -A tools/notebook/run.ts [--write] [--param NAME=VALUE]... [--timeout SECONDS] NOTEBOOK...";

async function main(args: string[]): Promise<number> {
  const { paths, write, options } = readArguments(args);
  let passed = 0;
  let failed = 0;
  for (const path of paths) {
    console.log(path);
    try {
      const notebook = await readNotebook(path);
      const result = await runNotebook(path, notebook, { ...options, onCell: printCell });
      passed += result.passed;
      failed += result.failed;
      if (result.skipped > 0) console.log(`  ${result.skipped} cells not run`);
      if (write) await writeNotebook(path, notebook);
    } catch (error) {
      failed++;
      console.error(`  ${(error as Error).message}`);
    }
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed > 0 ? 1 : 0;
}

function readArguments(args: string[]): { paths: string[]; write: boolean; options: RunOptions } {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      write: { type: "boolean", default: false },
      param: { type: "string", multiple: true, default: [] },
      timeout: { type: "string", default: "600" },
    },
  });
  if (positionals.length === 0) throw new RangeError(`Cannot run notebooks as one must be named: ${usage}`);
  const timeout = Number(values.timeout) * 1000;
  if (!(timeout > 0)) {
    throw new RangeError(
      `Cannot run notebooks as --timeout must be seconds above 0: current value is ${values.timeout}`,
    );
  }
  const params = Object.fromEntries(values.param.map((text) => {
    const match = text.match(/^([A-Za-z_$][\w$]*)=(.*)$/s);
    if (!match) {
      throw new RangeError(`Cannot run notebooks as --param must be NAME=VALUE: current value is ${text}`);
    }
    return [match[1]!, match[2]!];
  }));
  return { paths: positionals, write: values.write, options: { params, timeout } };
}

function printCell({ number, source, seconds, failure }: CellResult): void {
  const firstLine = source.trim().split("\n")[0]!.slice(0, 80);
  console.log(
    `  cell ${number}  ${failure === undefined ? "ok" : "FAILED"}  ${seconds.toFixed(1)} s  ${firstLine}`,
  );
  if (failure === undefined) return;
  console.error(indented(source, "    | "));
  console.error(indented(failure, "    "));
}

function indented(text: string, by: string): string {
  return text.split("\n").map((line) => by + line).join("\n");
}

if (import.meta.main) {
  // Leaving by exit() ends the kernel too, which a signal alone would leave behind.
  process.on("SIGINT", () => process.exit(130));
  process.on("SIGTERM", () => process.exit(143));
  try {
    process.exitCode = await main(process.argv.slice(2));
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 2;
  }
}
