/** Trials run one by one as they are asked for: store, workers, limits, kills. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import {
  runExperiment,
  StorageError,
  type Trial,
  TrialFailure,
  TrialsOnDemand,
  type TrialsOnDemandSettings,
  verifyResults,
  WorkerDeath,
} from "../../lib/experiment/mod.ts";
import { allGone, childrenOf, digests, temporaryFolder } from "./_helpers.ts";
import { toy } from "./_toy.ts";
import { ends } from "./_toy_parts.ts";

const linux = Deno.build.os === "linux";
const settings = { experiment: toy, scale: "smoke", backend: "toy" } as const;
const folderOf = (resultsDir: string) => join(resultsDir, "toy", "logistic", "smoke");
const trial = (growth: number, extra: Trial["params"] = {}): Trial => {
  return { name: `growth${growth}`, params: { growth, ...extra }, seed: 1 };
};

async function until(condition: () => boolean): Promise<void> {
  for (const end = performance.now() + 60_000; !condition();) {
    assert.ok(performance.now() < end, "nothing happened for a minute");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Trials with their warnings. */
function onDemand(resultsDir: string, more: Partial<TrialsOnDemandSettings> = {}) {
  const warnings: string[] = [];
  const onWarning = (message: string) => warnings.push(message);
  return { warnings, trials: new TrialsOnDemand({ ...settings, resultsDir, onWarning, ...more }) };
}

Deno.test("trials on demand: the same rows as a run's, in a worker and in this process", async () => {
  using a = temporaryFolder();
  using b = temporaryFolder();
  await runExperiment({ ...settings, workers: 0, resultsDir: a.path });
  for (const workers of [0, 2]) {
    using folder = temporaryFolder();
    using trials = onDemand(folder.path, { workers }).trials;
    const outcomes = await Promise.all(
      toy.trials("smoke", {}).map((known) => trials.run(known)),
    );
    assert.ok(outcomes.every(({ found, limit }) => !found && limit === null));
    assert.deepEqual(digests(folderOf(folder.path)), digests(folderOf(a.path)));
  }
  using trials = onDemand(a.path, { workers: 2 }).trials;
  const { rows, notes, seconds, found } = await trials.run(toy.trials("smoke", {})[0]!);
  assert.deepEqual([found, rows.length, notes["steps"]], [true, 22, 20]);
  assert.ok(seconds > 0);
  assert.equal(digests(folderOf(b.path)).size, 0);
});

Deno.test("trials on demand: what the store has needs no backend, and the same trial asked for twice is run once", async () => {
  using folder = temporaryFolder();
  let runs = 0;
  const counted = {
    ...toy,
    run(...args: Parameters<typeof toy.run>) {
      runs++;
      return toy.run(...args);
    },
  };
  using first = onDemand(folder.path, { workers: 0, experiment: counted }).trials;
  const asked = [first.run(trial(3.6)), first.run(trial(3.6)), first.run(trial(3.7))];
  const [one, same] = await Promise.all(asked);
  assert.deepEqual(one, same);
  assert.equal(runs, 2);
  const prepare = () => Promise.reject(new Error("the backend was loaded"));
  using second = onDemand(folder.path, { workers: 0, experiment: { ...toy, prepare } }).trials;
  assert.deepEqual(await second.run(trial(3.6)), { ...one, found: true });
  await assert.rejects(second.run(trial(3.65)), /the backend was loaded/);
});

Deno.test("trials on demand: several are under way at once, no more than there are workers", async () => {
  using folder = temporaryFolder();
  using trials = onDemand(folder.path, { workers: 2, options: { delay: "5" } }).trials;
  const before = childrenOf(process.pid).length;
  let most = 0;
  const watch = setInterval(() => most = Math.max(most, childrenOf(process.pid).length - before), 2);
  await Promise.all([3.6, 3.61, 3.62, 3.63, 3.64, 3.65].map((growth) => trials.run(trial(growth))));
  clearInterval(watch);
  if (linux) assert.equal(most, 2);
  assert.equal(digests(folderOf(folder.path)).size, 6);
});

