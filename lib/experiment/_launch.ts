import { type ChildProcess, spawn } from "node:child_process";
import process from "node:process";
import { workerCommand } from "./_host.ts";
import {
  decodeMessage,
  encodeMessage,
  fromWire,
  type FromWorker,
  LineSplitter,
  type ToWorker,
  type TrialResult,
} from "./_protocol.ts";
import type { TrialsOnDemand } from "./_on_demand.ts";
import { describe, runTrial } from "./_trial.ts";
import type { BackendSummary, Experiment, Scale, Trial } from "./_types.ts";

/** Lines of a worker's stderr that are kept for the report of its death. */
const STDERR_LINES = 20;

/** What a launcher needs to know to run trials of one experiment. */
export interface LaunchSettings {
  readonly experiment: Experiment;
  readonly scale: Scale;
  readonly options: Readonly<Record<string, string>>;
  /** A backend's name, or `auto`. */
  readonly backend: string;
  readonly signal: AbortSignal;
  /** Runs what a trial is made of, where that is not computed on the spot. */
  readonly parts?: TrialsOnDemand;
}

/** Somewhere that runs one trial at a time. */
export interface TrialRunner {
  /** Loads the backend. Call it first. Throws what the experiment's `prepare` throws. */
  prepare(): Promise<BackendSummary>;
  /** Runs a trial. Throws {@link TrialFailure} where the trial threw, {@link WorkerDeath} where its process ended. */
  run(trial: Trial, onProgress: (fraction: number, note: string) => void): Promise<TrialResult>;
  /** Of the process that it has to itself. */
  readonly pid?: number | undefined;
  /** Whether that process has ended. */
  readonly dead?: boolean;
  close(): void;
}

/** The experiment's own code threw `message`: it would do so again. */
export class TrialFailure extends Error {
  override readonly name = "TrialFailure";
  /** Where it was thrown. */
  readonly frames: string;

  constructor(message: string, frames: string) {
    super(message);
    this.frames = frames;
  }
}

/** The worker process ended under the trial: out of memory, killed, crashed. */
export class WorkerDeath extends Error {
  override readonly name = "WorkerDeath";
}

/**
 * Native libraries split sums by threads, so the number of threads is part of the arithmetic. One thread per
 * trial gives the same rows with any number of workers, and parallel trials use the cores better.
 */
const ONE_THREAD = ["TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"];

/** Runs trials in this process: for notebooks that watch one trial, debuggers, and tests. */
export class InlineRunner implements TrialRunner {
  readonly #settings: LaunchSettings;
  #backend: BackendSummary | undefined;

  constructor(settings: LaunchSettings) {
    this.#settings = settings;
  }

  async prepare(): Promise<BackendSummary> {
    const { experiment, backend, parts } = this.#settings;
    for (const name of ONE_THREAD) process.env[name] ??= "1";
    return this.#backend = await (parts === undefined ? experiment.prepare(backend) : parts.prepare());
  }

  async run(trial: Trial, onProgress: (fraction: number, note: string) => void): Promise<TrialResult> {
    const { experiment, scale, options, signal, parts } = this.#settings;
    const backend = this.#backend ?? await this.prepare();
    const runPart = parts === undefined ? {} : { runPart: (part: Trial) => parts.run(part) };
    try {
      return await runTrial({ experiment, trial, scale, backend, options, signal, onProgress, ...runPart });
    } catch (error) {
      signal.throwIfAborted();
      const { message, stack } = describe(error);
      throw new TrialFailure(message, stack);
    }
  }

  close(): void {}
}

/** Runs trials in a child process, which ends with {@link close} or with this process, however that ends. */
export class ProcessRunner implements TrialRunner {
  readonly #settings: LaunchSettings;
  readonly #child: ChildProcess;
  readonly #stderr: string[] = [];
  #receive: ((message: FromWorker) => void) | undefined;
  #fail: ((error: Error) => void) | undefined;
  #death: WorkerDeath | undefined;

  constructor(settings: LaunchSettings) {
    this.#settings = settings;
    const { command, args } = workerCommand(new URL("./_worker.ts", import.meta.url), settings.backend);
    const env = { ...Object.fromEntries(ONE_THREAD.map((name) => [name, "1"])), ...process.env };
    this.#child = spawn(command, args, { env, stdio: ["pipe", "pipe", "pipe"], windowsHide: true });
    this.#listen();
  }

  #listen(): void {
    const child = this.#child;
    const messages = new LineSplitter();
    const logs = new LineSplitter();
    const keep = (line: string) => {
      this.#stderr.push(line);
      if (this.#stderr.length > STDERR_LINES) this.#stderr.shift();
    };
    child.stdout?.on("data", (chunk: Uint8Array) => {
      for (const line of messages.push(chunk)) {
        const message = decodeMessage<FromWorker>(line);
        if (message === undefined) keep(line);
        else this.#receive?.(message);
      }
    });
    child.stderr?.on("data", (chunk: Uint8Array) => logs.push(chunk).forEach(keep));
    // A worker that dies while it is written to breaks the pipe; its 'close' event says what happened.
    child.stdin?.on("error", () => {});
    child.on("error", (error) => this.#die(`it could not be started: ${error.message}`));
    child.on("close", (code, signal) => this.#die(`it ended with ${signal ?? `exit code ${code}`}`));
  }

  #die(how: string): void {
    if (this.#death !== undefined) return;
    const tail = this.#stderr.filter((line) => line.trim() !== "");
    this.#death = new WorkerDeath([`The worker process was lost: ${how}`, ...tail].join("\n"));
    this.#fail?.(this.#death);
  }

  /** Sends a request and waits for its last answer; progress on the way goes to `onProgress`. */
  #ask(message: ToWorker, onProgress: (fraction: number, note: string) => void): Promise<FromWorker> {
    return new Promise((resolve, reject) => {
      if (this.#death !== undefined) return reject(this.#death);
      this.#fail = reject;
      this.#receive = (answer) => {
        if (answer.type === "progress") onProgress(answer.fraction, answer.note);
        else if (answer.type === "failed") reject(new TrialFailure(answer.message, answer.stack));
        else resolve(answer);
      };
      this.#child.stdin?.write(encodeMessage(message));
    });
  }

  async prepare(): Promise<BackendSummary> {
    const { experiment: { module, id }, backend } = this.#settings;
    const answer = await this.#ask({ type: "prepare", module, experiment: id, backend }, () => {});
    if (answer.type !== "ready") throw new Error(`worker answered 'prepare' with '${answer.type}'`);
    return answer.backend;
  }

  async run(trial: Trial, onProgress: (fraction: number, note: string) => void): Promise<TrialResult> {
    const { scale, options } = this.#settings;
    const answer = await this.#ask({ type: "run", trial, scale, options }, onProgress);
    if (answer.type !== "done") throw new Error(`worker answered 'run' with '${answer.type}'`);
    return fromWire(answer.result);
  }

  /** The process's number; undefined where it could not be started. */
  get pid(): number | undefined {
    return this.#child.pid;
  }

  get dead(): boolean {
    return this.#death !== undefined;
  }

  close(): void {
    this.#child.kill("SIGKILL");
  }
}
