import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { cellsOf, code, startTool, tool, withNotebook } from "./_fixtures.ts";

const stream = (text: string[], name = "stdout") => ({ output_type: "stream", name, text });

Deno.test("run: no output is lost over 20 cells; streams merge, results and counts are kept", () => {
  const cells = Array.from(
    { length: 20 },
    (_, k) =>
      code(`for (let i = 0; i < 50; i++) console.log("cell ${k} line", i);\nconsole.error("e");\n${k};`),
  );
  return withNotebook(cells, async (path, folder) => {
    const { status, stdout, lastLine } = await tool("run", ["--write", path]);
    assert.deepEqual([status, lastLine], [0, "20 passed, 0 failed"], stdout);
    (await cellsOf(path)).forEach((cell, k) => {
      const lines = Array.from({ length: 50 }, (_, i) => `cell ${k} line ${i}\n`);
      const result = {
        output_type: "execute_result",
        data: { "text/plain": [`${k}`] },
        metadata: {},
        execution_count: k + 1,
      };
      // The two streams and the result come on their own ways: their order is not promised.
      const byKind = [...cell.outputs].sort((a, b) => JSON.stringify(a).localeCompare(JSON.stringify(b)));
      const expected = [stream(lines), stream(["e\n"], "stderr"), result];
      assert.deepEqual(byKind, expected.sort((a, b) => JSON.stringify(a).localeCompare(JSON.stringify(b))));
      assert.equal(cell.execution_count, k + 1);
    });
    assert.deepEqual(await readdir(folder), ["fixture.ipynb"]);
  });
});

Deno.test("run: long cells and long outputs arrive whole, text in any language", () => {
  const long = "ü€𝄞".repeat(50_000);
  return withNotebook([code(`console.log("${long}");`)], async (path) => {
    assert.equal((await tool("run", ["--write", path])).lastLine, "1 passed, 0 failed");
    assert.deepEqual((await cellsOf(path))[0]!.outputs, [stream([`${long}\n`])]);
  });
});

Deno.test("run: a cell imports the library by name and by path, from the notebook's folder", () =>
  withNotebook([
    code('import { imageSources } from "@normlab/normlab/data";\nimageSources.length;'),
    code('import { imageSources as same } from "../../../lib/data/mod.ts";\nsame === imageSources;'),
    code("Deno.cwd().split(/[\\\\/]/).at(-1)!.startsWith('fixture.tmp.');"),
  ], async (path) => {
    const { lastLine, stderr } = await tool("run", ["--write", path]);
    assert.equal(lastLine, "3 passed, 0 failed", stderr);
    const results = (await cellsOf(path)).map(({ outputs }) => outputs[0]?.["data"]);
    assert.deepEqual(results, ["3", "true", "true"].map((text) => ({ "text/plain": [text] })));
  }));

Deno.test("run: a cell that throws fails with its traceback; later cells are not run", () =>
  withNotebook([
    code("1;"),
    code('function deep(): never {\n  throw new TypeError("no such layer");\n}\ndeep();'),
    code("2;"),
  ], async (path) => {
    const { status, stdout, stderr, lastLine } = await tool("run", ["--write", path]);
    assert.deepEqual([status, lastLine], [1, "1 passed, 1 failed"]);
    assert.match(stdout, /cell 3 {2}FAILED/);
    assert.match(stdout, /1 cells not run/);
    assert.match(stderr, /\| deep\(\);/);
    assert.match(stderr, /TypeError: no such layer\n.*at deep/);
    const cells = await cellsOf(path);
    assert.deepEqual(cells[1]!.outputs.map(({ output_type, ename }) => [output_type, ename]), [[
      "error",
      "TypeError",
    ]]);
    assert.deepEqual([cells[2]!.outputs, cells[2]!.execution_count], [[], null]);
  }));

Deno.test("run: a cell tagged raises-exception may throw", () =>
  withNotebook([code('throw new Error("shown");', "raises-exception"), code("1;")], async (path) => {
    assert.equal((await tool("run", [path])).lastLine, "2 passed, 0 failed");
  }));

Deno.test("run: a cell that does not end fails when its time is up, and its kernel is gone", () =>
  withNotebook([code("console.log(Deno.pid);"), code("while (true);"), code("1;")], async (path) => {
    const started = performance.now();
    const { status, lastLine, stderr } = await tool("run", ["--write", "--timeout", "1", path]);
    assert.deepEqual([status, lastLine], [1, "1 passed, 1 failed"]);
    assert.match(stderr, /not done after 1 s/);
    assert.ok(performance.now() - started < 20_000);
    await assertGone(await printedPid(path));
  }));

