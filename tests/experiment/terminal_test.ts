import assert from "node:assert/strict";
import { duration, type RunEvent, TerminalProgress } from "../../lib/experiment/mod.ts";

const status = { total: 4, done: 1, failed: 0, progressed: 1.5, elapsedSeconds: 30, remainingSeconds: 50 };
const base = { status, worker: 0, trial: "s0-seed1" };
const events: RunEvent[] = [
  { kind: "prepare", status, experiment: "toy", scale: "smoke", backend: "wasm" },
  { kind: "start", status, experiment: "toy", scale: "smoke", workers: 1 },
  { kind: "trial start", ...base },
  { kind: "progress", ...base, fraction: 0.5, note: "loss 1.2" },
  { kind: "trial end", ...base, seconds: 65 },
  { kind: "end", status },
];

function shown(interactive: boolean): string {
  let text = "";
  using progress = new TerminalProgress({ write: (more) => void (text += more), interactive, columns: 60 });
  for (const event of events) {
    progress.show(event);
    // Drawing is limited to five times a second.
    for (const end = performance.now() + 210; interactive && performance.now() < end;);
  }
  return text;
}

Deno.test("without a terminal: plain lines, one per finished trial", () => {
  assert.deepEqual(shown(false).trimEnd().split("\n"), [
    "toy smoke: loading backend wasm",
    "toy smoke: 1/4 trials, 3.0/min, 50.0 s left  s0-seed1  1 min 05 s  loss 1.2",
  ]);
});

Deno.test("without a terminal: a line at least every five seconds, with every worker", async () => {
  let text = "";
  using progress = new TerminalProgress({
    write: (more) => void (text += more),
    interactive: false,
    columns: 60,
  });
  events.slice(0, 4).forEach(progress.show);
  await new Promise((resolve) => setTimeout(resolve, 5200));
  assert.match(text, /backend wasm\ntoy smoke: 1\/4 trials, .*\[0\] s0-seed1 50% loss 1\.2\n/);
});

Deno.test("in a terminal: lines are rewritten, cut to its width, and gone at the end", () => {
  const text = shown(true);
  assert.ok(text.includes("\x1b[2A"), "moves up over two lines");
  // A terminal in small: erase what the cursor moved up over.
  const screen: string[] = [];
  for (const part of text.split(new RegExp("(\x1b\\[\\d+A\x1b\\[0J|\n)"))) {
    const up = new RegExp("^\x1b\\[(\\d+)A").exec(part);
    if (up !== null) screen.splice(-Number(up[1]));
    else if (part !== "\n" && part !== "") screen.push(part);
  }
  assert.equal(screen.length, 2);
  assert.match(screen[1]!, /s0-seed1 {2}1 min 05 s/);
});

Deno.test("durations as a person says them", () => {
  assert.equal(duration(4.21), "4.2 s");
  assert.equal(duration(59.97), "1 min 00 s");
  assert.equal(duration(3599.7), "1 h 00 min");
  assert.equal(duration(7805), "2 h 10 min");
  assert.equal(duration(NaN), "unknown");
});
