/**
 * `deno task test`: everything that has to hold, in order of cost. Each step is a process of its own; all steps run even after one
 * fails, and the last line counts them together with the single tests: `N passed, N failed`.
 */
import { spawn } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";

interface Step {
  name: string;
  args: string[];
  /** Reads "N passed, N failed" or Deno's own summary from the output; a step without counts as one test. */
  counts?: boolean;
}

// The smoke scale is trained once: by the tests, into a folder in which the notebooks then find it.
const results = await mkdtemp(join(tmpdir(), "normlab-test-"));
process.env["NORMLAB_TEST_RESULTS"] = results;

const notebooks = (await readdir("notebooks")).filter((name) => name.endsWith(".ipynb")).map((name) =>
  `notebooks/${name}`
);

const steps: Step[] = [
  { name: "format", args: ["fmt", "--check"] },
  { name: "lint", args: ["lint"] },
  { name: "rooms", args: ["run", "--allow-read", "tools/lint_rooms.ts"] },
  { name: "types", args: ["check", "lib", "experiments", "tools", "tests", "bench"] },
  { name: "notebook cells", args: ["run", "-A", "tools/notebook/check.ts", ...notebooks] },
  { name: "documentation examples", args: ["test", "-A", "--doc", "lib"], counts: true },
  { name: "tests", args: ["test", "-A", "tests"], counts: true },
  {
    name: "notebooks",
    args: ["run", "-A", "tools/notebook/run.ts", "--param", `folder=${results}`, ...notebooks],
    counts: true,
  },
];

let passed = 0;
let failed = 0;
for (const step of steps) {
  const start = performance.now();
  console.log(`\n== ${step.name}`);
  const { code, output } = await run(step.args);
  const counted = step.counts ? lastCounts(output) : null;
  passed += counted?.passed ?? (code === 0 ? 1 : 0);
  // A step that broke before or beside its tests is a failure even if no single test was one.
  failed += counted?.failed || (code === 0 ? 0 : 1);
  console.log(
    `== ${step.name}: ${code === 0 ? "ok" : "FAILED"} in ${
      ((performance.now() - start) / 1000).toFixed(0)
    } s`,
  );
}
await rm(results, { recursive: true, force: true });
console.log(`\n${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);

/** Runs `deno ARGS`, showing its output as it comes. */
function run(args: string[]): Promise<{ code: number; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    const show = (stream: NodeJS.WriteStream) => (chunk: Uint8Array) => {
      output += new TextDecoder().decode(chunk);
      stream.write(chunk);
    };
    child.stdout.on("data", show(process.stdout));
    child.stderr.on("data", show(process.stderr));
    child.on("error", reject);
    child.on("close", (code) => resolve({ code: code ?? 1, output }));
  });
}

/** The last "N passed ... N failed" of a step's output, colours aside. */
function lastCounts(output: string): { passed: number; failed: number } | null {
  // deno-lint-ignore no-control-regex
  const plain = output.replaceAll(/\u001b\[[0-9;]*m/g, "");
  const match = [...plain.matchAll(/(\d+) passed[^\n]*?(\d+) failed/g)].at(-1);
  return match ? { passed: Number(match[1]), failed: Number(match[2]) } : null;
}
