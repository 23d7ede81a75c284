import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { lintFile, lintRooms } from "../../tools/lint_rooms.ts";
import { maskSource } from "../../tools/_mask.ts";

const messages = (file: string, source: string) => lintFile(file, source).map(({ message }) => message);

Deno.test("maskSource: same length and lines; comments, strings, templates and regular expressions blanked", () => {
  const source = [
    'const a = "text // no comment"; // comment "quoted"',
    "/* block",
    "*/ const b = `t ${f(`in ${{ x: `}` }.x} er`)} ail`;",
    "const c = x / y / z; const d = /[/\"']+\\//g.test('q'); return /zz\"/;",
    'f(a)/2; /* " */ last();',
  ].join("\n");
  const { code, strings } = maskSource(source);
  assert.equal(code.length, source.length);
  assert.equal(code.split("\n").length, source.split("\n").length);
  for (const gone of ["text", "comment", "quoted", "block", " in ", "ail", "zz"]) {
    assert.ok(!code.includes(gone), gone);
  }
  for (const kept of ["const b", "f(`", ".x}", "x / y / z", ".test('", "f(a)/2", "last();"]) {
    assert.ok(code.includes(kept), kept);
  }
  assert.deepEqual([...strings.values()], ["text // no comment", "q"]);
});

Deno.test("rooms import along the arrows only, whatever the form of the import", () => {
  assert.deepEqual(messages("lib/layers/a.ts", 'import { x } from "../graph/mod.ts";'), []);
  assert.deepEqual(messages("lib/layers/deep/a.ts", 'import { x } from "../../graph/mod.ts";'), []);
  const refused = "room graph may import no other room, not tensor";
  for (
    const source of [
      'import { x } from "../tensor/mod.ts";',
      'import type { x } from "../tensor/mod.ts";',
      'import "../tensor/mod.ts";',
      'export * from "../tensor/mod.ts";',
      'const x = await import("../tensor/mod.ts");',
      'type X = import("../tensor/mod.ts").X;',
      "import {\n  a,\n  b,\n} from '../tensor/mod.ts';",
      'import { x } from "@normlab/normlab/tensor";',
    ]
  ) assert.deepEqual(messages("lib/graph/a.ts", source), [refused], source);
  assert.deepEqual(messages("lib/models/a.ts", 'import "../train/mod.ts";'), [
    "room models may import layers, attention, graph, tensor, not train",
  ]);
});

Deno.test("imports in comments and texts do not count", () => {
  const source = '/** import { x } from "../tensor/mod.ts"; */\nconst s = `import "../tensor/mod.ts"`;';
  assert.deepEqual(messages("lib/graph/a.ts", source), []);
});

Deno.test("other rooms are entered through mod.ts; _files stay private, except to tests", () => {
  const private_ = "lib/tensor/_wasm.ts is private to room tensor";
  assert.deepEqual(messages("lib/train/a.ts", 'import "../tensor/_wasm.ts";'), [private_]);
  assert.deepEqual(messages("experiments/a.ts", 'import "../lib/tensor/_wasm.ts";'), [private_]);
  assert.deepEqual(messages("lib/tensor/sub/a.ts", 'import "../_wasm.ts";'), []);
  assert.deepEqual(messages("tests/tensor/a_test.ts", 'import "../../lib/tensor/_wasm.ts";'), []);
  assert.deepEqual(messages("bench/a.ts", 'import "../lib/tensor/streams.ts";'), [
    "import room tensor through lib/tensor/mod.ts, not lib/tensor/streams.ts",
  ]);
  assert.deepEqual(
    messages("tools/a.ts", 'import "../lib/tensor/mod.ts"; import "../lib/graph/mod.ts";'),
    [],
  );
});

Deno.test("lib imports nothing of experiments or tools; a room must be in the table", () => {
  assert.deepEqual(messages("lib/train/a.ts", 'import "../../tools/x.ts";'), [
    "lib imports nothing outside of lib: tools/x.ts",
  ]);
  assert.deepEqual(messages("lib/cellar/a.ts", 'import "./b.ts";'), [
    "lib/cellar is not in the table of rooms of tools/lint_rooms.ts",
  ]);
});

Deno.test("Deno, Math.random and long files are found with their lines", () => {
  const message =
    "the library touches Deno only in lib/experiment/_host.ts and lib/tensor/_onednn_library.ts";
  assert.deepEqual(lintFile("lib/data/a.ts", '// Deno.x\nconst s = "Deno";\nDeno.cwd();\nglobalThis.Deno;'), [
    { file: "lib/data/a.ts", line: 3, message },
    { file: "lib/data/a.ts", line: 4, message },
  ]);
  for (const file of ["lib/experiment/_host.ts", "lib/tensor/_onednn_library.ts"]) {
    assert.deepEqual(messages(file, "Deno.cwd();"), []);
  }
  assert.deepEqual(messages("tools/a.ts", "Deno.cwd(); Math.random();"), []);
  assert.deepEqual(messages("experiments/a.ts", "Math.random();"), [
    "Math.random cannot be repeated: draw from a stream",
  ]);
  assert.deepEqual(messages("lib/graph/a.ts", "x;\n".repeat(400)), []);
  assert.deepEqual(messages("lib/graph/a.ts", "x;\n".repeat(401)), [
    "401 lines, more than 400: split the file",
  ]);
  assert.deepEqual(messages("tests/graph/a.ts", "x;\n".repeat(401)), []);
});

Deno.test("the command prints file:line: message and exits 1, or 0 where all is well", async () => {
  const root = await mkdtemp(join(tmpdir(), "normlab-rooms-"));
  try {
    const put = async (path: string, text: string) => {
      await mkdir(dirname(join(root, path)), { recursive: true });
      await writeFile(join(root, path), text);
    };
    await put("lib/graph/mod.ts", "export const x = 1;\n");
    await put("lib/graph/node_modules/y.ts", "Math.random();\n");
    const run = () =>
      spawnSync(process.execPath, ["run", "--allow-read", "tools/lint_rooms.ts", root], { encoding: "utf8" });
    const good = run();
    assert.deepEqual([good.status, good.stdout], [0, "rooms: 1 files, 0 problems\n"]);
    await put("lib/graph/bad.ts", '\nimport "../layers/mod.ts";\n');
    const bad = run();
    assert.equal(bad.status, 1);
    assert.match(bad.stderr, /^lib\/graph\/bad\.ts:2: room graph may import no other room, not layers$/m);
    assert.equal((await lintRooms(root)).problems.length, 1);
  } finally {
    await rm(root, { recursive: true });
  }
});
