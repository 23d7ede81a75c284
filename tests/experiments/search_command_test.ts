/** The command `search`: the same history from one worker, from two, and from two that are killed with their coordinator. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { readRecords } from "../../experiments/evonorm/search.ts";
import { batchIndependent, fromJSON } from "../../lib/graph/mod.ts";
import { allGone, childrenOf, runCli, temporaryFolder } from "../experiment/_helpers.ts";
import { fileURLToPath } from "node:url";

const command = fileURLToPath(new URL("../../tools/normlab.ts", import.meta.url));
const names = {
  anchors: ["resnet", "mobilenet"],
  stages: ["quality", "stability", "training", "limit"],
};

const EVALUATIONS = 12;

/** The search as a process; `more` replaces or adds options. */
function start(out: string, workers: number, more: readonly string[] = []): Deno.ChildProcess {
  const options = ["--scale", "smoke", "--backend", "wasm", "--seed", "3", "--look-ahead", "3"];
  return new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      command,
      "search",
      ...options,
      ...["--budget", `${EVALUATIONS}`, "--workers", `${workers}`, "--out", out, ...more],
    ],
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

async function finish(child: Deno.ChildProcess) {
  const { code, signal, stdout, stderr } = await child.output();
  return { code, signal, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

const history = (out: string) => readFileSync(join(out, "history.arrow")).toString("base64");

/** Candidates that are stored. */
function stored(out: string): number {
  const folder = join(out, "evonorm", "search", "candidates", "smoke");
  return existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith(".arrow")).length : 0;
}

Deno.test("search: one worker, two, and two killed with their coordinator write the same history, bit for bit", async () => {
  using folder = temporaryFolder();
  const [one, two, killed] = ["one", "two", "killed"].map((name) => join(folder.path, name));

  const first = await finish(start(one!, 1));
  assert.equal(first.code, 0, first.stderr);
  const records = readRecords(join(one!, "journal"), names);
  assert.equal(
    records.filter(({ stages }) => stages.some(({ name }) => name === "quality")).length,
    EVALUATIONS,
  );
  assert.equal(stored(one!), EVALUATIONS);
  const { layers } = JSON.parse(readFileSync(join(one!, "layers.json"), "utf8"));
  assert.ok(layers.length > 0);
  for (const { index, formula, graph } of layers) {
    assert.equal(JSON.stringify(graph), JSON.stringify(fromJSON(records[index]!.genotype)));
    assert.ok(first.stdout.includes(formula) || layers.length > 5);
  }

  const second = await finish(start(two!, 2));
  assert.equal(second.code, 0, second.stderr);
  assert.equal(history(two!), history(one!));

  if (Deno.build.os === "linux") {
    let lives = 0;
    for (let ended = false; !ended; lives++) {
      const child = start(killed!, 2);
      const output = finish(child).then((result) => (ended = true, result));
      const until = async (count: number) => {
        while (!ended && stored(killed!) < count) await new Promise((resolve) => setTimeout(resolve, 5));
      };
      // A worker dies soon after one evaluation was stored, the coordinator with its other worker after two more.
      await until(stored(killed!) + 1);
      const workers = ended ? [] : childrenOf(child.pid);
      if (workers[lives % 2] !== undefined) process.kill(workers[lives % 2]!, "SIGKILL");
      await until(stored(killed!) + 2);
      const orphans = ended ? [] : childrenOf(child.pid);
      if (!ended) child.kill("SIGKILL");
      const { code, signal, stderr } = await output;
      assert.ok(await allGone([...workers, ...orphans], 10_000));
      assert.ok(code === 0 || signal === "SIGKILL", stderr);
      ended = code === 0;
    }
    assert.ok(lives >= 3, `${lives} lives`);
    assert.equal(history(killed!), history(one!));
  }
});

Deno.test("search: a larger budget goes on, without batch statistics where asked, and another search is refused", async () => {
  using folder = temporaryFolder();
  const more = ["--constraint", "no-batch", "--budget"];
  const short = await finish(start(folder.path, 2, [...more, "2"]));
  assert.equal(short.code, 0, short.stderr);
  const before = readRecords(join(folder.path, "journal"), names).length;
  assert.equal(stored(folder.path), 2);
  const long = await finish(start(folder.path, 2, [...more, "5"]));
  assert.equal(long.code, 0, long.stderr);
  assert.equal(stored(folder.path), 5);
  const records = readRecords(join(folder.path, "journal"), names);
  assert.ok(records.length > before);
  assert.ok(records.every(({ genotype }) => batchIndependent(fromJSON(genotype))));

  const other = await finish(start(folder.path, 1, ["--seed", "4"]));
  assert.equal(other.code, 2);
  assert.match(
    other.stderr,
    /holds another search[^]*constraint was "no-batch", now "none"; seed was 3, now 4/,
  );
});

Deno.test("search: help, and what is wrong with options", async () => {
  const help = await runCli(["search", "--help"]);
  assert.equal(help.code, 0);
  for (const option of ["budget", "seed", "workers", "constraint", "out", "scale"]) {
    assert.match(help.stdout, new RegExp(`--${option} `));
  }
  for (
    const [args, message] of [
      [[], /--budget must say how many candidates/],
      [["--budget", "none"], /--budget must be a whole number from 1/],
      [
        ["--budget", "5", "--constraint", "odd"],
        /--constraint must be one of none, no-batch: current one is 'odd'/,
      ],
      [
        ["--budget", "5", "--criterion", "vgg"],
        /criterion must be one of pareto, average, resnet, mobilenet/,
      ],
      [["--budget", "5", "--workers", "0"], /--workers must be a whole number from 1/],
    ] as const
  ) {
    const { code, stderr } = await runCli(["search", ...args]);
    assert.equal(code, 2, stderr);
    assert.match(stderr, message);
  }
});
