/** What the commands share: arguments, errors, the terminal. */
import process from "node:process";
import { pathToFileURL } from "node:url";
import { resolve } from "node:path";
import { parseArgs, type ParseArgsConfig } from "node:util";
import {
  type Experiment,
  resolveOptions,
  type Scale,
  SCALES,
  TerminalProgress,
  trialsOf,
} from "../lib/experiment/mod.ts";

/** Backends that can be asked for; an experiment's `prepare` says whether one is there. */
export const BACKENDS: readonly string[] = ["auto", "wasm", "tensorflow", "webgpu"];

/** The command line was wrong: shown without a stack, exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** A command of the command line. */
export interface Command {
  readonly name: string;
  /** Arguments after the name, as shown in the help. */
  readonly usage: string;
  /** One line. */
  readonly summary: string;
  readonly help: string;
  /** Returns the exit code. */
  run(args: readonly string[], context: CommandContext): Promise<number>;
}

/** What a command is given apart from its arguments. */
export interface CommandContext {
  readonly experiments: readonly Experiment[];
  /** Aborted by Ctrl+C. */
  readonly signal: AbortSignal;
}

type Options = NonNullable<ParseArgsConfig["options"]>;

/** Arguments that several commands take. */
export const RESULTS = { results: { type: "string", default: "results" } } as const satisfies Options;
export const WORKERS = { workers: { type: "string" } } as const satisfies Options;

/** Parses arguments; throws {@link UsageError} that lists the options there are. */
export function parse<const T extends Options>(
  args: readonly string[],
  options: T,
  positionals: readonly string[],
) {
  try {
    const parsed = parseArgs({ args: [...args], options, allowPositionals: true, strict: true });
    if (parsed.positionals.length > positionals.length) {
      throw new Error(`Unexpected argument '${parsed.positionals[positionals.length]}'`);
    }
    return parsed;
  } catch (error) {
    const names = Object.keys(options).map((name) => `--${name}`).join(", ");
    const message = (error as Error).message.split(". To specify")[0];
    throw new UsageError(`${message}. Options of this command: ${names === "" ? "none" : names}`);
  }
}

export function findExperiment(experiments: readonly Experiment[], id: string | undefined): Experiment {
  const names = experiments.map((experiment) => experiment.id).join(", ");
  if (id === undefined) throw new UsageError(`An experiment must be named: one of ${names}`);
  const found = experiments.find((experiment) => experiment.id === id);
  if (found === undefined) throw new UsageError(`There is no experiment '${id}': there are ${names}`);
  return found;
}

export function checkedScale(text: string): Scale {
  const scale = SCALES.find((one) => one === text);
  if (scale === undefined) {
    throw new UsageError(`There is no scale '${text}': there are ${SCALES.join(", ")}`);
  }
  return scale;
}

export function checkedBackend(text: string): string {
  if (BACKENDS.includes(text)) return text;
  throw new UsageError(`There is no backend '${text}': there are ${BACKENDS.join(", ")}`);
}

/** The experiment's scale and options, checked before anything is started. Throws {@link UsageError}. */
export function checkedSetting(experiment: Experiment, scale: Scale, options: Record<string, string>): void {
  try {
    trialsOf(experiment, scale, resolveOptions(experiment, options));
  } catch (error) {
    if (error instanceof RangeError) throw new UsageError(error.message);
    throw error;
  }
}

/** A whole number from `least`; undefined where the option was not given. */
export function wholeNumber(name: string, text: string | undefined, least: number): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (Number.isInteger(value) && value >= least && text.trim() !== "") return value;
  throw new UsageError(`--${name} must be a whole number from ${least}: current one is '${text}'`);
}

/** `key=value` pairs. */
export function keyValues(pairs: readonly string[]): Record<string, string> {
  return Object.fromEntries(pairs.map((pair) => {
    const at = pair.indexOf("=");
    if (at < 1) throw new UsageError(`--option must be key=value: current one is '${pair}'`);
    return [pair.slice(0, at), pair.slice(at + 1)];
  }));
}

/** The experiments that a module exports as `experiments`. */
export async function loadRegistry(file: string | undefined): Promise<readonly Experiment[]> {
  const module = file === undefined
    ? new URL("../experiments/mod.ts", import.meta.url).href
    : pathToFileURL(resolve(file)).href;
  const { experiments } = await import(module) as { experiments: readonly Experiment[] };
  return experiments;
}

/** Progress on stderr, so that stdout holds results only. */
export function terminalProgress(): TerminalProgress {
  const { stderr } = process;
  return new TerminalProgress({
    write: (text) => stderr.write(text),
    interactive: stderr.isTTY === true,
    get columns() {
      return stderr.columns ?? 80;
    },
  });
}

export function print(...lines: readonly string[]): void {
  console.log(lines.join("\n"));
}
