import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { encodeTrial } from "../../lib/experiment/_arrow.ts";
import { loadAllResults } from "../../lib/experiment/mod.ts";
import { runCli, temporaryFolder } from "./_helpers.ts";
import { toy } from "./_toy.ts";

Deno.test("wrong usage says what there is, without a stack, with exit code 2", async () => {
  using folder = temporaryFolder();
  const cases: [string, RegExp][] = [
    [
      "frobnicate",
      /no command 'frobnicate': there are list, run, show, report, reproduce, verify, graph, search\n/,
    ],
    ["run", /An experiment must be named: one of toy\/logistic/],
    ["run nope", /no experiment 'nope': there are toy\/logistic/],
    ["run toy/logistic --scale huge", /no scale 'huge': there are smoke, laptop, paper/],
    ["run toy/logistic --scale paper", /scale must be one of smoke, laptop: current scale is 'paper'/],
    ["run toy/logistic --backend cuda", /no backend 'cuda': there are auto, wasm, tensorflow, webgpu/],
    ["run toy/logistic --option depth=3", /options are delay, fault, mark: current option is 'depth'/],
    ["run toy/logistic --option depth", /must be key=value: current one is 'depth'/],
    ["run toy/logistic --workers two", /--workers must be a whole number from 0: current one is 'two'/],
    ["run toy/logistic --quick", /Unknown option '--quick'\. Options of this command: --scale, --backend/],
    ["run toy/logistic again", /Unexpected argument 'again'/],
    ["verify --sample 0", /--sample must be a whole number from 1/],
  ];
  const outcomes = await Promise.all(cases.map(([line]) => runCli(line.split(" "), folder.path)));
  outcomes.forEach(({ code, stdout, stderr }, i) => {
    assert.equal(code, 2, cases[i]![0]);
    assert.match(stderr, cases[i]![1]);
    assert.doesNotMatch(stderr, /\n\s+at /);
    assert.equal(stdout, "");
  });
  assert.ok(!existsSync(join(folder.path, "results")), "nothing was written");
});

Deno.test("every command has help", async () => {
  const overview = await runCli(["help"]);
  for (const name of ["list", "run", "show", "report", "reproduce", "verify", "graph", "search"]) {
    assert.match(overview.stdout, new RegExp(`^  ${name} `, "m"));
    const { code, stdout } = await runCli([name, "--help"]);
    assert.equal(code, 0);
    const folder = name === "search" ? "--out DIR" : "--results DIR";
    assert.match(stdout, new RegExp(`Usage: normlab ${name}[^]*${folder}`));
  }
});

Deno.test("a missing backend fails with its message and no stack, exit code 1", async () => {
  using folder = temporaryFolder();
  const { code, stderr } = await runCli(["run", "toy/logistic", "--backend", "wasm"], folder.path);
  assert.equal(code, 1);
  assert.match(stderr, /Cannot use backend 'wasm' as it must be toy/);
  assert.doesNotMatch(stderr, /\n\s+at /);
});

Deno.test("reproduce, twice; then list, show and verify", async () => {
  using folder = temporaryFolder();
  const first = await runCli(["reproduce", "--backend", "auto", "--workers", "2"], folder.path);
  assert.equal(first.code, 0, first.stderr);
  assert.match(first.stdout, /9 run, 0 in the store already/);
  assert.match(first.stdout, /wild-is-wilder .* inconclusive/);
  assert.match(first.stderr, /9\/9 trials/);
  const smoke = join(folder.path, "results", "toy", "logistic", "smoke");
  for (const file of ["figures/final.svg", "tables/final.csv", "rows.parquet"]) {
    assert.ok(existsSync(join(smoke, file)), file);
  }
  assert.match(readFileSync(join(folder.path, "site", "index.html"), "utf8"), /wild|r = 3\.9/);
  const second = await runCli(["reproduce", "--backend", "auto"], folder.path);
  assert.match(second.stdout, /0 run, 9 in the store already/);
  const list = await runCli(["list"], folder.path);
  assert.match(
    list.stdout,
    /toy\/logistic[^]*smoke +1 s; 9\/9 trials on toy[^]*laptop +10 s; nothing stored/,
  );
  const show = await runCli(["show", "toy/logistic"], folder.path);
  assert.match(show.stdout, /growth3\.57-seed1 +1 +3\.57 +0\.82423[^]*wild-is-wilder/);
  const verify = await runCli(["verify", "--sample", "3", "--seed", "5"], folder.path);
  assert.equal(verify.code, 0);
  assert.match(verify.stdout, /3 trials run again, 0 differ/);
});

Deno.test("verify fails where a stored row is not what the trial gives, and where nothing is stored", async () => {
  using folder = temporaryFolder();
  assert.equal((await runCli(["verify"], folder.path)).code, 1);
  await runCli(["run", "toy/logistic", "--workers", "0"], folder.path);
  const { results } = loadAllResults(toy, join(folder.path, "results"));
  const { file, provenance, rows } = results[0]!.trials[0]!;
  const forged = rows.map((row, i) => i === 3 ? { ...row, value: row.value * (1 + 2 ** -52) } : row);
  writeFileSync(file, encodeTrial(provenance, forged));
  const { code, stdout } = await runCli(["verify", "toy/logistic", "--sample", "9"], folder.path);
  assert.equal(code, 1);
  assert.match(stdout, /DIFFERS .*growth3\.57-seed1[^]*row 3: stored x[^]*9 trials run again, 1 differ/);
});

Deno.test("a run with failed trials reports them and exits with 1", async () => {
  using folder = temporaryFolder();
  const args = ["run", "toy/logistic", "--workers", "2", "--option", "fault=throw"];
  const { code, stdout } = await runCli(args, folder.path);
  assert.equal(code, 1);
  assert.match(stdout, /6 run, 0 in the store already, 3 FAILED[^]*growth3\.57-seed2: the toy broke/);
});
