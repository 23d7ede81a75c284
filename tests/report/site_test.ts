import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Experiment, runExperiment } from "../../lib/experiment/mod.ts";
import { buildSite, rerunCommand } from "../../lib/report/mod.ts";
import { temporaryFolder } from "../experiment/_helpers.ts";
import { toy } from "../experiment/_toy.ts";

/** A site with laptop and smoke results of the toy, and an experiment that was never run. */
async function build(folder: string, experiments: readonly Experiment[] = [toy, unrun]) {
  const settings = { experiment: toy, workers: 0, resultsDir: join(folder, "results") };
  await runExperiment({ ...settings, scale: "smoke" });
  await runExperiment({ ...settings, scale: "laptop", limitTrials: 7 });
  const outDir = join(folder, "site");
  const site = await buildSite({ experiments, resultsDir: settings.resultsDir, outDir });
  const read = (file: string) => readFileSync(join(outDir, file), "utf8");
  const files = readdirSync(outDir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(outDir.length + 1));
  return { site, outDir, read, files };
}

const unrun: Experiment = { ...toy, id: "toy/unrun", title: "Never run" };

Deno.test("the index has every claim with number, interval, verdict and run, and what was not run", async () => {
  using folder = temporaryFolder();
  const { site, read } = await build(folder.path);
  const index = read("index.html");
  assert.match(index, /<html lang="en">/);
  assert.match(index, /x ends higher at r = 3\.9 than at r = 3\.57/);
  assert.match(index, /<span class="verdict inconclusive">inconclusive<\/span>/);
  assert.match(index, /<span class="verdict not-run-at-this-scale">not run at this scale<\/span>/);
  assert.match(index, /0\.5<p class="soft">Fig\. 1<\/p>/);
  assert.match(index, /−1\.226 to 1\.286/);
  assert.ok(index.indexOf("laptop, toy") < index.indexOf("smoke, toy"), "largest scale first");
  assert.match(index, /7 of 9\s+trials/);
  assert.match(index, /Not run yet.*deno task normlab run toy\/unrun --scale smoke/);
  assert.deepEqual(site.warnings, []);
});

Deno.test("an experiment's page has method, figures, tables, provenance, downloads and the command", async () => {
  using folder = temporaryFolder();
  const { read, files } = await build(folder.path);
  const page = read("toy-logistic.html");
  assert.match(page, /<h1>Chaos in the logistic map &lt;toy&gt;<\/h1>/);
  assert.match(page, /<p>Iterates x -&gt; r x \(1 - x\)\.<\/p>\n<p>A toy &amp; nothing more\.<\/p>/);
  assert.match(page, /<h2 id="smoke-toy">Results: smoke, toy<\/h2>/);
  assert.match(page, /<h2 id="laptop-toy">/);
  assert.match(page, /2 of 9 trials have not been run/);
  assert.match(page, /<code>deno task normlab run toy\/logistic --scale smoke --backend toy --fresh<\/code>/);
  assert.match(page, /alt="Dots of final x against growth, &quot;quoted&quot;"/);
  assert.match(page, /<dt>Versions<\/dt>\s*<dd>deno 2\./);
  assert.ok(files.includes("data/toy/logistic/smoke-toy/growth3.57-seed1.arrow"));
});

Deno.test("every link and picture leads to a file of the site, every file is one that a page or none needs", async () => {
  using folder = temporaryFolder();
  const { read, files } = await build(folder.path);
  let links = 0;
  for (const file of files.filter((name) => name.endsWith(".html"))) {
    for (const [, target] of read(file).matchAll(/(?:href|src)="([^"]*)"/g)) {
      if (target === "data:,") continue;
      const [path, anchor] = target!.split("#");
      assert.ok(files.includes(path === "" ? file : path!), `${file}: ${target}`);
      if (anchor !== undefined) {
        assert.ok(read(path === "" ? file : path!).includes(`id="${anchor}"`), target);
      }
      links++;
    }
  }
  assert.ok(links > 40);
});

