import assert from "node:assert/strict";
import { readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type RunEvent, runExperiment, StorageError, verifyResults } from "../../lib/experiment/mod.ts";
import { writeAndFlush } from "../../lib/experiment/_files.ts";
import { digests, temporaryFolder } from "./_helpers.ts";
import { toy } from "./_toy.ts";

const smoke = { experiment: toy, scale: "smoke" } as const;
const folderOf = (resultsDir: string) => join(resultsDir, "toy", "logistic", "smoke");

Deno.test("inline and process launchers store the same rows", async () => {
  using a = temporaryFolder();
  using b = temporaryFolder();
  await runExperiment({ ...smoke, workers: 0, resultsDir: a.path });
  const outcome = await runExperiment({ ...smoke, workers: 2, resultsDir: b.path });
  assert.equal(outcome.ran, 9);
  assert.equal(digests(folderOf(a.path)).size, 9);
  assert.deepEqual(digests(folderOf(a.path)), digests(folderOf(b.path)));
});

Deno.test("values that JSON lacks come back from a worker process", async () => {
  using folder = temporaryFolder();
  const { results } = await runExperiment({ ...smoke, workers: 1, limitTrials: 1, resultsDir: folder.path });
  const odd = results.trials[0]!.rows.filter((row) => row.metric === "oddities").map((row) => row.value);
  assert.ok(odd.some(Number.isNaN) && odd.length === 2);
  assert.ok(odd.some((value) => Object.is(value, -0)));
});

Deno.test("a second run does nothing, not even load the backend", async () => {
  using folder = temporaryFolder();
  await runExperiment({ ...smoke, workers: 0, resultsDir: folder.path });
  const prepare = () => Promise.reject(new Error("the backend was loaded"));
  const events: string[] = [];
  const outcome = await runExperiment({
    ...smoke,
    experiment: { ...toy, prepare },
    backend: "toy",
    workers: 0,
    resultsDir: folder.path,
    onProgress: (event) => events.push(event.kind),
  });
  assert.deepEqual([outcome.ran, outcome.stored, outcome.failed.length], [0, 9, 0]);
  assert.deepEqual(events, ["end"]);
  assert.equal(outcome.results.rows.numRows(), 9 * 22);
});

Deno.test("--fresh runs everything again and replaces the files", async () => {
  using folder = temporaryFolder();
  const settings = { ...smoke, workers: 0, resultsDir: folder.path };
  const first = await runExperiment(settings);
  const again = await runExperiment({ ...settings, fresh: true });
  assert.equal(again.ran, 9);
  const start = (outcome: typeof first) => outcome.results.trials[0]!.provenance.start;
  assert.notEqual(start(first), start(again));
  assert.equal(readdirSync(folderOf(folder.path)).length, 9);
});

Deno.test("a trial that throws is recorded as failed, and tried again by the next run", async () => {
  using folder = temporaryFolder();
  for (const workers of [0, 2]) {
    const settings = { ...smoke, workers, resultsDir: folder.path, options: { fault: "throw" }, fresh: true };
    const outcome = await runExperiment(settings);
    assert.equal(outcome.ran, 6);
    assert.equal(outcome.failed.length, 3);
    assert.match(outcome.failed[0]!.reason, /^the toy broke\n[^]*_toy\.ts/);
    assert.equal(outcome.results.missing.length, 3);
    assert.match(outcome.results.failed[0]!.reason, /the toy broke/);
  }
  const again = await runExperiment({
    ...smoke,
    workers: 0,
    resultsDir: folder.path,
    options: { fault: "throw" },
  });
  assert.deepEqual([again.stored, again.failed.length], [6, 3]);
});

Deno.test("a worker that dies is replaced and its trial tried once more", async () => {
  using folder = temporaryFolder();
  const mark = join(folder.path, "died");
  const options = { fault: "die once", mark };
  const onProgress = (event: RunEvent) => {
    if (event.kind === "warning") writeFileSync(mark, "");
  };
  const outcome = await runExperiment({ ...smoke, workers: 1, resultsDir: folder.path, options, onProgress });
  assert.deepEqual([outcome.ran, outcome.failed.length], [9, 0]);
  assert.equal(outcome.warnings.length, 1);
  assert.match(outcome.warnings[0]!, /tried again.*exit code 3\nlast words of the toy/s);
});

Deno.test("a worker that dies twice leaves a failed trial with the end of its stderr", async () => {
  using folder = temporaryFolder();
  const settings = { ...smoke, workers: 2, resultsDir: folder.path, options: { fault: "die" } };
  const outcome = await runExperiment(settings);
  assert.deepEqual([outcome.ran, outcome.failed.length], [6, 3]);
  assert.match(outcome.failed[0]!.reason, /exit code 3\nlast words of the toy/);
});

