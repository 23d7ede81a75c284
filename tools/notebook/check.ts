/**
 * Checks notebooks without running them: `deno run -A tools/notebook/check.ts [--fix] NOTEBOOK...`
 *
 * Types, lint and formatting of the cells, as `NOTEBOOK:cell N:line: message`; last `N passed, N failed` (notebooks);
 * exits 1 if any failed. `--fix` formats the notebooks.
 */

import process from "node:process";
import { parseArgs } from "node:util";
import { checkNotebook, type Problem } from "./checker.ts";

const usage = "deno run -A tools/notebook/check.ts [--fix] NOTEBOOK...";

async function main(args: string[]): Promise<number> {
  const { values, positionals: paths } = parseArgs({
    args,
    allowPositionals: true,
    options: { fix: { type: "boolean", default: false } },
  });
  if (paths.length === 0) throw new RangeError(`Cannot check notebooks as one must be named: ${usage}`);
  let failed = 0;
  for (const path of paths) {
    const { cells, problems } = await checked(path, values.fix);
    for (const { cell, line, message } of problems) {
      console.error(cell === undefined ? `${path}: ${message}` : `${path}:cell ${cell}:${line}: ${message}`);
    }
    console.log(`${path}  ${cells} cells, ${problems.length} problems`);
    if (problems.length > 0) failed++;
  }
  console.log(`${paths.length - failed} passed, ${failed} failed`);
  return failed > 0 ? 1 : 0;
}

async function checked(path: string, fix: boolean): Promise<{ cells: number; problems: Problem[] }> {
  try {
    return await checkNotebook(path, fix);
  } catch (error) {
    return { cells: 0, problems: [{ message: (error as Error).message }] };
  }
}

if (import.meta.main) {
  try {
    process.exitCode = await main(process.argv.slice(2));
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 2;
  }
}
