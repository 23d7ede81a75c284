/** Notebook files (nbformat 4): reading with suspicion, writing in one step. */

import { readFile, rename, rm, writeFile } from "node:fs/promises";
import process from "node:process";

/** A MIME bundle, or any other part of an output that is kept as it came. */
export type Json = Record<string, unknown>;

/** One output of a cell, as nbformat stores it. */
export interface Output extends Json {
  output_type: "stream" | "display_data" | "execute_result" | "error";
}

/** A code cell. Fields that the tools do not use are kept. */
export interface CodeCell extends Json {
  cell_type: "code";
  source: string | string[];
  outputs: Output[];
  execution_count: number | null;
}

/** A notebook in memory. */
export interface Notebook extends Json {
  cells: Json[];
}

/**
 * Reads a notebook.
 *
 * @throws {SyntaxError} if it is not a notebook of nbformat 4
 */
export async function readNotebook(path: string): Promise<Notebook> {
  const text = await readFile(path, "utf8");
  let value: Partial<Notebook> | null;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new SyntaxError(
      `Cannot read ${path} as it must be JSON: current failure is ${(error as Error).message}`,
    );
  }
  const sound = value?.["nbformat"] === 4 && Array.isArray(value.cells) && value.cells.every(isCell);
  if (!sound) {
    throw new SyntaxError(
      `Cannot read ${path} as it must be a notebook of nbformat 4: current content is not`,
    );
  }
  return value as Notebook;
}

/** Writes a notebook as Jupyter does, in one step. */
export async function writeNotebook(path: string, notebook: Notebook): Promise<void> {
  await writeWhole(path, JSON.stringify(notebook, null, 1) + "\n");
}

/** Writes a file in one step. */
export async function writeWhole(path: string, text: string): Promise<void> {
  const unfinished = `${path}.${process.pid}.tmp`;
  try {
    await writeFile(unfinished, text);
    await rename(unfinished, path);
  } catch (error) {
    await rm(unfinished, { force: true });
    throw error;
  }
}

/** The code cells with their places among all cells, counted from 1. */
export function codeCells(notebook: Notebook): { cell: CodeCell; number: number }[] {
  return notebook.cells
    .map((cell, i) => ({ cell: cell as CodeCell, number: i + 1 }))
    .filter(({ cell }) => cell.cell_type === "code");
}

/** The text of a cell. */
export function sourceOf(cell: CodeCell): string {
  return joined(cell.source);
}

/** Whether a cell bears a tag. */
export function hasTag(cell: CodeCell, tag: string): boolean {
  const tags = (cell["metadata"] as { tags?: unknown } | undefined)?.tags;
  return Array.isArray(tags) && tags.includes(tag);
}

/** The names that the cell tagged "parameters" declares with `let`. */
export function parameterNames(cell: CodeCell): string[] {
  return [...sourceOf(cell).matchAll(/^let\s+([A-Za-z_$][\w$]*)/gm)].map(([, name]) => name!);
}

/** Text as nbformat keeps it: a list of lines, each with its end. */
export function lines(text: string): string[] {
  return text === "" ? [] : text.split(/(?<=\n)/);
}

/** The whole text of what nbformat keeps as lines. */
export function joined(text: string | string[]): string {
  return Array.isArray(text) ? text.join("") : text;
}

function isCell(value: unknown): boolean {
  const cell = value as Partial<CodeCell> | null;
  if (typeof cell !== "object" || cell === null) return false;
  if (cell.cell_type !== "code") return true;
  const isText = typeof cell.source === "string" ||
    (Array.isArray(cell.source) && cell.source.every((line) => typeof line === "string"));
  return isText && Array.isArray(cell.outputs);
}
