/** Where the graph commands get layers from: names of published ones, and JSON files. */
import { readFileSync, statSync } from "node:fs";
import { basename } from "node:path";
import { type NamedLayer, published, publishedLayer, validate } from "../lib/graph/mod.ts";
import { UsageError } from "./_cli.ts";

/** Most bytes of a file that is read. */
const mostBytes = 16 << 20;

/** How layers are named on the command line. */
export const layerHelp =
  `  LAYER is the name of a published layer, or a JSON file: a graph {"nodes": [...]}, or a layer
  {"name", "graph", "post", "epsilon"} of which only the graph must be there. FILE#2 and FILE#NAME
  take one out of a file with a list of them ([...] or {"layers": [...]}), counted from 0.
  Published: ${wrapped(Object.keys(published), 86).join("\n             ")}`;

function wrapped(words: readonly string[], width: number): string[] {
  const lines = [""];
  words.forEach((word, k) => {
    const text = k === words.length - 1 ? word : `${word}, `;
    if (lines.at(-1)!.length + text.length > width) lines.push("");
    lines[lines.length - 1] += text;
  });
  return lines.map((line) => line.trimEnd());
}

/**
 * The layer that an argument names.
 *
 * @throws UsageError if it is neither a published layer nor a file; Error, TypeError, RangeError or SyntaxError that
 * begin with "Cannot" if the file holds no layer.
 */
export function layerFrom(argument: string | undefined, what = "A layer"): NamedLayer {
  if (argument === undefined) {
    throw new UsageError(`${what} must be named: a published layer or a JSON file`);
  }
  if (Object.hasOwn(published, argument)) return publishedLayer(argument);
  const at = argument.lastIndexOf("#");
  const [file, entry] = at === -1 || isFile(argument)
    ? [argument, undefined]
    : [argument.slice(0, at), argument.slice(at + 1)];
  if (!isFile(file)) {
    const names = Object.keys(published).join(", ");
    throw new UsageError(`There is no layer and no file '${file}'. Published layers: ${names}`);
  }
  return inFile(
    file,
    () => layerOf(pick(parsed(file), entry), basename(argument).replace(/\.json(?=$|#)/, "")),
  );
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}

function parsed(file: string): unknown {
  const { size } = statSync(file);
  if (size > mostBytes) {
    throw new RangeError(
      `Cannot read the file as it must have at most ${mostBytes} bytes: current size is ${size}`,
    );
  }
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new Error(`Cannot read the file: ${(error as Error).message}`, { cause: error });
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    const start = JSON.stringify(text.slice(0, 40));
    throw new SyntaxError(`Cannot read the file as it must be JSON: current text begins ${start}`, {
      cause: error,
    });
  }
}

/** The entry of a list, by place or name; the value itself where it is no list. */
function pick(value: unknown, entry: string | undefined): unknown {
  const list = Array.isArray(value) ? value : field(value, "layers");
  if (!Array.isArray(list)) {
    if (entry === undefined) return value;
    throw new TypeError(
      `Cannot take '${entry}' out of the file as it must hold a list: current value is no list`,
    );
  }
  const names = list.map((one, k) => String(field(one, "name") ?? k));
  if (entry === undefined && list.length === 1) return list[0];
  const found = names.indexOf(entry ?? "");
  const place = found === -1 && /^\d+$/.test(entry ?? "") ? Number(entry) : found;
  if (place < 0 || place >= list.length) {
    const shown = names.slice(0, 20).join(", ") + (names.length > 20 ? ", ..." : "");
    throw new RangeError(
      `Cannot choose a layer as FILE#NAME must name one of ${shown}: current name is ${entry ?? "missing"}`,
    );
  }
  return list[place];
}

function layerOf(value: unknown, fileName: string): NamedLayer {
  const text = (key: string) => {
    const one = field(value, key);
    return typeof one === "string" && one !== "" ? one : undefined;
  };
  const name = text("name") ?? fileName;
  const inner = field(value, "graph");
  if (inner === undefined) return { name, graph: validate(value) };
  const post = field(value, "post"), epsilon = field(value, "epsilon");
  if (epsilon !== undefined && !(typeof epsilon === "number" && epsilon > 0 && epsilon < 1)) {
    throw new RangeError(
      `Cannot read the layer as 'epsilon' must be a number between 0 and 1: current 'epsilon' is ${
        JSON.stringify(epsilon)
      }`,
    );
  }
  const source = text("source");
  return {
    name,
    graph: validate(inner),
    ...(post !== undefined && { post: validate(post) }),
    ...(epsilon !== undefined && { epsilon }),
    ...(source !== undefined && { source }),
  };
}

function field(value: unknown, key: string): unknown {
  return typeof value === "object" && value !== null && Object.hasOwn(value, key)
    ? (value as Record<string, unknown>)[key]
    : undefined;
}

/** Errors about a file's content say which file it was. */
function inFile<T>(file: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof Error) error.message += ` (in ${file})`;
    throw error;
  }
}
