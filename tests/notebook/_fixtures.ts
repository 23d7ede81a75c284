/** Notebooks made on the spot, and the tools run on them as commands. */

import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import type { CodeCell, Notebook } from "../../tools/notebook/_notebook.ts";

const root = join(import.meta.dirname!, "../..");

/** A code cell. */
export function code(source: string, ...tags: string[]): CodeCell {
  const metadata = tags.length > 0 ? { tags } : {};
  return { cell_type: "code", execution_count: null, metadata, outputs: [], source };
}

/** A notebook of code cells, with a text before them, as a file in a folder below `tests/`, removed afterwards. */
export async function withNotebook(
  cells: CodeCell[],
  body: (path: string, folder: string) => Promise<void>,
  metadata: unknown = { language_info: { name: "typescript" } },
): Promise<void> {
  // Below the project, so that its deno.json is found from there, as it is from notebooks/.
  const folder = await mkdtemp(join(root, "tests/notebook/fixture.tmp."));
  const path = join(folder, "fixture.ipynb");
  const text = { cell_type: "markdown", metadata: {}, source: ["# A fixture"] };
  const notebook = { cells: [text, ...cells], metadata, nbformat: 4, nbformat_minor: 5 };
  try {
    await writeFile(path, JSON.stringify(notebook, null, 1) + "\n");
    await body(path, folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** The code cells of a notebook file. */
export async function cellsOf(path: string): Promise<CodeCell[]> {
  const notebook: Notebook = JSON.parse(await readFile(path, "utf8"));
  return notebook.cells.slice(1) as CodeCell[];
}

/** Runs one of the two commands. */
export function tool(
  name: "run" | "check",
  args: string[],
): Promise<{ status: number | null; stdout: string; stderr: string; lastLine: string }> {
  const { done } = startTool(name, args);
  return done;
}

/** Starts one of the two commands. */
export function startTool(name: "run" | "check", args: string[]) {
  const child = spawn(process.execPath, ["run", "-A", join(root, `tools/notebook/${name}.ts`), ...args], {
    env: { ...process.env, NO_COLOR: "1" },
  });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk) => stdout += chunk);
  child.stderr.on("data", (chunk) => stderr += chunk);
  const done = new Promise<{ status: number | null; stdout: string; stderr: string; lastLine: string }>((
    resolve,
  ) =>
    child.once("close", (status) => {
      resolve({ status, stdout, stderr, lastLine: stdout.trimEnd().split("\n").at(-1)! });
    })
  );
  return { child, done, said: () => stdout };
}
