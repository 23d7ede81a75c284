/**
 * What coordinator and worker process say to each other: one JSON message per line. The worker's lines start
 * with a mark, because libraries print to stdout too.
 */
import type { BackendSummary, Row, Scale, Trial } from "./_types.ts";

/** From the coordinator, on the worker's stdin. */
export type ToWorker =
  | {
    readonly type: "prepare";
    readonly module: string;
    readonly experiment: string;
    readonly backend: string;
  }
  | {
    readonly type: "run";
    readonly trial: Trial;
    readonly scale: Scale;
    readonly options: Readonly<Record<string, string>>;
  };

/** From the worker, on its stdout. */
export type FromWorker =
  | { readonly type: "ready"; readonly backend: BackendSummary }
  | { readonly type: "progress"; readonly fraction: number; readonly note: string }
  | { readonly type: "done"; readonly result: WireResult }
  | { readonly type: "failed"; readonly message: string; readonly stack: string };

/** What a finished trial leaves behind. */
export interface TrialResult {
  readonly rows: readonly Row[];
  readonly notes: Readonly<Record<string, string | number>>;
  /** ISO 8601, UTC. */
  readonly start: string;
  readonly seconds: number;
  readonly peakMiB: number;
}

/** A result in JSON, which has no NaN, infinities or negative zero: those travel as strings. */
export type WireResult = Omit<TrialResult, "rows"> & {
  readonly rows: readonly (readonly [step: number, metric: string, value: number | string])[];
};

/** ASCII record separator, as in RFC 7464: starts each line that is a message. */
const MARK = "\u001e";

export function encodeMessage(message: FromWorker | ToWorker): string {
  return `${MARK}${JSON.stringify(message)}\n`;
}

/** The message in `line`, or undefined where the line is something else that was printed. */
export function decodeMessage<T extends FromWorker | ToWorker>(line: string): T | undefined {
  return line.startsWith(MARK) ? JSON.parse(line.slice(1)) as T : undefined;
}

export function toWire(result: TrialResult): WireResult {
  return {
    ...result,
    rows: result.rows.map(({ step, metric, value }) => [
      step,
      metric,
      Number.isFinite(value) && !Object.is(value, -0) ? value : Object.is(value, -0) ? "-0" : String(value),
    ]),
  };
}

export function fromWire(result: WireResult): TrialResult {
  return {
    ...result,
    rows: result.rows.map(([step, metric, value]) => ({ step, metric, value: Number(value) })),
  };
}

/** Splits a stream of chunks into lines. */
export class LineSplitter {
  #rest = "";
  readonly #decoder = new TextDecoder();

  /** The lines that `chunk` completes. */
  push(chunk: Uint8Array): string[] {
    const lines = (this.#rest + this.#decoder.decode(chunk, { stream: true })).split("\n");
    this.#rest = lines.pop() ?? "";
    return lines;
  }
}
