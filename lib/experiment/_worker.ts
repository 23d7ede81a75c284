/** A worker process: prepares a backend once, then runs the trials that its coordinator sends. */
import { writeSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { decodeMessage, encodeMessage, type FromWorker, toWire, type ToWorker } from "./_protocol.ts";
import { describe, runTrial } from "./_trial.ts";
import type { BackendSummary, Experiment } from "./_types.ts";

// What an experiment or a library prints goes to stderr, whose tail is kept for the report of a failure.
console.log =
  console.info =
  console.debug =
  console.warn =
    console.error;

let prepared: { experiment: Experiment; backend: BackendSummary } | undefined;

const watchdog = new Worker(new URL("./_watchdog.ts", import.meta.url));
watchdog.on("message", async (line: string) => {
  try {
    await answer(decodeMessage<ToWorker>(line));
  } catch (error) {
    send({ type: "failed", ...describe(error) });
  }
});

async function answer(message: ToWorker | undefined): Promise<void> {
  if (message?.type === "prepare") {
    const experiment = await findExperiment(message.module, message.experiment);
    prepared = { experiment, backend: await experiment.prepare(message.backend) };
    send({ type: "ready", backend: prepared.backend });
  }
  if (message?.type === "run" && prepared !== undefined) {
    const { trial, scale, options } = message;
    const onProgress = (fraction: number, note: string) => send({ type: "progress", fraction, note });
    // Nobody aborts this signal: to stop a worker process, its coordinator ends it.
    const { signal } = new AbortController();
    const result = await runTrial({ ...prepared, trial, scale, options, signal, onProgress });
    send({ type: "done", result: toWire(result) });
  }
}

async function findExperiment(module: string, id: string): Promise<Experiment> {
  const exported = Object.values(await import(module)) as unknown[];
  const found = exported.find((value) => (value as Experiment | null)?.id === id);
  if (found === undefined) {
    throw new RangeError(`Cannot run '${id}' as its module must export it: current module is ${module}`);
  }
  return found as Experiment;
}

/** Written synchronously: a trial that never yields still shows progress. */
function send(message: FromWorker): void {
  const bytes = new TextEncoder().encode(encodeMessage(message));
  for (let done = 0; done < bytes.length;) done += writeSync(1, bytes, done);
}
