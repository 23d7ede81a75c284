/** CIFAR-10's binary records, from the official archive, its folder, or a gzipped subset with a manifest. */

import { createHash } from "node:crypto";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import process from "node:process";
import { gunzipSync } from "node:zlib";
import type { ImageDataset, ImageSplit } from "./images.ts";
import { untar } from "./_tar.ts";

const SIDE = 32;
const CHANNELS = 3;
const PIXELS = SIDE * SIDE * CHANNELS;
const RECORD = 1 + PIXELS;

/** The classes of CIFAR-10 in label order (batches.meta.txt of the official archive). */
export const cifar10Classes: readonly string[] = [
  "airplane",
  "automobile",
  "bird",
  "cat",
  "deer",
  "dog",
  "frog",
  "horse",
  "ship",
  "truck",
];

const TRAIN_FILES = [1, 2, 3, 4, 5].map((i) => `data_batch_${i}.bin`);
const TEST_FILE = "test_batch.bin";
const OFFICIAL_FILES = [...TRAIN_FILES, TEST_FILE];

/** The folder of the official archive. */
export const OFFICIAL_FOLDER = "cifar-10-batches-bin";

/**
 * Records of one label byte and 3072 pixel bytes, planar [3, 32, 32], as images [count, 32, 32, 3].
 *
 * @throws {SyntaxError} if there are not exactly `count` whole records, or a label is not below `classes`
 */
export function readRecords(chunks: Map<string, Uint8Array>, count: number, classes: number): ImageSplit {
  const perFile = count / chunks.size;
  const images = new Uint8Array(count * PIXELS);
  const labels = new Uint8Array(count);
  let n = 0;
  for (const [name, bytes] of chunks) {
    if (bytes.length !== perFile * RECORD) {
      throw new SyntaxError(
        `Cannot read ${name} as it must hold ${perFile} records of ${RECORD} bytes, ${
          perFile * RECORD
        } in all: ` +
          `current size is ${bytes.length}`,
      );
    }
    for (let at = 0; at < bytes.length; at += RECORD, n++) {
      const label = bytes[at]!;
      if (label >= classes) {
        throw new SyntaxError(
          `Cannot read ${name} as every label must be below ${classes}: current label of record ${
            at / RECORD
          } is ${label}`,
        );
      }
      labels[n] = label;
      interleave(bytes, at + 1, images, n * PIXELS);
    }
  }
  return { images, labels, count, height: SIDE, width: SIDE, channels: CHANNELS };
}

/** Planes [3, 1024] to pixels [1024, 3]. */
function interleave(planes: Uint8Array, from: number, pixels: Uint8Array, to: number): void {
  const plane = SIDE * SIDE;
  for (let i = 0; i < plane; i++, to += CHANNELS) {
    pixels[to] = planes[from + i]!;
    pixels[to + 1] = planes[from + plane + i]!;
    pixels[to + 2] = planes[from + 2 * plane + i]!;
  }
}

/** The official data set, out of its six files by name. */
function officialDataset(
  files: Map<string, Uint8Array>,
  where: string,
  recordsPerFile: number,
): ImageDataset {
  for (const name of OFFICIAL_FILES) {
    if (!files.has(name)) {
      throw new RangeError(
        `Cannot load CIFAR-10 as ${where} must hold ${
          OFFICIAL_FILES.join(", ")
        }: current folder lacks ${name}`,
      );
    }
  }
  const take = (names: readonly string[]) => new Map(names.map((name) => [name, files.get(name)!]));
  const classes = cifar10Classes;
  return {
    name: "cifar10",
    source: "CIFAR-10 (Krizhevsky 2009), binary version",
    classes,
    train: readRecords(take(TRAIN_FILES), TRAIN_FILES.length * recordsPerFile, classes.length),
    test: readRecords(take([TEST_FILE]), recordsPerFile, classes.length),
  };
}

/** Reads the official files from the folder they were unpacked in. */
export async function loadOfficialFolder(folder: string, recordsPerFile: number): Promise<ImageDataset> {
  const files = new Map<string, Uint8Array>();
  for (const name of OFFICIAL_FILES) {
    const bytes = await readIfThere(join(folder, name));
    if (bytes) files.set(name, bytes);
  }
  return officialDataset(files, folder, recordsPerFile);
}

/** Reads the official archive, a .tar.gz. */
export async function loadOfficialArchive(file: string, recordsPerFile: number): Promise<ImageDataset> {
  return officialDataset(await unpack(file, recordsPerFile), file, recordsPerFile);
}

