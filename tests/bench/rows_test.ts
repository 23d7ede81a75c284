import assert from "node:assert/strict";
import { fromArrow } from "arquero";
import { compare, decodeRows, encodeRows, row } from "../../bench/_rows.ts";
import { ratiosOf, summarise } from "../../bench/_summary.ts";

const base = { bench: "layers", group: "published", shape: "1,2,2,4", phase: "forward" };
const rows = compare([
  row({ ...base, case: "A", contender: "mine", milliseconds: [9, 5, 4], gbps: 2.5 }),
  row({ ...base, case: "A", contender: "theirs", layout: "NCHW", milliseconds: [10] }),
  row({ ...base, case: "A", contender: "theirs", layout: "channels_last", milliseconds: [20] }),
  row({ ...base, case: "B", contender: "mine", milliseconds: [6] }),
  row({ ...base, case: "B", contender: "theirs", layout: "NCHW", milliseconds: [8] }),
  row({ ...base, case: "B", contender: "theirs", layout: "channels_last", milliseconds: [3] }),
], "theirs");

Deno.test("each case is compared with the reference in its better layout", () => {
  assert.deepEqual(rows.map((r) => r.ratio), [0.5, 1, 2, 2, 8 / 3, 1]);
  assert.deepEqual(rows.map((r) => r.best), [true, true, false, true, false, true]);
  assert.deepEqual(ratiosOf(rows, "mine", "theirs"), [0.5, 2]);
  assert.deepEqual(ratiosOf(rows, "mine", "theirs", "min_ms"), [0.4, 2]);
});

Deno.test("rows survive Arrow, and other readers see the same table", () => {
  const bytes = encodeRows(rows, new Map([["commit", "abc"]]));
  const decoded = decodeRows(bytes);
  assert.deepEqual(decoded.rows, rows);
  assert.equal(decoded.metadata.get("commit"), "abc");
  const table = fromArrow(bytes);
  assert.equal(table.numRows(), rows.length);
  assert.deepEqual(table.array("median_ms"), [5, 10, 20, 6, 8, 3]);
  assert.deepEqual(table.array("gbps"), [2.5, null, null, null, null, null]);
});

Deno.test("the summary averages ratios geometrically over layers", () => {
  const named = rows.map((r) => ({
    ...r,
    contender: r.contender === "mine" ? "kit compiled (wasm)" : "torch.compile",
  }));
  assert.match(summarise(named), /kit compiled \(wasm\) \/ torch\.compile +\| 1\.00 /);
});
