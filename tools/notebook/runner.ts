/** Runs a notebook's cells on Deno's Jupyter kernel, one after the other. */

import { dirname, resolve } from "node:path";
import { Kernel, type Message, sleep } from "./_kernel.ts";
import { type CodeCell, codeCells, hasTag, type Notebook, parameterNames, sourceOf } from "./_notebook.ts";
import { OutputCollector } from "./_outputs.ts";

/** How to run a notebook. */
export interface RunOptions {
  /** Values for variables that the cell tagged "parameters" declares with `let`, set right after it. */
  readonly params?: Readonly<Record<string, string>>;
  /** Longest time for one cell, in milliseconds; default 10 minutes. */
  readonly timeout?: number;
  /**
   * How long the kernel must be silent after a cell's end, in milliseconds; default 120. It reports that it is idle
   * before the last outputs are out.
   */
  readonly settle?: number;
  /** Called when a cell has ended. */
  readonly onCell?: (cell: CellResult) => void;
}

/** How a cell ended. */
export interface CellResult {
  /** Place among all cells of the notebook, from 1. */
  readonly number: number;
  readonly source: string;
  readonly seconds: number;
  /** Why it failed: traceback, time-out, or lost kernel; absent if it passed. */
  readonly failure?: string;
}

/** How a notebook ended. */
export interface RunResult {
  readonly passed: number;
  readonly failed: number;
  /** Cells after a failed one. */
  readonly skipped: number;
}

/**
 * Runs all code cells of `notebook` (its outputs are replaced) in a kernel of its own, started in the folder of `path`
 * as Jupyter does. Stops at the first cell that fails; a cell tagged "raises-exception" may throw.
 *
 * @throws {RangeError} if a parameter is not declared in the cell tagged "parameters"
 */
export async function runNotebook(
  path: string,
  notebook: Notebook,
  options: RunOptions = {},
): Promise<RunResult> {
  const { params = {}, timeout = 600_000, settle = 120, onCell } = options;
  const cells = codeCells(notebook);
  requireParameters(notebook, params);
  const kernel = await Kernel.start(dirname(resolve(path)));
  try {
    const collector = new OutputCollector();
    const execute = new Executor(kernel, collector, timeout, settle);
    for (const { cell } of cells) Object.assign(cell, { outputs: [], execution_count: null });
    let passed = 0;
    for (const { cell, number } of cells) {
      const source = sourceOf(cell);
      const started = performance.now();
      let failure = await execute.run(source, cell);
      if (failure?.thrown && hasTag(cell, "raises-exception")) failure = undefined;
      if (!failure && hasTag(cell, "parameters")) failure = await execute.run(assignments(params));
      const seconds = (performance.now() - started) / 1000;
      onCell?.({ number, source, seconds, ...(failure ? { failure: failure.text } : {}) });
      if (failure) return { passed, failed: 1, skipped: cells.length - passed - 1 };
      passed++;
    }
    return { passed, failed: 0, skipped: 0 };
  } finally {
    await kernel.stop();
  }
}

interface Failure {
  readonly text: string;
  /** By the cell's own code, the kernel being well. */
  readonly thrown: boolean;
}

/** Executes code on a kernel and waits for its end. */
class Executor {
  #request = "";
  #idle = false;
  #reply: Message | undefined;
  #heard = 0;
  #lost: Error | undefined;

  constructor(
    readonly kernel: Kernel,
    readonly collector: OutputCollector,
    readonly timeout: number,
    readonly settle: number,
  ) {
    kernel.onMessage = (message) => {
      collector.take(message);
      this.#heard = performance.now();
      if (message.parent !== this.#request) return;
      if (message.type === "execute_reply") this.#reply = message;
      if (message.type === "status" && message.content["execution_state"] === "idle") this.#idle = true;
    };
    kernel.onEnd = (reason) => this.#lost = reason;
  }

  /** Runs code as `cell`, or unseen: without outputs, not counted. */
  async run(code: string, cell?: CodeCell): Promise<Failure | undefined> {
    this.#idle = false;
    this.#reply = undefined;
    const flags = { silent: !cell, store_history: Boolean(cell), allow_stdin: false, stop_on_error: true };
    this.#request = this.kernel.request("execute_request", { code, user_expressions: {}, ...flags });
    if (cell) this.collector.follow(this.#request, cell);
    const deadline = performance.now() + this.timeout;
    const settled = () =>
      this.#idle && this.#reply !== undefined && performance.now() - this.#heard >= this.settle;
    while (!settled()) {
      if (this.#lost) return { text: `the kernel ended: ${this.#lost.message}`, thrown: false };
      // Outputs that never stop must not keep an ended cell open: the deadline holds for them too.
      if (performance.now() > deadline) {
        if (this.#reply) break;
        return { text: `not done after ${this.timeout / 1000} s`, thrown: false };
      }
      await sleep(5);
    }
    const { status, traceback, ename, evalue } = this.#reply!.content;
    if (status === "ok") return undefined;
    const trace = Array.isArray(traceback) && traceback.length > 0
      ? traceback.join("\n")
      : `${ename}: ${evalue}`;
    return { text: trace, thrown: true };
  }
}

function requireParameters(notebook: Notebook, params: Readonly<Record<string, string>>): void {
  const tagged = codeCells(notebook).filter(({ cell }) => hasTag(cell, "parameters"));
  const declared = tagged.flatMap(({ cell }) => parameterNames(cell));
  for (const name of Object.keys(params)) {
    if (declared.includes(name)) continue;
    throw new RangeError(
      `Cannot set parameter ${name} as the cell tagged "parameters" must declare it with let: ` +
        `current parameters are ${declared.join(", ") || "none"}`,
    );
  }
}

/** Assigns parameters: as text where the variable holds text, else as the JSON value that the text spells. */
function assignments(params: Readonly<Record<string, string>>): string {
  return Object.entries(params).map(([name, value]) => {
    const text = JSON.stringify(value);
    return `${name} = typeof ${name} === "string" ? ${text} : JSON.parse(${text});`;
  }).join("\n");
}
