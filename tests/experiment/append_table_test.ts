import { tableFromIPC } from "apache-arrow";
import assert from "node:assert/strict";
import {
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import {
  AppendTable,
  readTable,
  StorageError,
  type TableColumns,
  type TableLayout,
  writeTable,
} from "../../lib/experiment/mod.ts";
import { temporaryFolder } from "./_helpers.ts";

const layout: TableLayout = {
  columns: [{ name: "place", kind: "int32" }, { name: "score", kind: "float64" }, {
    name: "text",
    kind: "utf8",
  }],
  metadata: { identity: "a" },
};

const rows = (from: number, to: number): TableColumns => {
  const places = Array.from({ length: to - from }, (_, i) => from + i);
  return {
    place: Int32Array.from(places),
    score: Float64Array.from(places, (place) => (place % 3 === 0 ? NaN : place / 7)),
    text: places.map((place) => (place % 4 === 0 ? "" : `é${place}`)),
  };
};

/** All rows of a table, column by column. */
function all(folder: string, as: TableLayout = layout): Record<string, (number | string)[]> {
  const joined: Record<string, (number | string)[]> = { place: [], score: [], text: [] };
  for (const batch of new AppendTable(folder, as).read()) {
    for (const [name, values] of Object.entries(batch)) {
      joined[name]!.push(...Array.from(values as ArrayLike<number | string>));
    }
  }
  return joined;
}

const plain = (columns: TableColumns) =>
  Object.fromEntries(
    Object.entries(columns).map(([name, values]) => [name, Array.from(values as ArrayLike<number | string>)]),
  );

Deno.test("append table: batches come back in order, from few files however many there were", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "deep", "table");
  const table = new AppendTable(path, layout);
  assert.equal(table.rows, 0);
  let row = 0;
  for (let batch = 0; batch < 300; batch++) {
    const next = row + batch % 5 + (batch === 100 ? 5000 : 0);
    table.append(rows(row, next));
    row = next;
    assert.equal(table.rows, row);
    if (batch % 97 === 0) assert.deepEqual(all(path), plain(rows(0, row)));
  }
  assert.deepEqual(all(path), plain(rows(0, row)));
  const files = readdirSync(path);
  assert.ok(files.length < 64 + 3, `${files.length} files`);
  const again = new AppendTable(path, layout);
  again.append(rows(row, row + 1));
  assert.deepEqual(all(path), plain(rows(0, row + 1)));
});

Deno.test("append table: its files are Arrow files for any reader", () => {
  using folder = temporaryFolder();
  new AppendTable(folder.path, layout).append(rows(0, 3));
  const table = tableFromIPC(readFileSync(join(folder.path, "rows-00000000-00000003.arrow")));
  assert.deepEqual(table.toArray().map((row) => row.toJSON()), [
    { place: 0, score: NaN, text: "" },
    { place: 1, score: 1 / 7, text: "é1" },
    { place: 2, score: 2 / 7, text: "é2" },
  ]);
  assert.equal(table.schema.metadata.get("identity"), "a");
});

Deno.test("append table: a process that died while merging or writing leaves nothing wrong", () => {
  using folder = temporaryFolder();
  const path = folder.path;
  for (const [from, to] of [[0, 2], [2, 3], [3, 7], [7, 9]] as const) {
    new AppendTable(path, layout).append(rows(from, to));
  }
  // The merged file is there, and the merged ones still are; and a half-written one of long ago.
  writeTable(join(path, "rows-00000000-00000007.arrow"), rows(0, 7), layout);
  const orphan = join(path, ".rows-00000009-00000010.arrow.1-1.tmp");
  writeFileSync(orphan, "ARROW");
  utimesSync(orphan, 1, 1);
  assert.deepEqual(all(path), plain(rows(0, 9)));
  new AppendTable(path, layout).append(rows(9, 10));
  assert.deepEqual(readdirSync(path).sort(), [
    "rows-00000000-00000007.arrow",
    "rows-00000007-00000009.arrow",
    "rows-00000009-00000010.arrow",
  ]);
  assert.deepEqual(all(path), plain(rows(0, 10)));
});

Deno.test("append table: damage, gaps and files of another table are told with their file", () => {
  using folder = temporaryFolder();
  const path = folder.path;
  for (const [from, to] of [[0, 2], [2, 4], [4, 6]] as const) {
    new AppendTable(path, layout).append(rows(from, to));
  }
  const middle = join(path, "rows-00000002-00000004.arrow");
  const refused = (message: RegExp, as: TableLayout = layout) =>
    assert.throws(() => all(path, as), { name: "BrokenFileError", message });
  refused(/its 'identity' is a and not b/, { ...layout, metadata: { identity: "b" } });
  refused(/its columns are place: Int32, .* and not place: Int32, score: Float64$/, {
    ...layout,
    columns: layout.columns.slice(0, 2),
  });
  const bytes = readFileSync(middle);
  const damaged = bytes.slice();
  damaged[bytes.length >> 1]! ^= 1;
  writeFileSync(middle, damaged);
  refused(/rows-00000002-00000004.arrow must be one of its files: it is a damaged Arrow file/);
  writeFileSync(middle, bytes);
  truncateSync(middle, bytes.length - 20);
  refused(/truncated Arrow file/);
  rmSync(middle);
  refused(/current file rows-00000004-00000006.arrow follows row 2/);
  renameSync(join(path, "rows-00000004-00000006.arrow"), join(path, "rows-00000002-00000005.arrow"));
  refused(/it must hold 3 rows/);
});

Deno.test("append table: a disk that is full leaves the table as it was", () => {
  using folder = temporaryFolder();
  const full = (path: string) => {
    writeFileSync(path, "half");
    throw Object.assign(new Error("no space left"), { code: "ENOSPC" });
  };
  new AppendTable(folder.path, layout).append(rows(0, 5));
  const table = new AppendTable(folder.path, layout, full);
  assert.throws(
    () => table.append(rows(5, 6)),
    (error: Error) => error instanceof StorageError && /disk is full/.test(error.message),
  );
  assert.equal(table.rows, 5);
  assert.deepEqual(readdirSync(folder.path), ["rows-00000000-00000005.arrow"]);
  assert.throws(() => new AppendTable(folder.path, layout).append({ ...rows(5, 7), text: ["x"] }), {
    name: "TypeError",
    message: "Cannot keep a table as column 'text' must have 2 values: current number is 1",
  });
});

Deno.test("table: one file; equal tables give equal bytes", () => {
  using folder = temporaryFolder();
  const [one, two] = [join(folder.path, "one.arrow"), join(folder.path, "two.arrow")];
  writeTable(one, rows(0, 100), layout);
  writeTable(two, rows(0, 100), layout);
  assert.deepEqual(readFileSync(one), readFileSync(two));
  assert.deepEqual(plain(readTable(one, layout)), plain(rows(0, 100)));
  writeTable(two, { ...rows(0, 100), score: new Float64Array(100) }, layout);
  assert.notDeepEqual(readFileSync(one), readFileSync(two));
});