/** Unpacks the official archive's data beside it, in one step: other processes see the folder whole or not at all. */
export async function extractOfficialArchive(
  file: string,
  folder: string,
  recordsPerFile: number,
): Promise<void> {
  const files = await unpack(file, recordsPerFile);
  officialDataset(files, file, recordsPerFile); // refuses a bad archive before anything is written
  const unfinished = `${folder}.${process.pid}.tmp`;
  await mkdir(unfinished, { recursive: true });
  for (const name of OFFICIAL_FILES) await writeFile(join(unfinished, name), files.get(name)!);
  try {
    await rename(unfinished, folder);
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true });
    const code = (error as { code?: string }).code;
    if (code !== "ENOTEMPTY" && code !== "EEXIST") throw error; // else another process was first
  }
}

async function unpack(file: string, recordsPerFile: number): Promise<Map<string, Uint8Array>> {
  const compressed = await readIfThere(file);
  if (!compressed) throw missing("CIFAR-10", file);
  // Room for the six files, their headers and the two text files that come along.
  const limit = OFFICIAL_FILES.length * recordsPerFile * RECORD + (1 << 20);
  const files = untar(gunzip(compressed, file, limit));
  return new Map([...files].map(([path, bytes]) => [basename(path), bytes]));
}

interface ManifestFile {
  readonly file: string;
  readonly records: number;
  readonly sha256_raw: string;
}

/** A folder of manifest.json (classes, source, files), train.bin.gz and test.bin.gz, every byte checked. */
export async function loadManifestFolder(folder: string): Promise<ImageDataset> {
  const manifest = await readManifest(join(folder, "manifest.json"));
  const read = async (name: string): Promise<ImageSplit> => {
    const entry = manifest.files.find(({ file }) => file === name);
    if (!entry) {
      throw new SyntaxError(
        `Cannot load ${folder} as its manifest must list ${name}: current files are ${
          manifest.files.map(({ file }) => file).join(", ") || "none"
        }`,
      );
    }
    const path = join(folder, name);
    const compressed = await readIfThere(path);
    if (!compressed) throw missing(`${folder}`, path);
    const bytes = gunzip(compressed, path, entry.records * RECORD);
    const split = readRecords(new Map([[path, bytes]]), entry.records, manifest.classes.length);
    const found = createHash("sha256").update(bytes).digest("hex");
    if (found !== entry.sha256_raw) {
      throw new SyntaxError(
        `Cannot load ${path} as its records must have the SHA-256 ${entry.sha256_raw}: current SHA-256 is ${found}`,
      );
    }
    return split;
  };
  const { classes, source } = manifest;
  return {
    name: basename(resolve(folder)),
    source,
    classes,
    train: await read("train.bin.gz"),
    test: await read("test.bin.gz"),
  };
}

async function readManifest(path: string) {
  const bytes = await readIfThere(path);
  if (!bytes) throw missing("images", path);
  let value: { classes?: unknown; source?: unknown; files?: unknown } | null;
  try {
    value = JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new SyntaxError(
      `Cannot read ${path} as it must be JSON: current failure is ${(error as Error).message}`,
      { cause: error },
    );
  }
  const classes = value?.classes;
  const files = value?.files;
  const sound = Array.isArray(classes) && classes.length > 0 && classes.length <= 256 &&
    classes.every((name) => typeof name === "string") && Array.isArray(files) && files.every(isManifestFile);
  if (!sound) {
    throw new SyntaxError(
      `Cannot read ${path} as it must list 1 to 256 'classes' and 'files' of {file, records, sha256_raw}: ` +
        `current manifest is ${JSON.stringify(value).slice(0, 200)}`,
    );
  }
  return {
    classes: classes as string[],
    source: String(value?.source ?? path),
    files: files as ManifestFile[],
  };
}

function isManifestFile(value: unknown): value is ManifestFile {
  const entry = value as Partial<ManifestFile> | null;
  return typeof entry === "object" && entry !== null && typeof entry.file === "string" &&
    Number.isInteger(entry.records) && entry.records! > 0 && entry.records! <= 1_000_000 &&
    typeof entry.sha256_raw === "string";
}

/** Inflates, never to more than `limit` bytes and one. */
function gunzip(compressed: Uint8Array, path: string, limit: number): Uint8Array {
  try {
    return gunzipSync(compressed, { maxOutputLength: limit + 1 });
  } catch (error) {
    const tooLong = (error as { code?: string }).code === "ERR_BUFFER_TOO_LARGE";
    throw new SyntaxError(
      tooLong
        ? `Cannot read ${path} as it must inflate to at most ${limit} bytes: current content is longer`
        : `Cannot read ${path} as it must be a whole gzip file: current failure is ${
          (error as Error).message
        }`,
      { cause: error },
    );
  }
}

async function readIfThere(path: string): Promise<Uint8Array | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return undefined;
    throw error;
  }
}

function missing(what: string, path: string): RangeError {
  return new RangeError(`Cannot load ${what} as ${path} must exist: current file is missing`);
}
