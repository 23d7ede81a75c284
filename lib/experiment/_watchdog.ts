/**
 * The thread of a worker process that reads its stdin: it passes lines on, and when the coordinator is gone (the
 * pipe is closed) it ends the process at once, however deep in arithmetic the main thread is. Nothing is lost:
 * a worker writes no file.
 */
import { readSync } from "node:fs";
import process from "node:process";
import { parentPort } from "node:worker_threads";
import { LineSplitter } from "./_protocol.ts";

const chunk = new Uint8Array(1 << 16);
const splitter = new LineSplitter();
for (;;) {
  const length = readSync(0, chunk);
  if (length === 0) process.kill(process.pid, "SIGKILL");
  for (const line of splitter.push(chunk.subarray(0, length))) parentPort?.postMessage(line);
}
