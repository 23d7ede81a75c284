import {
  InlineRunner,
  type LaunchSettings,
  ProcessRunner,
  TrialFailure,
  type TrialRunner,
  WorkerDeath,
} from "./_launch.ts";
import type { TrialResult } from "./_protocol.ts";
import type { BackendSummary, Trial } from "./_types.ts";

/** What a pool tells about the trials it runs. `worker` counts from 0. */
export interface PoolWatcher {
  started(worker: number, trial: Trial): void;
  progressed(worker: number, trial: Trial, fraction: number, note: string): void;
  /** May throw, which stops the pool: there is nowhere to keep results. */
  finished(worker: number, trial: Trial, result: TrialResult): void;
  failed(worker: number, trial: Trial, reason: string): void;
  warned(message: string): void;
}

/** A trial whose process died is tried once more in a fresh one; it may have been killed by mistake. */
const ATTEMPTS = 2;

/** Runs trials on a number of workers; with 0 workers, in this process. */
export class Pool {
  readonly #settings: LaunchSettings;
  readonly #workers: number;
  readonly #running = new Set<TrialRunner>();
  #first: TrialRunner | undefined;
  #closed = false;

  constructor(settings: LaunchSettings, workers: number) {
    if (!Number.isInteger(workers) || workers < 0) {
      throw new RangeError(
        `Cannot run trials as workers must be a whole number from 0 (in this process): current workers is ${workers}`,
      );
    }
    this.#settings = settings;
    this.#workers = workers;
    settings.signal.addEventListener("abort", () => this.close(), { once: true });
  }

  /** Starts a first worker and loads the backend there. */
  async prepare(): Promise<BackendSummary> {
    const runner = this.#start();
    const summary = await this.#unlessStopped(runner.prepare());
    this.#first = runner;
    return summary;
  }

  /** Runs every trial, in order, each on the next free worker. */
  async run(trials: readonly Trial[], watcher: PoolWatcher): Promise<void> {
    const queue = [...trials];
    const count = Math.min(Math.max(1, this.#workers), queue.length);
    await Promise.all(Array.from({ length: count }, (_, worker) => this.#work(worker, queue, watcher)));
  }

  /** Ends all workers. */
  close(): void {
    this.#closed = true;
    for (const runner of this.#running) runner.close();
    this.#running.clear();
  }

  async #work(worker: number, queue: Trial[], watcher: PoolWatcher): Promise<void> {
    let runner = this.#first;
    this.#first = undefined;
    for (let trial = queue.shift(); trial !== undefined; trial = queue.shift()) {
      for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
        watcher.started(worker, trial);
        try {
          runner ??= await this.#startPrepared();
          const current = trial;
          const result = await this.#unlessStopped(
            runner.run(current, (fraction, note) => watcher.progressed(worker, current, fraction, note)),
          );
          watcher.finished(worker, trial, result);
          break;
        } catch (error) {
          if (error instanceof TrialFailure) {
            watcher.failed(worker, trial, `${error.message}\n${error.frames}`);
            break;
          }
          if (!(error instanceof WorkerDeath)) throw error;
          if (runner !== undefined) this.#running.delete(runner);
          runner = undefined;
          if (attempt === ATTEMPTS) watcher.failed(worker, trial, error.message);
          else watcher.warned(`'${trial.name}' is tried again. ${error.message}`);
        }
      }
    }
  }

  async #startPrepared(): Promise<TrialRunner> {
    const runner = this.#start();
    await this.#unlessStopped(runner.prepare());
    return runner;
  }

  #start(): TrialRunner {
    const runner = this.#workers === 0 ? new InlineRunner(this.#settings) : new ProcessRunner(this.#settings);
    this.#running.add(runner);
    return runner;
  }

  /** A worker that is ended on purpose looks like one that died: tells the two apart. */
  async #unlessStopped<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      this.#settings.signal.throwIfAborted();
      if (this.#closed) throw new Error("the pool was closed", { cause: error });
      throw error;
    }
  }
}
