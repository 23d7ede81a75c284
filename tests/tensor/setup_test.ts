import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { deflateRawSync } from "node:zlib";
import { cacheFolder, tensorflowFiles } from "../../lib/tensor/mod.ts";
import { setUp } from "../../tools/setup_tensorflow.ts";
import { sha256Of, stage } from "../../tools/_stages.ts";
import { compileLoader, unpackLibraries } from "../../tools/_tensorflow_stages.ts";
import { unzip } from "../../tools/_zip.ts";
import { type File, inFolder, zip } from "./_archives.ts";

const CC = "tensorflow/libtensorflow_cc.so.2";
const FRAMEWORK = "tensorflow/libtensorflow_framework.so.2";
const HEADER = "tensorflow/include/tensorflow/c/c_api.h";
const wheelFiles: File[] = [
  { name: CC, text: "cc ".repeat(50_000) },
  { name: FRAMEWORK, text: "framework", stored: true },
  { name: HEADER, text: "" },
  { name: "tensorflow/python/everything.py", text: "not needed" },
];

Deno.test("unzip takes chosen entries out, stored, deflated and empty ones", () =>
  inFolder(async (folder) => {
    const archive = join(folder, "a.whl");
    await writeFile(archive, zip(wheelFiles));
    const names = await unzip(archive, join(folder, "out"), (name) => !name.endsWith(".py"));
    assert.deepEqual(names, [CC, FRAMEWORK, HEADER]);
    for (const { name, text } of wheelFiles.slice(0, 3)) {
      assert.equal(await readFile(join(folder, "out", name), "utf8"), text);
    }
    assert.deepEqual((await readdir(join(folder, "out", "tensorflow"))).sort(), [
      "include",
      "libtensorflow_cc.so.2",
      "libtensorflow_framework.so.2",
    ]);
  }));

Deno.test("unzip refuses archives that are damaged, cut short, or reach outside the folder", () =>
  inFolder(async (folder) => {
    const whole = zip(wheelFiles);
    const changed = (at: number) => whole.map((byte, i) => i === at ? byte ^ 0x55 : byte);
    const framework = 30 + CC.length + deflateRawSync("cc ".repeat(50_000)).length + 30 + FRAMEWORK.length;
    const damaged: [string, Uint8Array][] = [
      ["checksum", changed(framework)],
      ["cannot be unpacked|checksum", changed(30 + CC.length + 4)],
      ["cut short", whole.slice(0, whole.length - 30)],
      ["directory", whole.slice(500)],
      ["cut short", new Uint8Array(0)],
      ["outside the folder", zip([{ name: "../escaped", text: "x" }])],
      ["outside the folder", zip([{ name: "/tmp/escaped", text: "x" }])],
    ];
    for (const [reason, bytes] of damaged) {
      const archive = join(folder, "a.whl");
      await writeFile(archive, bytes);
      await assert.rejects(
        () => unzip(archive, join(folder, "out"), () => true),
        (error) => error instanceof SyntaxError && new RegExp(reason).test(error.message),
        reason,
      );
      await rm(join(folder, "out"), { recursive: true, force: true });
    }
    assert.deepEqual(await readdir(folder), ["a.whl"]);
  }));

Deno.test("a wheel with another checksum is refused before anything is written", () =>
  inFolder(async (folder) => {
    const wheel = join(folder, "tensorflow_cpu.whl");
    await writeFile(wheel, zip(wheelFiles));
    const files = tensorflowFiles("cpu", join(folder, "cache"));
    await assert.rejects(
      () => setUp(files, wheel, () => {}),
      /Cannot unpack .*tensorflow_cpu\.whl as its sha256 must be [0-9a-f]{64}: current sha256 is [0-9a-f]{64}/,
    );
    assert.deepEqual(await readdir(files.folder), []);
    await assert.rejects(() => setUp(files, join(folder, "absent.whl"), () => {}), /ENOENT.*absent\.whl/);
  }));

Deno.test("the libraries and headers are taken from a wheel; one without them is refused", () =>
  inFolder(async (folder) => {
    const wheel = join(folder, "a.whl");
    const out = join(folder, "out");
    await writeFile(wheel, zip(wheelFiles));
    await unpackLibraries(wheel, await sha256Of(wheel), out);
    assert.equal(await readFile(join(out, FRAMEWORK), "utf8"), "framework");
    assert.deepEqual((await readdir(out, { recursive: true })).filter((name) => name.endsWith(".py")), []);

    await writeFile(wheel, zip(wheelFiles.slice(1)));
    await assert.rejects(
      async () => unpackLibraries(wheel, await sha256Of(wheel), out),
      /must hold tensorflow\/libtensorflow_cc\.so\.2: it does not/,
    );
  }));

