import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, utimes, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { cifar10Release, type ImageSplit, loadImages, type Progress } from "../../lib/data/mod.ts";
import { inFolder, manifestFolder, officialFiles, RECORD, records, tar } from "./_fixtures.ts";

const release = { ...cifar10Release, recordsPerFile: 10 };
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** Every pixel of a split against the records that it was made of: planar [3, 32, 32] to [32, 32, 3]. */
function assertPixels(split: ImageSplit, raw: Uint8Array): void {
  assert.equal(raw.length, split.count * RECORD);
  for (let n = 0; n < split.count; n++) {
    assert.equal(split.labels[n], raw[n * RECORD]);
    for (let i = 0; i < 1024; i++) {
      for (let c = 0; c < 3; c++) {
        const want = raw[n * RECORD + 1 + c * 1024 + i];
        if (split.images[(n * 1024 + i) * 3 + c] !== want) {
          assert.fail(`image ${n}, pixel ${i}, channel ${c}`);
        }
      }
    }
  }
}

Deno.test("cifar10-mini: shipped, 5000 + 1000 images, balanced, default", async () => {
  const data = await loadImages();
  assert.equal(data.name, "cifar10-mini");
  assert.equal(data.classes[9], "truck");
  assert.deepEqual([data.train.count, data.test.count], [5000, 1000]);
  assert.equal(data.train.images.length, 5000 * 32 * 32 * 3);
  for (let label = 0; label < 10; label++) {
    assert.equal(data.train.labels.filter((given) => given === label).length, 500);
  }
});

Deno.test("a folder with a manifest: pixels interleaved, name of the folder", () =>
  inFolder(async (folder) => {
    await manifestFolder(folder);
    const data = await loadImages(folder);
    assert.equal(data.source, "made by a test");
    assert.ok(folder.endsWith(data.name));
    assertPixels(data.train, records(20));
    assertPixels(data.test, records(10));
  }));

Deno.test("the official folder and archive: five training files in order, one test file", () =>
  inFolder(async (folder) => {
    const files = officialFiles(10);
    const inner = join(folder, "cifar-10-batches-bin");
    await mkdir(inner);
    for (const [name, bytes] of files) await writeFile(join(inner, name), bytes);
    const inTar = new Map([...files].map(([name, bytes]) => [`cifar-10-batches-bin/${name}`, bytes]));
    const archive = join(folder, "any.tar.gz");
    await writeFile(archive, gzipSync(tar(inTar)));
    const train = Buffer.concat([...files.values()].slice(0, 5));
    for (const path of [inner, folder, archive]) {
      const data = await loadImages(path, { release });
      assert.equal(data.name, "cifar10");
      assertPixels(data.train, train);
      assertPixels(data.test, files.get("test_batch.bin")!);
    }
    assert.equal((await loadImages("cifar10", { dir: inner, release })).test.count, 10);
  }));

/** Serves `body` on loopback with ranges, counting requests; `cut` ends answers after that many bytes. */
async function withServer(
  body: Uint8Array,
  use: (url: string, log: { ranges: (string | undefined)[]; cut?: number }) => Promise<void>,
): Promise<void> {
  const log: { ranges: (string | undefined)[]; cut?: number } = { ranges: [] };
  const answer = (request: IncomingMessage, response: ServerResponse) => {
    const { range } = request.headers;
    log.ranges.push(range);
    const start = Number(range?.match(/bytes=(\d+)-/)?.[1] ?? 0);
    response.statusCode = request.url === "/cifar.tar.gz" ? (range ? 206 : 200) : 404;
    if (range) response.setHeader("Content-Range", `bytes ${start}-${body.length - 1}/${body.length}`);
    response.setHeader("Content-Length", body.length - start);
    if (log.cut === undefined) response.end(body.subarray(start));
    else response.write(body.subarray(start, log.cut), () => setTimeout(() => response.destroy(), 50));
  };
  const server = createServer(answer);
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  try {
    await use(`http://127.0.0.1:${(server.address() as AddressInfo).port}/cifar.tar.gz`, log);
  } finally {
    server.closeAllConnections();
    await new Promise((done) => server.close(done));
  }
}

