/** What the tests of the data room share: streams, tiny records, archives and folders made on the spot. */

import { Buffer } from "node:buffer";

import { createHash } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import type { DrawStream, ImageSplit } from "../../lib/data/mod.ts";

/** Draws out of SHA-256: slow, but needs nothing of the tensor room. */
export function testStream(name: string): DrawStream {
  const word = (i: number) => createHash("sha256").update(`${name}#${i}`).digest().readUInt32LE();
  const integers = (n: number, below: number) => Int32Array.from({ length: n }, (_, i) => word(i) % below);
  return {
    child: (child) => testStream(`${name}/${child}`),
    integers,
    permutation(n) {
      const keys = Float64Array.from({ length: n }, (_, i) => word(i));
      return Int32Array.from(Array.from(keys.keys()).sort((a, b) => keys[a]! - keys[b]!));
    },
  };
}

/** Images whose byte at (n, y, x, c) is n * 31 + y * 7 + x * 3 + c, mod 256; labels take turns. */
export function testImages(count: number, side: number, channels: number, classes = 10): ImageSplit {
  const images = new Uint8Array(count * side * side * channels);
  let i = 0;
  for (let n = 0; n < count; n++) {
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        for (let c = 0; c < channels; c++) images[i++] = n * 31 + y * 7 + x * 3 + c;
      }
    }
  }
  const labels = Uint8Array.from({ length: count }, (_, n) => n % classes);
  return { images, labels, count, height: side, width: side, channels };
}

export const RECORD = 3073;

/** CIFAR-10 records: labels in turn from `first`, byte k of the planes is (label + 5k) mod 256. */
export function records(count: number, first = 0): Uint8Array {
  const bytes = new Uint8Array(count * RECORD);
  for (let n = 0; n < count; n++) {
    const label = (first + n) % 10;
    bytes[n * RECORD] = label;
    for (let k = 0; k < RECORD - 1; k++) bytes[n * RECORD + 1 + k] = label + 5 * k;
  }
  return bytes;
}

/** The six files of the official archive with `count` records each. */
export function officialFiles(count: number): Map<string, Uint8Array> {
  const names = [1, 2, 3, 4, 5].map((i) => `data_batch_${i}.bin`).concat("test_batch.bin");
  return new Map(names.map((name, i) => [name, records(count, i)]));
}

/** A ustar archive. */
export function tar(files: Map<string, Uint8Array>): Uint8Array {
  const blocks: Uint8Array[] = [];
  for (const [path, bytes] of files) {
    const header = new Uint8Array(512);
    const put = (text: string, at: number) => header.set(new TextEncoder().encode(text), at);
    put(path, 0);
    put("0000644\0", 100);
    put(bytes.length.toString(8).padStart(11, "0") + "\0", 124);
    put("        ", 148);
    put("0ustar\0", 156);
    const sum = header.reduce((total, byte) => total + byte, 0);
    put(sum.toString(8).padStart(6, "0") + "\0 ", 148);
    const padded = new Uint8Array(Math.ceil(bytes.length / 512) * 512);
    padded.set(bytes);
    blocks.push(header, padded);
  }
  return Buffer.concat([...blocks, new Uint8Array(1024)]);
}

/** A folder in the manifest format: 20 training records, 10 test records; `change` may spoil it. */
export async function manifestFolder(
  folder: string,
  change: {
    manifest?: (manifest: Manifest) => unknown;
    train?: (raw: Uint8Array) => Uint8Array;
    trainGz?: (gz: Uint8Array) => Uint8Array;
  } = {},
): Promise<void> {
  const train = records(20);
  const test = records(10);
  const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
  const manifest: Manifest = {
    classes: "abcdefghij".split(""),
    source: "made by a test",
    files: [
      { file: "train.bin.gz", records: 20, sha256_raw: sha256(train) },
      { file: "test.bin.gz", records: 10, sha256_raw: sha256(test) },
    ],
  };
  const gz = gzipSync(change.train?.(train) ?? train);
  await writeFile(join(folder, "manifest.json"), JSON.stringify(change.manifest?.(manifest) ?? manifest));
  await writeFile(join(folder, "train.bin.gz"), change.trainGz?.(gz) ?? gz);
  await writeFile(join(folder, "test.bin.gz"), gzipSync(test));
}

export interface Manifest {
  classes: string[];
  source: string;
  files: { file: string; records: number; sha256_raw: string }[];
}

/** Runs `body` with a folder of its own, removed afterwards. */
export async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "normlab-data-"));
  try {
    await body(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}