Deno.test("a stage is made once, whole or not at all, and a failed one is made again", () =>
  inFolder(async (folder) => {
    const target = join(folder, "stage");
    const lines: string[] = [];
    const log = (line: string) => lines.push(line);
    let runs = 0;
    const make = async (temporary: string) => {
      await writeFile(temporary, "half");
      runs++;
      if (runs === 1) throw new Error("stopped");
      await writeFile(temporary, "whole");
    };
    await assert.rejects(() => stage("1/1 it", target, log, make), /stopped/);
    assert.deepEqual(await readdir(folder), []);
    await stage("1/1 it", target, log, make);
    await stage("1/1 it", target, log, make);
    assert.equal(await readFile(target, "utf8"), "whole");
    assert.equal(runs, 2);
    assert.deepEqual(lines.map((line) => line.replace(/[\d.]+ s$/, "")), [
      "1/1 it ...",
      "1/1 it ...",
      "1/1 it: done in ",
      "1/1 it: there",
    ]);
  }));

Deno.test("a missing compiler is named, with the way to get one", async () => {
  const before = process.env.CXX;
  process.env.CXX = "no-such-compiler";
  try {
    await assert.rejects(
      () => compileLoader(tensorflowFiles("cpu"), "never-written"),
      /Cannot compile the binding as a C\+\+ compiler must be there: none of no-such-compiler runs.*apt install g\+\+/,
    );
  } finally {
    if (before === undefined) delete process.env.CXX;
    else process.env.CXX = before;
  }
});

Deno.test("the command, run again when all is there, says so within a second", () =>
  inFolder(async (folder) => {
    const files = tensorflowFiles("cpu", folder);
    await mkdir(dirname(files.ready), { recursive: true });
    await writeFile(files.ready, "{}");
    const { status, output, seconds } = runCommand(["--dir", folder]);
    assert.equal(status, 0, output);
    assert.equal(
      output,
      `TensorFlow 2.21.0 is set up in ${files.folder}\nTo use it, set NORMLAB_CACHE=${folder}\n`,
    );
    assert.ok(seconds < 1, `took ${seconds} s`);
  }));

Deno.test("the command says what is missing: pip, a wheel's file", () =>
  inFolder((folder) => {
    const noPip = runCommand(["--dir", join(folder, "a")], { PYTHON: join(folder, "no-python") });
    assert.equal(noPip.status, 1);
    assert.match(
      noPip.output,
      /Cannot fetch TensorFlow as Python's pip must be there: .*pass --wheel FILE$/m,
    );
    const noWheel = runCommand(["--dir", join(folder, "b"), "--wheel", join(folder, "absent.whl")]);
    assert.equal(noWheel.status, 1);
    assert.match(noWheel.output, /absent\.whl/);
    assert.equal(runCommand(["--unknown"]).status, 1);
    return Promise.resolve();
  }));

function runCommand(options: string[], env: Record<string, string> = {}) {
  const script = fileURLToPath(new URL("../../tools/setup_tensorflow.ts", import.meta.url));
  const start = performance.now();
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ["run", "-A", "--no-lock", script, ...options],
    { cwd: dirname(dirname(script)), env: { ...process.env, NO_COLOR: "1", ...env }, encoding: "utf8" },
  );
  return { status, output: stdout + stderr, seconds: (performance.now() - start) / 1000 };
}

Deno.test("the cache's place: NORMLAB_CACHE, else XDG_CACHE_HOME, else the home folder", () => {
  const before = { ...process.env };
  try {
    process.env.NORMLAB_CACHE = "/somewhere";
    assert.equal(cacheFolder(), "/somewhere");
    delete process.env.NORMLAB_CACHE;
    process.env.XDG_CACHE_HOME = "/xdg";
    assert.equal(cacheFolder(), "/xdg/normlab");
    delete process.env.XDG_CACHE_HOME;
    process.env.HOME = "/home/someone";
    assert.equal(cacheFolder(), "/home/someone/.cache/normlab");
  } finally {
    for (const name of ["NORMLAB_CACHE", "XDG_CACHE_HOME", "HOME"]) {
      const value = before[name];
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
});