Deno.test("no page, style, script or figure of the site asks another host for anything", async () => {
  using folder = temporaryFolder();
  const { read, files } = await build(folder.path);
  for (const file of files.filter((name) => /\.(html|css|svg)$/.test(name) || name.endsWith("site.js"))) {
    const urls = [...read(file).matchAll(/https?:\/\/[^"'\s<)]*/g)].map(([url]) => url);
    const names = ["http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"];
    const schema = "https://vega.github.io/schema/vega-lite/v6.json"; // a name too: nothing loads it
    assert.deepEqual(urls.filter((url) => !names.includes(url) && url !== schema), [], file);
  }
});

Deno.test("the site is small, and the same from the same results", async () => {
  using folder = temporaryFolder();
  const { site, outDir, read, files } = await build(folder.path);
  assert.ok(site.bytes < 2 * 2 ** 20, `${site.bytes} bytes`);
  const before = files.map(read);
  await buildSite({ experiments: [toy, unrun], resultsDir: join(folder.path, "results"), outDir });
  assert.deepEqual(files.map(read), before);
});

Deno.test("HTML is well formed: elements close in order, ids are unique, tables have header cells", async () => {
  using folder = temporaryFolder();
  const { read, files } = await build(folder.path);
  for (const file of files.filter((name) => name.endsWith(".html"))) {
    const html = read(file).replace(/<script[^>]*>[^]*?<\/script>/g, "");
    const open: string[] = [];
    for (const [, close, tag] of html.matchAll(/<(\/?)([a-z][a-z0-9]*)\b[^>]*>/g)) {
      if (["meta", "link", "img"].includes(tag!)) continue;
      if (close === "") open.push(tag!);
      else assert.equal(open.pop(), tag, `${file}: </${tag}>`);
    }
    assert.deepEqual(open, []);
    const ids = [...read(file).matchAll(/\bid="([^"]*)"/g)].map(([, id]) => id);
    assert.equal(new Set(ids).size, ids.length, file);
    for (const [image] of html.matchAll(/<img[^>]*>/g)) assert.match(image, /alt="[^"]+"/);
    assert.equal([...html.matchAll(/<h1>/g)].length, 1);
  }
});

Deno.test("hostile words in an experiment stay words", async () => {
  using folder = temporaryFolder();
  const words = `</script><script>alert(1)</script>"'&`;
  const hostile: Experiment = {
    ...toy,
    title: words,
    summary: words,
    source: words,
    figures: (results) =>
      toy.figures(results).map((one) => ({
        ...one,
        title: words,
        caption: words,
        alt: words,
        spec: { ...one.spec, title: words },
      })),
    claims: (results) => toy.claims(results).map((claim) => ({ ...claim, statement: words, note: words })),
    tables: (results) => ({ final: results.final("x").derive({ words: `'${words.replaceAll("'", "")}'` }) }),
  };
  const { read } = await build(folder.path, [hostile]);
  for (const file of ["index.html", "toy-logistic.html"]) {
    assert.ok(!read(file).includes("<script>alert"), file);
  }
});

Deno.test("an experiment that cannot judge incomplete results still gets a page that says so", async () => {
  using folder = temporaryFolder();
  const picky: Experiment = {
    ...toy,
    claims: () => {
      throw new Error("too few seeds");
    },
  };
  const { read } = await build(folder.path, [picky]);
  assert.match(read("toy-logistic.html"), /No claims could be made of these results: too few seeds/);
});

Deno.test("a folder that is no former site is left alone", async () => {
  using folder = temporaryFolder();
  const outDir = join(folder.path, "precious");
  mkdirSync(outDir);
  writeFileSync(join(outDir, "thesis.txt"), "");
  await assert.rejects(
    buildSite({ experiments: [toy], resultsDir: folder.path, outDir }),
    /must be new, empty or a former site: current folder is .*precious/,
  );
  assert.ok(existsSync(join(outDir, "thesis.txt")));
});

Deno.test("the command for options that need quoting", async () => {
  using folder = temporaryFolder();
  const options = { mark: "it's here" };
  const settings = { experiment: toy, scale: "smoke", workers: 0, resultsDir: folder.path, options } as const;
  const { results } = await runExperiment(settings);
  assert.match(rerunCommand(toy, results), /--backend toy --option 'mark=it'\\''s here' --fresh$/);
});

/** Chromium without a window, if there is one. */
const chromium = ["chromium", "chromium-browser", "google-chrome"].find((name) => {
  try {
    return new Deno.Command(name, { args: ["--version"], stdout: "null", stderr: "null" }).outputSync()
      .success;
  } catch {
    return false;
  }
});
if (chromium === undefined) console.log("skipping the test in a browser: no chromium");

Deno.test({
  name: "in a browser, from disk, the interactive figures take the place of the pictures",
  ignore: chromium === undefined,
  async fn() {
    using folder = temporaryFolder();
    const { outDir } = await build(folder.path);
    const args = [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      `--user-data-dir=${join(folder.path, "profile")}`,
      "--virtual-time-budget=8000",
      "--enable-logging=stderr",
      "--dump-dom",
      `file://${outDir}/toy-logistic.html`,
    ];
    const { stdout, stderr } = await new Deno.Command(chromium!, { args, stdout: "piped", stderr: "piped" })
      .output();
    const dom = new TextDecoder().decode(stdout);
    assert.equal([...dom.matchAll(/<div class="[^"]*vega-embed[^"]*"/g)].length, 2);
    assert.equal([...dom.matchAll(/<img [^>]*hidden=""/g)].length, 2);
    assert.doesNotMatch(new TextDecoder().decode(stderr), /CONSOLE.*(error|warn)/i);
  },
});