Deno.test("a truncated, foreign or swapped file is moved aside, reported and run again", async () => {
  using folder = temporaryFolder();
  const settings = { ...smoke, workers: 0, resultsDir: folder.path };
  await runExperiment(settings);
  const dir = folderOf(folder.path);
  const before = digests(dir);
  const [first, second, third, fourth] = [...before.keys()].map((name) => join(dir, name));
  const whole = readFileSync(first!);
  writeFileSync(first!, whole.subarray(0, whole.length - 100));
  writeFileSync(second!, "a,b\n1,2\n");
  writeFileSync(third!, readFileSync(fourth!));
  const flipped = Uint8Array.from(readFileSync(fourth!));
  const at = flipped.length - Math.floor(flipped.length / 2);
  for (let i = at; i < at + 200; i++) flipped[i]! ^= 0xff;
  writeFileSync(fourth!, flipped);
  const outcome = await runExperiment(settings);
  assert.equal(outcome.ran, 4);
  assert.equal(outcome.warnings.length, 4);
  assert.match(outcome.warnings.join("\n"), /truncated[^]*not an Arrow file[^]*another trial/);
  assert.deepEqual(digests(dir), before);
  assert.equal(readdirSync(dir).filter((name) => name.endsWith(".arrow.broken")).length, 4);
});

Deno.test("temporary files of killed runs are swept up, those of running ones are not", async () => {
  using folder = temporaryFolder();
  const settings = { ...smoke, workers: 0, resultsDir: folder.path };
  await runExperiment({ ...settings, limitTrials: 1 });
  const dir = folderOf(folder.path);
  const [old, young] = [join(dir, ".a.arrow.1-0.tmp"), join(dir, ".b.arrow.2-0.tmp")];
  for (const file of [old, young]) writeFileSync(file, "half");
  const hourAgo = Date.now() / 1000 - 3600;
  utimesSync(old, hourAgo, hourAgo);
  await runExperiment(settings);
  assert.deepEqual(readdirSync(dir).filter((name) => name.endsWith(".tmp")), [".b.arrow.2-0.tmp"]);
});

Deno.test("a disk that fills up stops the run with a clear error and leaves whole files only", async () => {
  using folder = temporaryFolder();
  let writes = 0;
  const writeFile = (path: string, bytes: Uint8Array) => {
    const full = !path.includes(".probe") && ++writes > 4;
    writeAndFlush(path, full ? bytes.subarray(0, 50) : bytes);
    if (full) throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
  };
  for (const workers of [0, 2]) {
    writes = 0;
    await assert.rejects(
      runExperiment({ ...smoke, workers, resultsDir: folder.path, writeFile, fresh: true }),
      (error: Error) => error instanceof StorageError && /space left: its disk is full/.test(error.message),
    );
    const names = readdirSync(folderOf(folder.path));
    assert.ok(names.length >= 4 && names.every((name) => name.endsWith(".arrow")), String(names));
    assert.ok(digests(folderOf(folder.path)).size >= 4);
  }
});

Deno.test("a results folder that cannot be written is refused before any trial runs", async () => {
  using folder = temporaryFolder();
  const file = join(folder.path, "file");
  writeFileSync(file, "");
  let ran = 0;
  const experiment = { ...toy, run: () => Promise.resolve(void ran++) };
  await assert.rejects(
    runExperiment({ ...smoke, experiment, workers: 0, resultsDir: file }),
    /Cannot make the results folder as the folder .* must be a folder/,
  );
  const writeFile = () => {
    throw Object.assign(new Error("read-only"), { code: "EROFS" });
  };
  await assert.rejects(
    runExperiment({ ...smoke, experiment, workers: 0, resultsDir: folder.path, writeFile }),
    /must be writable: it is on a read-only file system/,
  );
  assert.equal(ran, 0);
});

Deno.test("wrong scale, option, backend, workers and trials are refused with what there is", async () => {
  using folder = temporaryFolder();
  const settings = { ...smoke, workers: 0, resultsDir: folder.path };
  await assert.rejects(
    runExperiment({ ...settings, scale: "paper" }),
    /one of smoke, laptop: current scale is 'paper'/,
  );
  await assert.rejects(
    runExperiment({ ...settings, options: { depth: "3" } }),
    /options are delay, fault, mark: current option is 'depth'/,
  );
  for (const workers of [0, 1]) {
    const message = "Cannot use backend 'cuda' as it must be toy: current backend is cuda";
    await assert.rejects(runExperiment({ ...settings, workers, backend: "cuda" }), { message });
  }
  await assert.rejects(
    runExperiment({ ...settings, workers: -1 }),
    /whole number from 0.*current workers is -1/,
  );
  const bad = (name: string, params: Record<string, number> = {}) =>
    runExperiment({ ...settings, experiment: { ...toy, trials: () => [{ name, params, seed: 1 }] } });
  await assert.rejects(bad("../escape"), /name must be 1 to 100 characters/);
  await assert.rejects(bad("x", { step: 1 }), /params must not be named/);
  await assert.rejects(bad("x", { width: Infinity }), /must be finite/);
  const twice = { ...toy, trials: () => [...toy.trials("smoke", {}), ...toy.trials("smoke", {})] };
  await assert.rejects(runExperiment({ ...settings, experiment: twice }), /'growth3.57-seed1' occurs twice/);
});

