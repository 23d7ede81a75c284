import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { checkNotebook, extractCells, type Problem } from "../../tools/notebook/checker.ts";
import { cellsOf, code, tool, withNotebook } from "./_fixtures.ts";

/** The problems of a notebook of these cells; nothing may be left beside it. */
async function problemsOf(cells: ReturnType<typeof code>[], metadata?: unknown): Promise<Problem[]> {
  let problems: Problem[] = [];
  await withNotebook(cells, async (path, folder) => {
    problems = (await checkNotebook(path)).problems;
    assert.deepEqual(await readdir(folder), ["fixture.ipynb"]);
  }, metadata);
  return problems;
}

Deno.test("check: sound cells pass; parameters may change", async () => {
  const problems = await problemsOf([
    code('import { imageSources } from "@normlab/normlab/data";'),
    code('let scale: "smoke" | "laptop" = "laptop";', "parameters"),
    code('console.log(scale === "smoke", imageSources.length, await Promise.resolve(1));'),
  ]);
  assert.deepEqual(problems, []);
});

Deno.test("check: a type error is found, with cell and line", async () => {
  const [problem, ...rest] = await problemsOf([
    code("export const a = 1;"),
    code('const b: number = 2;\nconst c: number = "three";\nconsole.log(b, c);'),
  ]);
  assert.deepEqual(rest, []);
  assert.deepEqual([problem!.cell, problem!.line], [3, 2]);
  assert.match(problem!.message, /^TS2322 \[ERROR\]: Type 'string' is not assignable to type 'number'/);
});

Deno.test("check: an export that does not exist is found", async () => {
  const problems = await problemsOf([
    code('import { loadPictures } from "@normlab/normlab/data";\nconsole.log(loadPictures);'),
  ]);
  assert.deepEqual(problems.map(({ cell, line }) => [cell, line]), [[2, 1]]);
  assert.match(problems[0]!.message, /has no exported member (named )?'loadPictures'/);
});

Deno.test("check: a module that does not exist is found", async () => {
  const problems = await problemsOf([code('import { x } from "./nowhere.ts";\nconsole.log(x);')]);
  assert.equal(problems.length, 1);
  assert.match(problems[0]!.message, /nowhere\.ts/);
});

Deno.test("check: lint and formatting", async () => {
  const lint = await problemsOf([code("1;"), code("let x = 1;\nconsole.log(x);")]);
  assert.deepEqual(lint.map(({ cell, line }) => [cell, line]), [[3, 1]]);
  assert.match(lint[0]!.message, /^lint prefer-const: /);
  const format = await problemsOf([code("console.log( 1 )")]);
  assert.equal(format.length, 1);
  assert.equal(format[0]!.message, "not formatted: check with --fix");
});

Deno.test("check: --fix formats a notebook, with the project's line width", () => {
  const wide = `console.log("${"x".repeat(80)}");`; // 95 characters: one line at 110, not at 80
  return withNotebook([code(`${wide.slice(0, -1)}\nconsole.log( 1 )`)], async (path) => {
    assert.equal((await tool("check", ["--fix", path])).lastLine, "1 passed, 0 failed");
    assert.deepEqual((await cellsOf(path)).map(({ source }) => source), [`${wide}\nconsole.log(1);`]);
    assert.deepEqual((await checkNotebook(path)).problems, []);
  });
});

Deno.test("check: a syntax error is found", async () => {
  const problems = await problemsOf([code("1;"), code("const = 2;")]);
  assert.ok(problems.some(({ message }) => /[Ee]xpect|TS1|parse/.test(message)), JSON.stringify(problems));
});

Deno.test("check: a notebook without its language is refused, as the formatter would skip it", async () => {
  const problems = await problemsOf([code("1;")], {});
  assert.deepEqual(problems, [{
    message: 'metadata.language_info.name must be "typescript": current name is undefined',
  }]);
});

Deno.test("extractCells: lines keep their origin; parameters are assigned", () => {
  const cells = [code("let n = 1;\nlet s = 2;", "parameters"), { cell_type: "markdown" }, code("n;")];
  const { code: text, origins } = extractCells({ cells });
  assert.equal(
    text,
    'let n = 1;\nlet s = 2;\nn = JSON.parse("0");\ns = JSON.parse("0");\nn;\nexport {};\n',
  );
  const at = (cell: number, line: number) => ({ cell, line });
  assert.deepEqual(origins, [at(1, 1), at(1, 2), undefined, undefined, at(3, 1)]);
});

Deno.test("check: the command names notebook, cell and line, and ends with the counts", () =>
  withNotebook([code("const x: string = 1;\nconsole.log(x);")], async (path) => {
    const { status, stderr, lastLine } = await tool("check", [path, `${path}.none`]);
    assert.deepEqual([status, lastLine], [1, "0 passed, 2 failed"]);
    assert.match(stderr, /fixture\.ipynb:cell 2:1: TS2322/);
    assert.match(stderr, /ENOENT|No such file/);
    assert.equal((await tool("check", [])).status, 2);
  }));
