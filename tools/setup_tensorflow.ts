/**
 * Makes the backend `tensorflow`: TensorFlow's own C++ library, from its Python wheel, behind TensorFlow.js.
 *
 *     deno task setup:tensorflow [--cuda] [--force] [--wheel FILE] [--dir DIR]
 *
 *     --cuda        the build for NVIDIA GPUs (several GB: pip also fetches NVIDIA's libraries)
 *     --wheel FILE  use this wheel of TensorFlow instead of downloading one
 *     --dir DIR     cache folder (default: $NORMLAB_CACHE, else $XDG_CACHE_HOME/normlab, else ~/.cache/normlab);
 *                   the backend then needs NORMLAB_CACHE=DIR
 *     --force       begin anew
 *
 * Needs Linux on x86-64, Python's pip, a C++ compiler, and 1.1 GB of disk (274 MB of it downloaded, freed at the
 * end). Takes half a minute after the download. Stopped, it goes on where it was; done, it says so and returns.
 */
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { cacheFolder, type TensorflowFiles, tensorflowFiles, tensorflowVersion } from "../lib/tensor/mod.ts";
import { type Log, stage, tidy, wheelIn } from "./_stages.ts";
import {
  check,
  compileBinding,
  compileLoader,
  cpuWheel,
  downloadWheel,
  fetchPackage,
  installCuda,
  unpackLibraries,
} from "./_tensorflow_stages.ts";

/** Makes everything that is not there yet. `wheel` replaces the download. */
export async function setUp(files: TensorflowFiles, wheel: string | undefined, log: Log): Promise<void> {
  if (existsSync(files.ready)) return log(`TensorFlow ${tensorflowVersion} is set up in ${files.folder}`);
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new Error(
      `Cannot set up TensorFlow as the platform must be linux x64: ` +
        `current platform is ${process.platform} ${process.arch}. The backends 'wasm' and 'webgpu' need no set-up`,
    );
  }
  const sitePackages = join(files.folder, "site-packages");
  if (files.build === "cuda") {
    await stage(
      "1/4 TensorFlow and NVIDIA's libraries",
      sitePackages,
      log,
      (folder) => installCuda(folder, wheel),
    );
  } else {
    const downloaded = join(files.folder, "wheel");
    if (wheel === undefined && !existsSync(sitePackages)) {
      await stage(`1/4 download of ${cpuWheel.requirement} (274 MB)`, downloaded, log, downloadWheel);
    }
    await stage(
      "1/4 TensorFlow's libraries",
      sitePackages,
      log,
      async (folder) => unpackLibraries(wheel ?? await wheelIn(downloaded), cpuWheel.sha256, folder),
    );
  }
  await stage("2/4 source of the binding", files.package, log, fetchPackage);
  await stage("3/4 binding, compiled", files.binding, log, (output) => compileBinding(files, output));
  await stage("3/4 its loader, compiled", files.loader, log, (output) => compileLoader(files, output));
  await stage("4/4 loading it", files.ready, log, (record) => check(files, record));
  await tidy(files.folder);
  log(`TensorFlow ${tensorflowVersion} is set up in ${files.folder}`);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      cuda: { type: "boolean", default: false },
      force: { type: "boolean", default: false },
      wheel: { type: "string" },
      dir: { type: "string" },
    },
  });
  const cache = values.dir === undefined ? cacheFolder() : resolve(values.dir);
  const files = tensorflowFiles(values.cuda ? "cuda" : "cpu", cache);
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
