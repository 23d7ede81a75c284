/**
 * Keeps the house in order: `deno run --allow-read tools/lint_rooms.ts [ROOT]`.
 *
 * Rooms (lib/<room>) import each other only along the arrows below and only through `mod.ts`; `_name.ts` files stay
 * private to their room; the library touches `Deno` in two files; nothing draws from `Math.random`; no file is too long
 * to read in one sitting. Prints `file:line: message` for each problem and exits 1 if there is any.
 */

import { readdir, readFile } from "node:fs/promises";
import { join, posix, relative, sep } from "node:path";
import process from "node:process";
import { maskSource } from "./_mask.ts";

/** Which rooms a room may import. Arrows point down only. */
const arrows: Readonly<Record<string, readonly string[]>> = {
  graph: [],
  wasm: [],
  convolution: ["wasm"],
  tensor: ["wasm", "convolution"],
  experiment: [],
  figures: [],
  compile: ["graph", "wasm"],
  evolution: ["graph"],
  layers: ["graph", "compile", "tensor"],
  attention: ["tensor", "wasm"],
  models: ["layers", "attention", "graph", "tensor"],
  diffusion: ["tensor"],
  train: ["tensor"],
  data: ["tensor"],
  report: ["experiment", "figures"],
};

/** The files of the library that may know their host: versions and workers; foreign functions. */
const hostFiles = ["lib/experiment/_host.ts", "lib/tensor/_onednn_library.ts"];
const packageName = "@normlab/normlab/";
const searched = ["lib", "experiments", "tools", "bench", "notebooks", "tests"];
const seeded = ["lib", "experiments"];
const readable = ["lib", "experiments", "tools"];
const mostLines = 400;

/** A broken rule: where and which. */
export interface Problem {
  readonly file: string;
  readonly line: number;
  readonly message: string;
}

/** Checks every TypeScript and JavaScript file of the project at `root`. */
export async function lintRooms(root: string): Promise<{ files: number; problems: Problem[] }> {
  const files = (await Promise.all(searched.map((folder) => sourceFiles(root, folder)))).flat().sort();
  const problems: Problem[] = [];
  for (const file of files) problems.push(...lintFile(file, await readFile(join(root, file), "utf8")));
  return { files: files.length, problems };
}

/** Checks one file; `file` is its path in the project, with slashes. */
export function lintFile(file: string, source: string): Problem[] {
  const problems: Problem[] = [];
  const { code, strings } = maskSource(source);
  const report = (at: number, message: string) =>
    problems.push({ file, line: source.slice(0, at).split("\n").length, message });

  for (const { at, specifier } of imports(code, strings)) {
    const target = projectPath(file, specifier);
    const message = target && importProblem(file, target);
    if (message) report(at, message);
  }
  const inFolder = (folders: readonly string[]) => folders.includes(file.split("/")[0]!);
  if (inFolder(["lib"]) && !hostFiles.includes(file)) {
    for (const { index } of code.matchAll(/\bDeno\b(?!\s*:)/g)) {
      report(index, `the library touches Deno only in ${hostFiles.join(" and ")}`);
    }
  }
  if (inFolder(seeded)) {
    for (const { index } of code.matchAll(/\bMath\s*\.\s*random\b/g)) {
      report(index, "Math.random cannot be repeated: draw from a stream");
    }
  }
  const lines = source.split("\n").length - (source.endsWith("\n") ? 1 : 0);
  if (inFolder(readable) && lines > mostLines) {
    report(source.length, `${lines} lines, more than ${mostLines}: split the file`);
  }
  return problems;
}

/** What is wrong with `file` importing `target`, both paths in the project; undefined if nothing. */
function importProblem(file: string, target: string): string | undefined {
  const room = roomOf(target);
  const here = roomOf(file);
  if (here !== undefined && !(here in arrows)) {
    return `lib/${here} is not in the table of rooms of tools/lint_rooms.ts`;
  }
  if (room === undefined) {
    const outside = here !== undefined && !target.startsWith("lib/") && !target.endsWith(".json");
    return outside ? `lib imports nothing outside of lib: ${target}` : undefined;
  }
  if (room === here) return undefined;
  if (here !== undefined && !arrows[here]!.includes(room)) {
    return `room ${here} may import ${arrows[here]!.join(", ") || "no other room"}, not ${room}`;
  }
  if (file.startsWith("tests/")) return undefined;
  if (posix.basename(target).startsWith("_")) return `${target} is private to room ${room}`;
  if (target !== `lib/${room}/mod.ts`) return `import room ${room} through lib/${room}/mod.ts, not ${target}`;
  return undefined;
}

/** The room a path lies in: lib/<room>/... */
function roomOf(path: string): string | undefined {
  const [lib, room, ...rest] = path.split("/");
  return lib === "lib" && rest.length > 0 ? room : undefined;
}

/** Where a specifier leads inside of the project; undefined for packages and built-ins. */
function projectPath(file: string, specifier: string): string | undefined {
  if (specifier.startsWith(packageName)) return `lib/${specifier.slice(packageName.length)}/mod.ts`;
  if (!specifier.startsWith("./") && !specifier.startsWith("../")) return undefined;
  return posix.join(posix.dirname(file), specifier);
}

/** The module specifiers of imports and exports, dynamic and type-only ones too. */
function* imports(
  code: string,
  strings: ReadonlyMap<number, string>,
): Generator<{ at: number; specifier: string }> {
  for (const match of code.matchAll(/(?<![.\w$])(?:from|import)\s*\(?\s*(?=["'])/g)) {
    const at = match.index + match[0].length;
    yield { at, specifier: strings.get(at)! };
  }
}

async function sourceFiles(root: string, folder: string): Promise<string[]> {
  const entries = await readdir(join(root, folder), { withFileTypes: true, recursive: true }).catch(() => []);
  return entries
    .filter((entry) => entry.isFile() && /\.(ts|tsx|mts|js|mjs)$/.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join("/"))
    .filter((path) => !/(^|\/)(node_modules|\.[^/]+)\//.test(path) && !path.includes(".tmp."));
}

if (import.meta.main) {
  const root = process.argv[2] ?? join(import.meta.dirname!, "..");
  const { files, problems } = await lintRooms(root);
  for (const { file, line, message } of problems) console.error(`${file}:${line}: ${message}`);
  console.log(`rooms: ${files} files, ${problems.length} problems`);
  if (problems.length > 0) process.exit(1);
}
