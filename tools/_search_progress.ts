import type { SearchProgress } from "../lib/evolution/mod.ts";
import { duration, type TextSink } from "../lib/experiment/mod.ts";
import { progressWords } from "../experiments/evonorm/search.ts";

/** Without a terminal, a line at least so often, in milliseconds. */
const PLAIN_INTERVAL = 5000;

/** Shows a search in a terminal: lines rewritten in place, or where that cannot be, one every five seconds. */
export class SearchProgressLine {
  readonly #sink: TextSink;
  #drawn = 0;
  #last = -Infinity;

  constructor(sink: TextSink) {
    this.#sink = sink;
  }

  /** Takes where the search stands: give it to `search` as `onProgress`. */
  show<G>(progress: SearchProgress<G>): void {
    this.step(progressWords(progress), pace(progress));
  }

  /** Takes where something else stands, a line or more. */
  step(...words: readonly string[]): void {
    if (!this.#sink.interactive) {
      if (performance.now() - this.#last < PLAIN_INTERVAL) return;
      this.#last = performance.now();
      this.#sink.write(`${words.join("; ")}\n`);
      return;
    }
    this.#erase();
    this.#sink.write(words.map((line) => `${line.slice(0, this.#sink.columns - 1)}\n`).join(""));
    this.#drawn = words.length;
  }

  /** A line that stays. */
  say(line: string): void {
    this.#erase();
    this.#sink.write(`${line}\n`);
  }

  /** Leaves the last state. */
  end<G>(progress: SearchProgress<G>): void {
    this.say(`${progressWords(progress)}; ${duration(progress.elapsedSeconds)}`);
  }

  /** Takes the drawing away: before anything else is written to the terminal. */
  clear(): void {
    this.#erase();
  }

  /** Ends the drawing. */
  [Symbol.dispose](): void {
    this.#erase();
  }

  #erase(): void {
    if (this.#drawn > 0) this.#sink.write(`\x1b[${this.#drawn}A\x1b[0J`);
    this.#drawn = 0;
  }
}

function pace<G>({ rate, running, remainingSeconds, seconds }: SearchProgress<G>): string {
  const parts = [`${running} running`];
  if (rate > 0) parts.push(`${(60 * rate).toFixed(rate < 1 / 6 ? 1 : 0)} layers/min`);
  parts.push(`${duration(seconds)} of evaluation`);
  if (Number.isFinite(remainingSeconds)) parts.push(`${duration(remainingSeconds)} left`);
  return parts.join(", ");
}