Deno.test("an aborted run rejects with the reason, keeps what was finished, and goes on", async () => {
  for (const workers of [0, 2]) {
    using folder = temporaryFolder();
    const controller = new AbortController();
    const settings = { ...smoke, workers, resultsDir: folder.path, options: { delay: "2" } };
    const onProgress = (event: RunEvent) => {
      if (event.kind === "trial end" && event.status.done === 3) controller.abort(new Error("enough"));
    };
    await assert.rejects(
      runExperiment({ ...settings, signal: controller.signal, onProgress }),
      /^Error: enough/,
    );
    const stored = digests(folderOf(folder.path)).size;
    assert.ok(stored >= 3 && stored < 9, `${stored} stored`);
    const rest = await runExperiment(settings);
    assert.deepEqual([rest.stored, rest.ran], [stored, 9 - stored]);
  }
});

Deno.test("progress counts up to the total and foresees the time left", async () => {
  using folder = temporaryFolder();
  const events: RunEvent[] = [];
  const onProgress = (event: RunEvent) => events.push(event);
  const settings = { ...smoke, workers: 2, resultsDir: folder.path, options: { delay: "5" } };
  await runExperiment({ ...settings, onProgress });
  assert.deepEqual(events.slice(0, 2).map((event) => event.kind), ["prepare", "start"]);
  assert.equal(events.at(-1)!.kind, "end");
  const progressed = events.map((event) => event.status.progressed);
  assert.ok(progressed.every((value, i) => i === 0 || value >= progressed[i - 1]! - 1e-9), "monotonic");
  const last = events.filter((event) => event.kind === "trial end").at(-1)!.status;
  assert.deepEqual([last.total, last.done, last.failed], [9, 9, 0]);
  assert.ok(Math.abs(last.remainingSeconds) < 1e-9);
  const middle = events.find((event) => event.status.done === 5)!.status;
  assert.ok(middle.remainingSeconds > 0 && middle.remainingSeconds < 5);
});

Deno.test("verify finds equal rows equal, and a changed experiment different", async () => {
  using folder = temporaryFolder();
  const { results } = await runExperiment({ ...smoke, workers: 0, resultsDir: folder.path });
  const same = await verifyResults({ experiment: toy, results, sample: 4, workers: 2 });
  assert.deepEqual(same.map((one) => one.equal), [true, true, true, true]);
  assert.equal(new Set(same.map((one) => one.stored.file)).size, 4);
  const experiment: typeof toy = {
    ...toy,
    run: (trial, context) =>
      toy.run(trial, {
        ...context,
        report: (row) => context.report(row.step === 7 ? { ...row, value: row.value + 2 ** -53 } : row),
      }),
  };
  const changed = await verifyResults({ experiment, results, sample: 2, workers: 0 });
  assert.ok(
    changed.every((one) => !one.equal && /row 7: stored x 0\.\d+ at step 7, now x/.test(one.difference)),
  );
});

Deno.test("what trials read is fetched once, before the first of them, and a failure to get it stops the run", async () => {
  using folder = temporaryFolder();
  const events: string[] = [];
  const fetching = {
    ...toy,
    fetch(scale: string, _options: unknown, onProgress: (note: string) => void) {
      onProgress(`fetching for ${scale}`);
      return Promise.resolve();
    },
  };
  const settings = { scale: "smoke", workers: 0, resultsDir: folder.path } as const;
  await runExperiment({
    ...settings,
    experiment: fetching,
    onProgress: (event) => events.push(event.kind === "fetch" ? event.note : event.kind),
  });
  assert.equal(events.filter((kind) => kind === "fetching for smoke").length, 1);
  assert.ok(events.indexOf("fetching for smoke") < events.indexOf("trial start"));

  using empty = temporaryFolder();
  const broken = { ...toy, fetch: () => Promise.reject(new RangeError("no network")) };
  await assert.rejects(
    runExperiment({ ...settings, experiment: broken, resultsDir: empty.path }),
    /no network/,
  );
  assert.equal(digests(join(empty.path, "toy", "logistic", "smoke")).size, 0);
});
