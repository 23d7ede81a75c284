/**
 * Checks a notebook's cells as one module: types, lint, formatting. The kernel itself checks no types, and gives
 * `undefined` for an export that does not exist.
 */

import { spawnSync } from "node:child_process";
import { readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import process from "node:process";
import {
  codeCells,
  hasTag,
  type Notebook,
  parameterNames,
  readNotebook,
  sourceOf,
  writeWhole,
} from "./_notebook.ts";

/** Something wrong with a notebook. */
export interface Problem {
  /** Cell among all cells, from 1; absent if it concerns the whole notebook. */
  readonly cell?: number;
  /** Line in the cell, from 1. */
  readonly line?: number;
  readonly message: string;
}

/** The cells as one module, and where its lines come from. */
export interface Extract {
  readonly code: string;
  /** For each line of the code, from index 0: its cell and line in the cell; absent for lines that were added. */
  readonly origins: readonly ({ cell: number; line: number } | undefined)[];
}

/** Checks the notebook at `path`, every step whatever the others found; `fix` formats it instead of complaining. */
export async function checkNotebook(
  path: string,
  fix = false,
): Promise<{ cells: number; problems: Problem[] }> {
  const notebook = await readNotebook(path);
  const extract = extractCells(notebook);
  const folder = dirname(resolve(path));
  // Beside the notebook, so that imports by relative path and by name resolve as in a cell.
  const module = join(folder, `${basename(path, ".ipynb")}.${process.pid}.tmp.ts`);
  const problems = [...languageProblems(notebook)];
  try {
    await writeFile(module, extract.code);
    problems.push(...typeProblems(module, extract), ...lintProblems(module, extract));
  } finally {
    await rm(module, { force: true });
  }
  problems.push(...await formatProblems(resolve(path), await readFile(path, "utf8"), fix));
  return { cells: codeCells(notebook).length, problems };
}

/** Joins the code cells; after a cell tagged "parameters" its variables are assigned, as a run may do. */
export function extractCells(notebook: Notebook): Extract {
  const code: string[] = [];
  const origins: ({ cell: number; line: number } | undefined)[] = [];
  for (const { cell, number } of codeCells(notebook)) {
    sourceOf(cell).split("\n").forEach((text, i) => {
      code.push(text);
      origins.push({ cell: number, line: i + 1 });
    });
    if (!hasTag(cell, "parameters")) continue;
    for (const name of parameterNames(cell)) {
      code.push(`${name} = JSON.parse("0");`);
      origins.push(undefined);
    }
  }
  code.push("export {};", "");
  return { code: code.join("\n"), origins };
}

/** Without a language the formatter passes over every cell and says nothing. */
function languageProblems(notebook: Notebook): Problem[] {
  const metadata = notebook["metadata"] as { language_info?: { name?: unknown } } | undefined;
  const language = metadata?.language_info?.name;
  if (language === "typescript") return [];
  return [{ message: `metadata.language_info.name must be "typescript": current name is ${language}` }];
}

function typeProblems(module: string, extract: Extract): Problem[] {
  const { ok, output } = deno(["check", "--quiet", module]);
  if (ok) return [];
  const problems: Problem[] = [];
  let message: string[] = [];
  for (const line of output.split("\n")) {
    const at = line.match(/^\s+at (file:\/\/.*):(\d+):\d+$/);
    if (!at) message.push(line);
    else {
      const where = decodeURI(at[1]!).endsWith(basename(module)) ? origin(extract, Number(at[2])) : {};
      const elsewhere = "cell" in where ? "" : ` (${at[1]})`;
      problems.push({ ...where, message: tidy(message) + elsewhere });
      message = [];
    }
  }
  return problems.length > 0 ? problems : [{ message: tidy(output.split("\n")) }];
}

function lintProblems(module: string, extract: Extract): Problem[] {
  const { ok, output } = deno(["lint", "--quiet", "--json", module]);
  if (ok) return [];
  interface Report {
    diagnostics: { range: { start: { line: number } }; code: string; message: string; hint?: string }[];
    errors: { message: string }[];
  }
  let report: Report;
  try {
    report = JSON.parse(output.slice(output.indexOf("{")));
  } catch {
    return [{ message: tidy(output.split("\n")) }];
  }
  return [
    ...report.diagnostics.map(({ range, code, message }) => ({
      ...origin(extract, range.start.line),
      message: `lint ${code}: ${message}`,
    })),
    ...report.errors.map(({ message }) => ({ message: `lint: ${message}` })),
  ];
}

async function formatProblems(path: string, text: string, fix: boolean): Promise<Problem[]> {
  // By way of stdin: for a notebook file `deno fmt --check` (2.9.6) reports a difference whether there is one or not.
  const { ok, output } = deno(["fmt", "--quiet", "--ext", "ipynb", "-"], dirname(path), text);
  if (!ok) return [{ message: `cannot be formatted: ${tidy(output.split("\n"))}` }];
  if (output === text) return [];
  if (!fix) return [{ message: "not formatted: check with --fix" }];
  await writeWhole(path, output);
  return [];
}

/** Cell and line of a line of the module, from 1. */
function origin(extract: Extract, line: number): { cell: number; line: number } | Record<never, never> {
  return extract.origins[line - 1] ?? {};
}

function tidy(lines: string[]): string {
  return lines.map((line) => line.trim()).filter((line) =>
    !/^(~*|Found \d+ errors?\.|error: .* failed\.)$/.test(line)
  )
    .join(" ");
}

function deno(args: string[], cwd?: string, input?: string): { ok: boolean; output: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1" },
    maxBuffer: 1 << 28,
    ...(cwd === undefined ? {} : { cwd }),
    ...(input === undefined ? {} : { input }),
  });
  return { ok: status === 0, output: stdout + stderr };
}
