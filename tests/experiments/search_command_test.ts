/** The command `search`: the same history from one worker, from two, and from two that are killed with their coordinator. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { readRecords } from "../../experiments/evonorm/search.ts";
import { costOf, wasEvaluated } from "../../lib/evolution/mod.ts";
import {
  batchIndependent,
  describeEquivalence,
  fromJSON,
  published,
  simplification,
} from "../../lib/graph/mod.ts";
import type { LayerEntry } from "../../experiments/evonorm/search.ts";
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

const layersOf = (out: string): LayerEntry[] =>
  JSON.parse(readFileSync(join(out, "layers.json"), "utf8")).layers;

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
  const before = layersOf(one!);
  assert.ok(before.length > 1);
  before.forEach(({ index, place, graph, simplified, scores, equals }, k) => {
    assert.equal(place, k + 1);
    assert.equal(JSON.stringify(graph), JSON.stringify(fromJSON(records[index]!.genotype)));
    assert.deepEqual(Object.values(scores), records[index]!.scores);
    assert.deepEqual(
      equals,
      simplification(graph, Object.values(published)).equivalences.map(describeEquivalence),
    );
    assert.ok(k > 4 || first.stdout.includes(`#${index}  `) && first.stdout.includes(simplified));
  });

  // The same command with more to do afterwards adds to what is there, and does it once.
  const ranked = await finish(start(one!, 2, ["--rerank", "2"]));
  assert.equal(ranked.code, 0, ranked.stderr);
  const text = readFileSync(join(one!, "layers.json"), "utf8");
  const after = layersOf(one!);
  const mean = ({ again }: LayerEntry) => Object.values(again!).reduce((sum, value) => sum + value, 0);
  assert.deepEqual(after.slice(0, 2).map(({ place }) => place).sort(), [1, 2]);
  assert.ok(mean(after[0]!) >= mean(after[1]!));
  assert.deepEqual(after.slice(2), before.slice(2));
  for (const { index, place, again } of after.slice(0, 2)) {
    assert.deepEqual(Object.keys(again!), names.anchors);
    assert.match(ranked.stdout, new RegExp(`^ +\\d +${place} +#${index} `, "m"));
  }
  assert.equal(stored(one!), EVALUATIONS + 2);
  assert.equal((await finish(start(one!, 2, ["--rerank", "2"]))).stdout, ranked.stdout);
  assert.equal(readFileSync(join(one!, "layers.json"), "utf8"), text);
  assert.equal(stored(one!), EVALUATIONS + 2);

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

Deno.test("search: one that the clock ends is the beginning of the longer one", async () => {
  using folder = temporaryFolder();
  const [short, whole] = ["short", "whole"].map((name) => join(folder.path, name));
  const plain = (out: string) =>
    readRecords(join(out, "journal"), names).map(({ stages: _, ...others }) => JSON.stringify(others));
  const ended = await finish(start(short!, 2, ["--minutes", "0.005"]));
  assert.equal(ended.code, 0, ended.stderr);
  const beginning = plain(short!);
  assert.equal((await finish(start(whole!, 2, ["--budget", "6"]))).code, 0);
  assert.deepEqual(plain(whole!).slice(0, beginning.length), beginning);
  // Three tenths of a second are too short for twelve trainings; the rest follows without the clock.
  assert.ok(beginning.length < plain(whole!).length);
  assert.equal((await finish(start(short!, 1, ["--budget", "6"]))).code, 0);
  assert.equal(history(short!), history(whole!));
});

Deno.test("search: without tests, in anchors of one's own, to a cost", async () => {
  using folder = temporaryFolder();
  const own = ["--no-rejection", "--anchors", "mobilenet+resnet", "--criterion", "mobilenet"];
  const options = ["run", "-A", command, "search", "--scale", "smoke", "--backend", "wasm", ...own];
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...options, "--work", "1.5", "--workers", "2", "--out", folder.path],
  }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
  const anchors = ["mobilenet", "resnet"];
  const records = readRecords(join(folder.path, "journal"), { ...names, anchors });
  const evaluated = records.filter(wasEvaluated);
  assert.ok(evaluated.length > 0);
  for (const { stages, rejectedBy } of evaluated) {
    assert.deepEqual(stages.slice(2).map(({ name }) => name), ["training"]);
    assert.ok(rejectedBy === null || rejectedBy === "training");
  }
  const work = records.map((record) => costOf(record).work);
  const total = work.reduce((sum, one) => sum + one, 0);
  assert.ok(total >= 1.5 && total - work.at(-1)! < 1.5);
  for (const { scores } of layersOf(folder.path)) assert.deepEqual(Object.keys(scores), anchors);

  const other = await finish(start(folder.path, 1, ["--anchors", "resnet"]));
  assert.equal(other.code, 2);
  assert.match(other.stderr, /another search[^]*anchors were "mobilenet\+resnet", now "resnet"/);
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
  // Every option that there is, as the command itself lists them.
  const listed = /Options of this command: (.*)/.exec((await runCli(["search", "--odd"])).stderr)![1]!;
  for (const option of listed.split(", ")) assert.match(help.stdout, new RegExp(`^ +${option} `, "m"));

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
      [
        ["--budget", "5", "--anchors", "resnet", "--criterion", "mobilenet"],
        /criterion must be one of pareto, average, resnet: /,
      ],
      [
        ["--budget", "5", "--anchors", "resnet+resnet"],
        /--anchors must be different ones of resnet, mobilenet, efficientnet, joined by \+/,
      ],
      [["--minutes", "0"], /--minutes must be a number above 0: current one is '0'/],
      [["--work", "much"], /--work must be a number above 0: current one is 'much'/],
      [["--budget", "5", "--rerank", "-1"], /--rerank/],
      [["--budget", "5", "--threshold", "2"], /--threshold must be an accuracy, at most 1/],
      [
        ["--budget", "5", "--scale", "smoke", "--quality", "17"],
        /--quality must be at most 16, the steps of training/,
      ],
      [
        ["--budget", "5", "--no-rejection", "--stability", "5"],
        /--no-rejection leaves the tests out: --stability/,
      ],
    ] as const
  ) {
    const { code, stderr } = await runCli(["search", ...args]);
    assert.equal(code, 2, stderr);
    assert.match(stderr, message);
  }
});
