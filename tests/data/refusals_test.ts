import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { cifar10Release, loadImages } from "../../lib/data/mod.ts";
import { inFolder, manifestFolder, officialFiles, RECORD, tar } from "./_fixtures.ts";

const release = { ...cifar10Release, recordsPerFile: 10 };

/** Loads a spoilt folder or file: must fail as stated and leave every file as it was. */
async function refuses(path: string, name: "SyntaxError" | "RangeError", message: RegExp): Promise<void> {
  const before = await contents(path);
  await assert.rejects(loadImages(path, { release }), { name, message });
  assert.deepEqual(await contents(path), before);
}

async function contents(path: string): Promise<Map<string, Buffer>> {
  const names = await readdir(path).catch(() => undefined);
  if (!names) return new Map([[path, await readFile(path)]]);
  return new Map(
    await Promise.all(names.map(async (name) => [name, await readFile(join(path, name))] as const)),
  );
}

type Spoil = Parameters<typeof manifestFolder>[1];
const manifestCases: [string, Spoil, RegExp][] = [
  ["a truncated gzip", { trainGz: (gz) => gz.subarray(0, gz.length >> 1) }, /must be a whole gzip file/],
  ["something that is no gzip", { trainGz: () => Buffer.from("hello") }, /must be a whole gzip file/],
  ["a record too few", { train: (raw) => raw.subarray(RECORD) }, /must hold 20 records of 3073 bytes/],
  ["a file cut within a record", { train: (raw) => raw.subarray(0, -1) }, /current size is 61459/],
  ["more than it says", { train: (raw) => Buffer.concat([raw, raw]) }, /must inflate to at most 61460 bytes/],
  [
    "a label above 9",
    { train: (raw) => raw.with(3 * RECORD, 10) },
    /every label must be below 10: current label of record 3 is 10/,
  ],
  ["a changed pixel", { train: (raw) => raw.with(77, raw[77]! ^ 1) }, /must have the SHA-256/],
  ["a manifest without files", { manifest: ({ classes }) => ({ classes }) }, /must list 1 to 256 'classes'/],
  ["a manifest that is null", { manifest: () => "null" }, /must list 1 to 256 'classes'/],
  [
    "an absurd record count",
    { manifest: (m) => ({ ...m, files: m.files.map((file) => ({ ...file, records: 1e15 })) }) },
    /must list 1 to 256 'classes'/,
  ],
  [
    "a manifest that lists other files",
    { manifest: (m) => ({ ...m, files: m.files.slice(1) }) },
    /must list train.bin.gz: current files are test.bin.gz/,
  ],
];
for (const [what, spoil, message] of manifestCases) {
  Deno.test(`a folder with a manifest: ${what} is refused`, () =>
    inFolder(async (folder) => {
      await manifestFolder(folder, spoil);
      await refuses(folder, "SyntaxError", message);
    }));
}

Deno.test("a folder with a manifest: text that is not JSON is refused", () =>
  inFolder(async (folder) => {
    await manifestFolder(folder);
    await writeFile(join(folder, "manifest.json"), "{");
    await refuses(folder, "SyntaxError", /must be JSON/);
  }));

Deno.test("a folder with a manifest: a missing file is named", () =>
  inFolder(async (folder) => {
    await manifestFolder(folder);
    await rm(join(folder, "test.bin.gz"));
    await refuses(folder, "RangeError", /test.bin.gz must exist: current file is missing/);
  }));

Deno.test("the official folder: a missing file is named, a short one refused", () =>
  inFolder(async (folder) => {
    for (const [name, bytes] of officialFiles(10)) await writeFile(join(folder, name), bytes);
    await writeFile(join(folder, "data_batch_4.bin"), new Uint8Array(RECORD * 9));
    await refuses(folder, "SyntaxError", /data_batch_4.bin as it must hold 10 records/);
    await rm(join(folder, "data_batch_3.bin"));
    await refuses(folder, "RangeError", /current folder lacks data_batch_3.bin/);
  }));

const files = officialFiles(10);
const withFile = (path: string, bytes = new Uint8Array(5)) => tar(new Map([...files, [path, bytes]]));
const archiveCases: [string, () => Uint8Array, RegExp][] = [
  ["a truncated gzip", () => gzipSync(tar(files)).subarray(0, -500), /must be a whole gzip file/],
  ["a truncated tar", () => gzipSync(tar(files).subarray(0, 100_000)), /archive is cut short/],
  ["a tar without its end", () => gzipSync(tar(files).subarray(0, -1024)), /must end with an empty block/],
  ["a damaged header", () => gzipSync(Buffer.from(tar(files).with(3, 1))), /match their checksums/],
  ["a path upwards", () => gzipSync(withFile("a/../../evil.bin")), /only paths below its own folder.*evil/],
  ["an absolute path", () => gzipSync(withFile("/etc/evil")), /only paths below its own folder/],
  ["a Windows path", () => gzipSync(withFile("..\\evil")), /only paths below its own folder/],
  ["a link", () => gzipSync(asLink(tar(files))), /only files and folders.*type '2'/],
  ["a bomb", () => gzipSync(withFile("big", new Uint8Array(3 << 20))), /must inflate to at most/],
];
for (const [what, make, message] of archiveCases) {
  Deno.test(`the official archive: ${what} is refused`, () =>
    inFolder(async (folder) => {
      const path = join(folder, "archive.tar.gz");
      await writeFile(path, make());
      await refuses(path, "SyntaxError", message);
      assert.deepEqual(await readdir(folder), ["archive.tar.gz"]);
    }));
}

/** The archive with its first entry turned into a symbolic link, checksum corrected. */
function asLink(archive: Uint8Array): Uint8Array {
  const changed = archive.slice();
  changed[156] = "2".charCodeAt(0);
  changed.set(new TextEncoder().encode("        "), 148);
  const sum = changed.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  changed.set(new TextEncoder().encode(sum.toString(8).padStart(6, "0") + "\0 "), 148);
  return changed;
}

Deno.test("a folder without images, an unknown name: the message says what there is", () =>
  inFolder(async (folder) => {
    await mkdir(join(folder, "empty"));
    await refuses(join(folder, "empty"), "RangeError", /lacks data_batch_1.bin/);
    await assert.rejects(loadImages("imagenet"), {
      name: "RangeError",
      message:
        /one of cifar10-mini, cifar10, fashion-mnist, or an existing path: current source is "imagenet"/,
    });
  }));
