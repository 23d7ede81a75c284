import assert from "node:assert/strict";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkGolden, defaultFolder, main } from "../../tools/golden/main.ts";
import { compare } from "../../tools/golden/report.ts";
import { testGoldenGroups } from "./_golden_groups.ts";

/** Tensors compared in the repository's folder: 7 cases x 13 layers, and 244 graphs in two input sets. */
const expected = { layers: 616, graphs: 3188 };

await testGoldenGroups(
  ["layers", "graphs"],
  (group, _backend, compared) => assert.equal(compared, expected[group]),
);

Deno.test("reference values: evolution, once and without a backend; a wrong value is a miss", async () => {
  const [report, ...others] = await checkGolden({ only: ["evolution"] });
  assert.equal(others.length, 0);
  // 8 Pareto examples x 3, 16 births and 10 tournaments x 3, tournament sizes, 2 x 10 sizes of the space, two nodes.
  assert.equal(report!.comparisons.length, 24 + 16 + 30 + 1 + 20 + 1);
  assert.deepEqual(report!.comparisons.filter(({ passed }) => !passed), []);
  const folder = await copyOf("evolution", async (evolution) => {
    const file = join(evolution, "examples.json");
    const examples = JSON.parse(await readFile(file, "utf8"));
    examples.ageing.events[10].population_after.shift();
    examples.space.counts.all[9].ordered += "0";
    await writeFile(file, JSON.stringify(examples));
  });
  const [changed] = await checkGolden({ folders: [folder] });
  const missed = changed!.comparisons.filter(({ passed }) => !passed).map(({ name }) => name);
  assert.deepEqual(missed, ["evolution/ageing 10/population", "evolution/all operations 10/space"]);
  await rm(folder, { recursive: true });
});

/** A copy of one group, changed by `change`. */
async function copyOf(group: string, change: (folder: string) => Promise<void>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "golden-"));
  await cp(join(defaultFolder, group), join(folder, group), { recursive: true });
  await change(join(folder, group));
  return folder;
}

Deno.test("golden: another folder of the same format is checked, and a wrong value is a miss", async () => {
  const folder = await copyOf("layers", async (layers) => {
    const index = JSON.parse(await readFile(join(layers, "index.json"), "utf8"));
    index.cases = { small_odd: index.cases.small_odd };
    index.layers = ["S0"];
    await writeFile(join(layers, "index.json"), JSON.stringify(index));
  });
  assert.equal(await main([folder, "--backend", "wasm"]), 0);

  const file = join(folder, "layers", "small_odd.safetensors");
  const bytes = await readFile(file);
  const header = Number(bytes.readBigUInt64LE(0));
  const [begin] = JSON.parse(bytes.subarray(8, 8 + header).toString())["S0/y_train"].data_offsets;
  const at = 8 + header + begin;
  bytes.writeFloatLE(bytes.readFloatLE(at) + 1e-3, at);
  await writeFile(file, bytes);
  assert.equal(await main([folder, "--backend", "wasm"]), 1);
  await rm(folder, { recursive: true });
});

Deno.test("golden: unknown groups, backends and unreadable folders are errors", async () => {
  await assert.rejects(checkGolden({ only: ["layer"] }), {
    name: "RangeError",
    message:
      /^Cannot check reference values as the group must be one of layers, graphs, stability, (\w+, )+\w+: current group is "layer"$/,
  });
  await assert.rejects(checkGolden({ folders: ["/no/such/folder"], backends: ["wasm"] }), /must be readable/);
  const empty = await mkdtemp(join(tmpdir(), "golden-"));
  await assert.rejects(
    checkGolden({ folders: [empty], backends: ["wasm"] }),
    /must hold layers or graphs or stability (or \w+ ?)+: current folder is/,
  );
  assert.equal(await main([empty]), 2);
  assert.equal(await main(["--backend", "abacus", "--only", "layers"]), 2);
  assert.equal(await main(["--such"]), 2);
  await rm(empty, { recursive: true });
});

Deno.test("golden: a truncated tensor file is an error, not a miss", async () => {
  const folder = await copyOf("graphs", async (graphs) => {
    const file = join(graphs, "tensors.safetensors");
    await writeFile(file, (await readFile(file)).subarray(0, 1000));
  });
  assert.equal(await main([folder, "--backend", "wasm"]), 2);
  await rm(folder, { recursive: true });
});

Deno.test("compare: errors are relative to the largest reference, infinities must agree", () => {
  const near = compare("a", [1, 2.001, 0], [1, 2, 0], [3], 1e-3);
  assert.ok(near.passed && Math.abs(near.error - 5e-4) < 1e-6);
  assert.deepEqual(near.worst, [1]);
  assert.ok(!compare("b", [1, NaN], [1, 2], [2], 1).passed);
  assert.ok(compare("c", [Infinity, 1], [Infinity, 1], [2], 0).passed);
  assert.ok(!compare("d", [Infinity, 1], [-Infinity, 1], [2], 1).passed);
  assert.throws(() => compare("e", [1], [1, 2], [2], 1), TypeError);
});
