import type { RunEvent, RunStatus } from "./_types.ts";

type Bare<E> = E extends unknown ? Omit<E, "status"> : never;

/** Counts what happens in a run, and adds where the run stands to each event. */
export class ProgressTracker {
  readonly #total: number;
  readonly #watch: (event: RunEvent) => void;
  readonly #fractions = new Map<number, number>();
  #began = performance.now();
  #stored = 0;
  #todo = 0;
  #ran = 0;
  #failed = 0;

  constructor(total: number, watch: (event: RunEvent) => void) {
    this.#total = total;
    this.#watch = watch;
  }

  /** Starts the clock of the time left: `todo` trials will be run now, `stored` are there. */
  start(stored: number, todo: number): void {
    this.#stored = stored;
    this.#todo = todo;
    this.#began = performance.now();
  }

  emit(event: Bare<RunEvent>): void {
    if (event.kind === "trial start") this.#fractions.set(event.worker, 0);
    if (event.kind === "progress") this.#fractions.set(event.worker, event.fraction);
    if (event.kind === "trial end" || event.kind === "trial failed") {
      this.#fractions.delete(event.worker);
      if (event.kind === "trial end") this.#ran++;
      else this.#failed++;
    }
    this.#watch({ ...event, status: this.status() } as RunEvent);
  }

  status(): RunStatus {
    const partial = [...this.#fractions.values()].reduce((sum, fraction) => sum + fraction, 0);
    const progressed = this.#ran + this.#failed + partial;
    const elapsedSeconds = (performance.now() - this.#began) / 1000;
    return {
      total: this.#total,
      done: this.#stored + this.#ran,
      failed: this.#failed,
      progressed,
      elapsedSeconds,
      remainingSeconds: progressed > 0 ? (elapsedSeconds * (this.#todo - progressed)) / progressed : NaN,
    };
  }
}