Deno.test("trials on demand: a trial that hangs is ended at its limit, stored as such, and others go on", async () => {
  using folder = temporaryFolder();
  const limits = { seconds: 0.5 };
  const { trials, warnings } = onDemand(folder.path, { workers: 1, limits });
  using _ = trials;
  const hanging = trial(3.9, { fault: "busy" });
  const [ended, done] = await Promise.all([trials.run(hanging), trials.run(trial(3.6))]);
  assert.equal(ended.limit, "time limit");
  assert.deepEqual(ended.rows, [{ step: 0, metric: "time limit", value: 0.5 }]);
  assert.ok(ended.seconds >= 0.5);
  assert.deepEqual([done.limit, done.rows.length], [null, 22]);
  assert.deepEqual(warnings, []);

  // Another process finds it; a lower limit would end it too, a higher one has to be tried.
  using again = onDemand(folder.path, { workers: 1, limits: { seconds: 0.25 } }).trials;
  assert.deepEqual(await again.run(hanging), { ...ended, found: true });
  using higher = onDemand(folder.path, { workers: 1, limits: { seconds: 0.6 } }).trials;
  const { found, rows } = await higher.run(hanging);
  assert.deepEqual([found, rows[0]!.value], [false, 0.6]);
});

Deno.test({
  name:
    "trials on demand: a trial that fills the memory is ended at its limit, even in a worker that was used before",
  ignore: Deno.build.os === "windows",
  async fn() {
    using folder = temporaryFolder();
    using trials = onDemand(folder.path, { workers: 1, limits: { mib: 700 } }).trials;
    const before = childrenOf(process.pid);
    await trials.run(trial(3.6));
    const workers = childrenOf(process.pid).filter((pid) => !before.includes(pid));
    const ended = await trials.run(trial(3.9, { fault: "grow" }));
    assert.equal(ended.limit, "memory limit");
    assert.deepEqual(ended.rows, [{ step: 0, metric: "memory limit", value: 700 }]);
    assert.ok(await allGone(workers, 10_000));
    assert.equal((await trials.run(trial(3.61))).limit, null);
  },
});

Deno.test("trials on demand: a worker that dies is replaced once; what throws is said, noted, and tried again", async () => {
  using folder = temporaryFolder();
  const mark = join(folder.path, "mark");
  const warnings: string[] = [];
  using trials = onDemand(folder.path, {
    workers: 1,
    options: { mark },
    onWarning(message) {
      warnings.push(message);
      // From the second death on the fault `die once` is over, before the new worker gets that far.
      if (warnings.length === 2) writeFileSync(mark, "");
    },
  }).trials;
  await assert.rejects(trials.run(trial(3.9, { fault: "die" })), (error: Error) => {
    assert.ok(error instanceof WorkerDeath);
    return /exit code 3[^]*last words of the toy/.test(error.message);
  });
  assert.equal(warnings.length, 1);
  assert.equal((await trials.run(trial(3.8, { fault: "die once" }))).rows.length, 22);
  assert.equal(warnings.length, 2);
  const throwing = trial(3.7, { fault: "throw" });
  for (const _attempt of [1, 2]) {
    await assert.rejects(trials.run(throwing), (error: Error) => {
      return error instanceof TrialFailure && error.message === "the toy broke";
    });
  }
  const notes = readdirSync(folderOf(folder.path)).filter((name) => name.endsWith(".failed.txt")).sort();
  assert.equal(notes.length, 2);
  assert.match(readFileSync(join(folderOf(folder.path), notes[0]!), "utf8"), /^the toy broke\n[^]*_toy\.ts/);
});

Deno.test({
  name: "trials on demand: workers killed between and in the middle of trials lose nothing",
  ignore: !linux,
  async fn() {
    using folder = temporaryFolder();
    using undisturbed = temporaryFolder();
    const growths = Array.from({ length: 24 }, (_, i) => 3.6 + i / 100);
    using calm = onDemand(undisturbed.path, { workers: 0 }).trials;
    for (const growth of growths) await calm.run(trial(growth));

    const before = childrenOf(process.pid);
    const { trials, warnings } = onDemand(folder.path, { workers: 2, options: { delay: "5" } });
    using _ = trials;
    const stored = () => existsSync(folderOf(folder.path)) ? digests(folderOf(folder.path)).size : 0;
    const all = Promise.all(growths.map((growth) => trials.run(trial(growth))));
    let kills = 0;
    for (const progress of [2, 8, 14]) {
      await until(() => stored() >= progress);
      const workers = childrenOf(process.pid).filter((pid) => !before.includes(pid));
      if (workers[0] !== undefined) process.kill(workers[0], "SIGKILL"), kills++;
    }
    await all;
    assert.equal(kills, 3);
    assert.ok(warnings.length <= kills);
    // Both workers wait now; killed, they are replaced without a word.
    const idle = childrenOf(process.pid).filter((pid) => !before.includes(pid));
    for (const pid of idle) process.kill(pid, "SIGKILL");
    assert.ok(await allGone(idle, 10_000));
    const told = warnings.length;
    await trials.run(trial(3.59));
    assert.ok(warnings.length - told <= 1);
    const names = digests(folderOf(undisturbed.path));
    const now = digests(folderOf(folder.path));
    for (const [name, digest] of names) assert.equal(now.get(name), digest, name);
    assert.equal(now.size, names.size + 1);
  },
});

