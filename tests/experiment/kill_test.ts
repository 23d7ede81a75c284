/** What must survive SIGKILL: the rows, bit for bit; and what must not: worker processes. */
import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { runExperiment } from "../../lib/experiment/mod.ts";
import { allGone, childrenOf, cli, digests, runCli, temporaryFolder } from "./_helpers.ts";
import { toy } from "./_toy.ts";

const linux = Deno.build.os === "linux";
const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));
/** Files of finished trials. */
const count = (store: string) =>
  existsSync(store) ? readdirSync(store).filter((name) => name.endsWith(".arrow")).length : 0;

/** Waits for a condition rather than for a time: machines differ, and are busy. */
async function until(condition: () => boolean): Promise<void> {
  for (const end = performance.now() + 60_000; !condition(); await sleep(10)) {
    assert.ok(performance.now() < end, "the run made no progress for a minute");
  }
}

const arguments_ = (
  results: string,
) => ["run", "toy/logistic", "--workers", "2", "--option", "delay=20", "--results", results];

/** The rows as an undisturbed run in this process gives them. */
async function expected(): Promise<Map<string, string>> {
  using folder = temporaryFolder();
  await runExperiment({ experiment: toy, scale: "smoke", workers: 0, resultsDir: folder.path });
  return digests(join(folder.path, "toy", "logistic", "smoke"));
}

Deno.test({
  name: "a run that is killed again and again completes with the same rows, and leaves no worker",
  ignore: !linux,
  async fn() {
    using folder = temporaryFolder();
    const store = join(folder.path, "toy", "logistic", "smoke");
    let stored = 0;
    // 4 s of work. Killed during start-up, then each time soon after another trial was stored: at another place of the next.
    for (const [trials, delay] of [[0, 150], [1, 10], [2, 130], [4, 70], [6, 190]] as const) {
      const coordinator = cli(arguments_(folder.path)).spawn();
      await until(() => count(store) >= trials);
      await sleep(delay);
      const workers = childrenOf(coordinator.pid);
      coordinator.kill("SIGKILL");
      const { signal } = await coordinator.output();
      assert.equal(signal, "SIGKILL", "the run was over before it was killed");
      assert.ok(await allGone(workers, 10_000), `workers ${workers} outlived their coordinator`);
      const now = digests(store).size; // throws for a file that is not whole
      assert.ok(now >= stored);
      stored = now;
    }
    assert.ok(stored > 0 && stored < 9, `${stored} of 9 trials stored after the kills`);
    const { code, stdout } = await runCli(arguments_(folder.path));
    assert.equal(code, 0);
    assert.match(stdout, new RegExp(`${9 - stored} run, ${stored} in the store already`));
    assert.deepEqual(digests(store), await expected());
    const again = await runCli(arguments_(folder.path));
    assert.match(again.stdout, /0 run, 9 in the store already/);
  },
});

Deno.test({
  name: "a worker deep in arithmetic ends with its coordinator too",
  ignore: !linux,
  async fn() {
    using folder = temporaryFolder();
    const args = [
      "run",
      "toy/logistic",
      "--workers",
      "2",
      "--option",
      "fault=busy",
      "--results",
      folder.path,
    ];
    const coordinator = cli(args).spawn();
    await until(() => childrenOf(coordinator.pid).length === 2);
    await sleep(1500);
    const workers = childrenOf(coordinator.pid);
    coordinator.kill("SIGKILL");
    await coordinator.output();
    assert.ok(await allGone(workers, 10_000));
  },
});

Deno.test({
  name: "Ctrl+C stops a run with a word on how to go on",
  ignore: !linux,
  async fn() {
    using folder = temporaryFolder();
    const coordinator = cli(arguments_(folder.path)).spawn();
    await sleep(1200);
    const workers = childrenOf(coordinator.pid);
    coordinator.kill("SIGINT");
    const { code, stderr } = await coordinator.output();
    assert.equal(code, 130);
    assert.match(new TextDecoder().decode(stderr), /Stopped\. What was finished is stored/);
    assert.ok(await allGone(workers, 10_000));
  },
});

Deno.test("two runs at once in one folder give whole files with the same rows", async () => {
  using folder = temporaryFolder();
  const outcomes = await Promise.all([runCli(arguments_(folder.path)), runCli(arguments_(folder.path))]);
  assert.deepEqual(outcomes.map((outcome) => outcome.code), [0, 0], outcomes.map((o) => o.stderr).join());
  assert.deepEqual(digests(join(folder.path, "toy", "logistic", "smoke")), await expected());
});