/** An archive that does not compress, so that it can be cut in the middle. */
function officialArchive(): Uint8Array {
  const files = officialFiles(10);
  return gzipSync(tar(new Map([...files].map(([name, bytes]) => [`cifar-10-batches-bin/${name}`, bytes]))), {
    level: 0,
  });
}

Deno.test("download: with progress, into the cache, once", () =>
  inFolder(async (cache) => {
    const body = officialArchive();
    await withServer(body, async (url, log) => {
      const options = { cache, release: { url, sha256: sha256(body), recordsPerFile: 10 } };
      const told: Progress[] = [];
      const data = await loadImages("cifar10", { ...options, onProgress: (progress) => told.push(progress) });
      assert.equal(data.train.count, 50);
      const last = told.findLast(({ note }) => note.startsWith("download"))!;
      assert.deepEqual([last.done, last.total], [body.length, body.length]);
      assert.equal((await loadImages("cifar10", options)).test.count, 10);
      assert.equal(log.ranges.length, 1);
      assert.deepEqual((await readdir(cache)).sort(), ["cifar-10-batches-bin", "cifar-10-binary.tar.gz"]);
    });
  }));

Deno.test("download: goes on where a broken one stopped", () =>
  inFolder(async (cache) => {
    const body = officialArchive();
    await withServer(body, async (url, log) => {
      const options = { cache, release: { url, sha256: sha256(body), recordsPerFile: 10 } };
      log.cut = 100_000;
      await assert.rejects(loadImages("cifar10", options), {
        name: "RangeError",
        message: /Cannot download http.* as the connection must hold/,
      });
      assert.equal((await readdir(cache)).filter((name) => name.endsWith(".part")).length, 1);
      delete log.cut;
      assert.equal((await loadImages("cifar10", options)).train.count, 50);
      assert.deepEqual(log.ranges, [undefined, "bytes=100000-"]);
    });
  }));

Deno.test("download: a part that another process is writing to is left alone", () =>
  inFolder(async (cache) => {
    const body = officialArchive();
    await withServer(body, async (url, log) => {
      const part = join(cache, "cifar-10-binary.tar.gz.1-0.part");
      await writeFile(part, "theirs");
      await loadImages("cifar10", { cache, release: { url, sha256: sha256(body), recordsPerFile: 10 } });
      assert.deepEqual(log.ranges, [undefined]);
      assert.equal(await readFile(part, "utf8"), "theirs");
    });
  }));

Deno.test("download: bytes that are not the published ones are refused and not kept", () =>
  inFolder(async (cache) => {
    const body = officialArchive();
    await withServer(body, async (url) => {
      const options = { cache, release: { url, sha256: "0".repeat(64), recordsPerFile: 10 } };
      await assert.rejects(loadImages("cifar10", options), {
        name: "SyntaxError",
        message: /SHA-256 must be 0{64}: current SHA-256 is [0-9a-f]{64}/,
      });
      assert.deepEqual(await readdir(cache), []);
    });
  }));

Deno.test("download: a beginning that is not of this file ends in a checksum error, then a fresh start", () =>
  inFolder(async (cache) => {
    const body = officialArchive();
    await withServer(body, async (url) => {
      const part = join(cache, "cifar-10-binary.tar.gz.1-0.part");
      await writeFile(part, "not the archive");
      await utimes(part, 0, 0);
      const options = { cache, release: { url, sha256: sha256(body), recordsPerFile: 10 } };
      await assert.rejects(loadImages("cifar10", options), { name: "SyntaxError", message: /SHA-256/ });
      assert.equal((await loadImages("cifar10", options)).train.count, 50);
    });
  }));

Deno.test("download: a server that refuses is named with its answer", () =>
  inFolder(async (cache) => {
    await withServer(new Uint8Array(10), async (url) => {
      const options = { cache, release: { ...release, url: url + ".not-there" } };
      await assert.rejects(loadImages("cifar10", options), {
        name: "RangeError",
        message: /current answer is 404/,
      });
    });
  }));