Deno.test("trials on demand: stopping ends workers and trials with the reason; nothing unfinished is stored", async () => {
  using folder = temporaryFolder();
  const stop = new AbortController();
  const before = linux ? childrenOf(process.pid) : [];
  using trials = onDemand(folder.path, { workers: 1, signal: stop.signal }).trials;
  await trials.run(trial(3.6));
  const running = trials.run(trial(3.9, { fault: "busy" }));
  const queued = trials.run(trial(3.7));
  const workers = linux ? childrenOf(process.pid).filter((pid) => !before.includes(pid)) : [];
  stop.abort(new Error("enough"));
  await assert.rejects(running, /^Error: enough$/);
  await assert.rejects(queued, /^Error: enough$/);
  await assert.rejects(trials.run(trial(3.6)), /^Error: enough$/);
  if (linux) assert.ok(workers.length === 1 && await allGone(workers, 10_000));
  assert.deepEqual([...digests(folderOf(folder.path)).keys()].length, 1);
  assert.equal(readdirSync(folderOf(folder.path)).length, 1);
});

Deno.test("trials on demand: a broken file is moved aside, a full disk is said, wrong settings are refused", async () => {
  using folder = temporaryFolder();
  {
    const { trials } = onDemand(folder.path, { workers: 0 });
    using _ = trials;
    await trials.run(trial(3.6));
  }
  const [name] = readdirSync(folderOf(folder.path));
  const whole = readFileSync(join(folderOf(folder.path), name!));
  writeFileSync(join(folderOf(folder.path), name!), whole.subarray(0, 500));
  const { trials, warnings } = onDemand(folder.path, { workers: 0 });
  using _ = trials;
  assert.equal((await trials.run(trial(3.6))).found, false);
  assert.match(warnings[0]!, /'growth3\.6' is run again[^]*\.broken$/);

  using full = onDemand(folder.path, {
    workers: 0,
    writeFile() {
      throw Object.assign(new Error("full"), { code: "ENOSPC" });
    },
  }).trials;
  await assert.rejects(full.run(trial(3.7)), StorageError);
  await assert.rejects(trials.run({ ...trial(3.7), name: "no/name" }), /name must be 1 to 100 characters/);
  assert.throws(
    () => onDemand(folder.path, { limits: { seconds: 0 } }),
    /Cannot limit trials as 'seconds' must be above 0/,
  );
  assert.throws(() => onDemand(folder.path, { workers: -1 }), /workers must be a whole number from 0/);
  assert.throws(() => onDemand(folder.path, { scale: "paper" }), /scale must be one of smoke, laptop/);
  assert.throws(() => onDemand(folder.path, { options: { colour: "red" } }), /options are delay/);
});

Deno.test("an experiment made of parts: they are stored by themselves, and its rows are those of one process", async () => {
  using folder = temporaryFolder();
  using other = temporaryFolder();
  const run = { experiment: ends, scale: "smoke", resultsDir: folder.path } as const;
  const { failed, ran, results } = await runExperiment({ ...run, workers: 2 });
  assert.deepEqual([failed, ran], [[], 2]);
  assert.equal(digests(folderOf(folder.path)).size, 5);
  await runExperiment({ ...run, workers: 0, resultsDir: other.path });
  const folderOfEnds = (path: string) => join(path, "toy", "ends", "smoke");
  assert.deepEqual(digests(folderOfEnds(folder.path)), digests(folderOfEnds(other.path)));
  assert.equal(digests(folderOf(other.path)).size, 0);
  const verified = await verifyResults({ experiment: ends, results, workers: 1 });
  assert.deepEqual(verified.map(({ equal, difference }) => [equal, difference]), [[true, ""], [true, ""]]);
  // The parts are there: nothing is computed but the trials that are made of them.
  const again = await runExperiment({ ...run, workers: 1, fresh: true });
  assert.deepEqual(again.results.trials.map(({ provenance }) => provenance.notes["found"]), [4, 4]);
});