Deno.test("run: a kernel that ends is a failure, not a hang", () =>
  withNotebook([code("1;"), code("Deno.exit(3);")], async (path) => {
    const { lastLine, stderr } = await tool("run", ["--timeout", "20", path]);
    assert.equal(lastLine, "1 passed, 1 failed");
    assert.match(stderr, /the kernel ended/);
  }));

Deno.test("run: a runner that is stopped takes its kernel with it and leaves the notebook alone", () =>
  withNotebook(
    [code('Deno.writeTextFileSync("pid", `${Deno.pid}`);'), code("while (true);")],
    async (path, folder) => {
      const before = await readFile(path, "utf8");
      const { child, done, said } = startTool("run", ["--write", path]);
      while (!said().includes("cell 2")) await new Promise((resolve) => setTimeout(resolve, 20));
      child.kill("SIGTERM");
      assert.notEqual((await done).status, 0);
      await assertGone(Number(await readFile(`${folder}/pid`, "utf8")));
      assert.equal(await readFile(path, "utf8"), before);
    },
  ));

Deno.test("run: an updated display shows its last content, in the cell that made it", () => {
  const send = (type: string, text: string) =>
    code(`await Deno.jupyter.broadcast("${type}", {
      data: { "text/plain": "${text}" }, metadata: {}, transient: { display_id: "progress" },
    });`);
  const cells = [
    send("display_data", "0%"),
    send("update_display_data", "50%"),
    send("update_display_data", "100%"),
  ];
  return withNotebook(cells, async (path) => {
    assert.equal((await tool("run", ["--write", path])).lastLine, "3 passed, 0 failed");
    const outputs = (await cellsOf(path)).map((cell) =>
      cell.outputs.filter((o) => o.output_type === "display_data")
    );
    const shown = { output_type: "display_data", data: { "text/plain": ["100%"] }, metadata: {} };
    assert.deepEqual(outputs, [[shown], [], []]);
  });
});

Deno.test("run: parameters are set after their cell, keep their type, and leave no trace in the notebook", () =>
  withNotebook([
    code('let scale = "laptop";\nlet seeds = 3;\nlet name = "7";', "parameters"),
    code("[scale, seeds + 1, name].join();"),
  ], async (path) => {
    const params = ["--param", "scale=smoke", "--param", "seeds=5", "--param", "name=8"];
    assert.equal((await tool("run", ["--write", ...params, path])).lastLine, "2 passed, 0 failed");
    const cells = await cellsOf(path);
    assert.deepEqual(cells.map(({ execution_count }) => execution_count), [1, 2]);
    assert.deepEqual(cells[1]!.outputs[0]!["data"], { "text/plain": ['"smoke,6,8"'] });
    const { status, stderr } = await tool("run", ["--param", "sale=smoke", path]);
    assert.equal(status, 1);
    assert.match(stderr, /Cannot set parameter sale .* current parameters are scale, seeds, name/);
  }));

Deno.test("run: without --write the file stays as it is", () =>
  withNotebook([code("console.log(1);")], async (path) => {
    const before = await readFile(path, "utf8");
    assert.equal((await tool("run", [path])).lastLine, "1 passed, 0 failed");
    assert.equal(await readFile(path, "utf8"), before);
  }));

Deno.test("run: files that are no notebooks, and wrong arguments, are errors", () =>
  withNotebook([], async (path, folder) => {
    const { status, stderr, lastLine } = await tool("run", [
      `${folder}/none.ipynb`,
      import.meta.filename!,
      path,
    ]);
    assert.deepEqual([status, lastLine], [1, "0 passed, 2 failed"]);
    assert.match(stderr, /must be JSON/);
    assert.equal((await tool("run", [])).status, 2);
    assert.match((await tool("run", ["--timeout", "soon", path])).stderr, /--timeout must be seconds/);
    assert.match((await tool("run", ["--param", "scale", path])).stderr, /--param must be NAME=VALUE/);
  }));

async function printedPid(path: string): Promise<number> {
  const text = (await cellsOf(path))[0]!.outputs[0]!["text"] as string[];
  return Number(text.join(""));
}

async function assertGone(pid: number): Promise<void> {
  assert.ok(pid > 1);
  for (let i = 0; i < 100; i++) {
    try {
      Deno.kill(pid, "SIGCONT");
    } catch {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail(`the kernel, process ${pid}, is still there`);
}
