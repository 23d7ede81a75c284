/**
 * Contenders of a benchmark: child processes that read one JSON request per line on stdin and answer each with one JSON line on
 * stdout. A child answers `{ "error": "..." }` to what it cannot do; lines of its stdout that are not JSON objects pass to stderr.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import process from "node:process";
import { createInterface } from "node:readline";

/** What went wrong so far, for the end of a run: a contender that failed must not go unnoticed among hundreds of lines. */
export const problems: string[] = [];

/** Says that something went wrong, now and at the end. */
export function report(problem: string): void {
  console.error(problem);
  problems.push(problem);
}

/** What a contender answers to a request to measure: times in milliseconds, and more. */
export interface Timing {
  milliseconds: number[];
  /** Memory layout that was timed, where a contender has a choice. */
  layout?: string;
  /** What computed: versions, device. */
  version?: string;
}

/** How a contender's process starts. */
export interface ContenderSettings {
  /** How the contender is called in the tables. */
  name: string;
  command: string;
  args: readonly string[];
  /** Variables on top of those of this process. */
  env?: Readonly<Record<string, string>>;
}

/** One process that takes part in a benchmark. It starts with the first request. */
export class Contender {
  readonly name: string;
  readonly #settings: ContenderSettings;
  #child: ChildProcess | undefined;
  #lines: AsyncIterator<string> | undefined;

  constructor(settings: ContenderSettings) {
    this.name = settings.name;
    this.#settings = settings;
  }

  /**
   * Sends a request and waits for the answer.
   * @throws {Error} if the process ends, or answers with an error
   */
  async ask<Answer>(request: object): Promise<Answer> {
    this.#start();
    this.#child!.stdin!.write(JSON.stringify(request) + "\n");
    while (true) {
      const { value, done } = await this.#lines!.next();
      if (done) throw new Error(`Cannot measure ${this.name} as its process must answer: it ended`);
      if (!value.startsWith("{")) {
        console.error(value);
        continue;
      }
      const answer = JSON.parse(value) as Answer & { error?: string };
      if (answer.error !== undefined) throw new Error(`Cannot measure ${this.name}: ${answer.error}`);
      return answer;
    }
  }

  /** Ends the process and waits for its end. */
  async close(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    child.stdin!.end();
    await once(child, "exit");
  }

  #start(): void {
    if (this.#child !== undefined) return;
    const { command, args, env } = this.#settings;
    const child = spawn(command, args, {
      stdio: ["pipe", "pipe", "inherit"],
      env: { ...process.env, ...env },
    });
    // A command that is not there, or a pipe that broke: the next answer is then missing, which says so.
    child.on("error", (error) => console.error(`${this.name}: ${error.message}`));
    child.stdin.on("error", () => {});
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }
}

/** The child's side: answers each request on stdin, until stdin ends. What the handler throws becomes an error answer. */
export async function serve<Request>(handle: (request: Request) => object | Promise<object>): Promise<void> {
  for await (const line of createInterface({ input: process.stdin })) {
    let answer: object;
    try {
      answer = await handle(JSON.parse(line) as Request);
    } catch (error) {
      answer = { error: error instanceof Error ? error.message : String(error) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
}

/**
 * Asks every contender in turn, `rounds` times over, so that a noisy machine slows all alike; the times of a contender are those of
 * all its rounds. A contender that fails is reported and is missing from the result.
 */
export async function alternate<Answer extends Timing>(
  contenders: readonly Contender[],
  request: object,
  rounds: number,
): Promise<Map<string, Answer>> {
  const answers = new Map<string, Answer>();
  const failed = new Set<string>();
  for (let round = 0; round < rounds; round++) {
    for (const contender of contenders) {
      const { name } = contender;
      if (failed.has(name)) continue;
      try {
        const answer = await contender.ask<Answer>(request);
        const before = answers.get(name);
        const milliseconds = [...before?.milliseconds ?? [], ...answer.milliseconds];
        answers.set(name, { ...before, ...answer, milliseconds });
      } catch (error) {
        report((error as Error).message);
        failed.add(name);
        answers.delete(name);
      }
    }
  }
  return answers;
}

/** The middle one of these numbers (the upper one of two). */
export function median(numbers: readonly number[]): number {
  return quantile(numbers, 0.5);
}

/** The number below which a share `q` of these numbers lies. */
export function quantile(numbers: readonly number[], q: number): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? NaN;
}

/** exp of the mean logarithm. */
export function geometricMean(numbers: readonly number[]): number {
  return Math.exp(numbers.reduce((sum, number) => sum + Math.log(number), 0) / numbers.length);
}
