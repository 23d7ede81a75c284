import type { RunEvent, RunStatus } from "./_types.ts";

/** Where progress is shown: stderr, as a rule. */
export interface TextSink {
  write(text: string): void;
  /** Whether lines can be rewritten. */
  readonly interactive: boolean;
  /** Characters per line. */
  readonly columns: number;
}

/** Without a terminal, a line at least so often, in milliseconds. */
const PLAIN_INTERVAL = 5000;
const REDRAW_INTERVAL = 200;

/**
 * Shows a run in a terminal: a line for the whole and one per worker, rewritten in place; where lines cannot be
 * rewritten (a log file), a line for each finished trial and one at least every five seconds.
 *
 * ```ts
 * import { TerminalProgress } from "@normlab/normlab/experiment";
 * const sink = { write: (text: string) => console.log(text), interactive: false, columns: 80 };
 * using progress = new TerminalProgress(sink);
 * // await runExperiment({ experiment, scale: "smoke", onProgress: progress.show });
 * console.log(typeof progress.show);
 * ```
 */
export class TerminalProgress {
  readonly #sink: TextSink;
  readonly #workers = new Map<number, { trial: string; fraction: number; note: string }>();
  readonly #timer: ReturnType<typeof setInterval>;
  #title = "";
  #status: RunStatus | undefined;
  #drawn = 0;
  #last = -Infinity;

  constructor(sink: TextSink) {
    this.#sink = sink;
    this.#timer = setInterval(() => this.#refresh(), sink.interactive ? REDRAW_INTERVAL : PLAIN_INTERVAL);
  }

  /** Takes an event: give it to `runExperiment` as `onProgress`. */
  readonly show = (event: RunEvent): void => {
    this.#status = event.status;
    switch (event.kind) {
      case "fetch":
        this.#title = `${event.experiment} ${event.scale}`;
        if (performance.now() - this.#last >= PLAIN_INTERVAL) this.#log(`${this.#title}: ${event.note}`);
        return;
      case "prepare":
        this.#title = `${event.experiment} ${event.scale}`;
        return this.#log(`${this.#title}: loading backend ${event.backend}`);
      case "warning":
        return this.#log(`warning: ${event.message}`);
      case "trial start":
        this.#workers.set(event.worker, { trial: event.trial, fraction: 0, note: "" });
        break;
      case "progress":
        this.#workers.set(event.worker, event);
        break;
      case "trial end":
      case "trial failed": {
        const note = this.#workers.get(event.worker)?.note ?? "";
        this.#workers.delete(event.worker);
        const how = event.kind === "trial failed"
          ? `FAILED: ${event.reason.split("\n")[0]}`
          : `${duration(event.seconds)}  ${note}`;
        return this.#log(`${this.#summary()}  ${event.trial}  ${how}`);
      }
      case "end":
        return this.#erase();
    }
    const interval = this.#sink.interactive ? REDRAW_INTERVAL : PLAIN_INTERVAL;
    if (performance.now() - this.#last >= interval) this.#refresh();
  };

  /** Ends the drawing. */
  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#erase();
  }

  #summary(): string {
    if (this.#status === undefined) return this.#title;
    const { done, total, failed, progressed, elapsedSeconds, remainingSeconds } = this.#status;
    const rate = elapsedSeconds > 0 ? (progressed / elapsedSeconds) * 60 : 0;
    const parts = [`${this.#title}: ${done}/${total} trials`];
    if (failed > 0) parts.push(`${failed} failed`);
    if (progressed > 0) parts.push(`${rate < 10 ? rate.toFixed(1) : Math.round(rate)}/min`);
    if (Number.isFinite(remainingSeconds)) parts.push(`${duration(remainingSeconds)} left`);
    return parts.join(", ");
  }

  #workerLine(worker: number): string {
    const { trial, fraction, note } = this.#workers.get(worker)!;
    return `[${worker}] ${trial} ${Math.floor(100 * fraction)}% ${note}`.trimEnd();
  }

  /** A line that stays. */
  #log(line: string): void {
    this.#erase();
    this.#sink.write(`${line}\n`);
    this.#last = performance.now();
    if (this.#sink.interactive) this.#refresh();
  }

  #refresh(): void {
    if (this.#workers.size === 0) return;
    this.#last = performance.now();
    const workers = [...this.#workers.keys()].sort((a, b) => a - b).map((worker) => this.#workerLine(worker));
    if (!this.#sink.interactive) {
      this.#sink.write(`${[this.#summary(), ...workers].join("  ")}\n`);
      return;
    }
    this.#erase();
    const lines = [this.#summary(), ...workers.map((line) => `  ${line}`)];
    this.#sink.write(lines.map((line) => `${line.slice(0, this.#sink.columns - 1)}\n`).join(""));
    this.#drawn = lines.length;
  }

  /** Moves up over the lines that are to be rewritten and clears from there. */
  #erase(): void {
    if (this.#drawn > 0) this.#sink.write(`\x1b[${this.#drawn}A\x1b[0J`);
    this.#drawn = 0;
  }
}

/** Seconds as a person says them: `4.2 s`, `3 min 05 s`, `2 h 10 min`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "unknown";
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n: number) => String(n).padStart(2, "0");
  return hours > 0 ? `${hours} h ${two(minutes)} min` : `${minutes} min ${two(rest)} s`;
}
