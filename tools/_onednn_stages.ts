/** The stages of `setup:onednn`. */
import { mkdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import process from "node:process";
import { type OnednnFiles, onednnVersion } from "../lib/tensor/mod.ts";
import { pip, run, verify, type Wheel, wheelIn, writeJson } from "./_stages.ts";
import { unzip } from "./_zip.ts";

/**
 * oneDNN for the processor alone, with GNU's OpenMP. The newer packages named `onednn` compute on processors through SYCL
 * and OpenCL, whose libraries are 600 MB to download.
 */
export const wheel: Wheel & { readonly sha256: string } = {
  of: "oneDNN",
  requirement: "onednn-cpu-gomp==2023.2.0",
  tags: "manylinux1, x86_64",
  sha256: "2f22a54d6a890ed14bfa185d42a4be65d8b5b1df85dc1f0f3a9abe31620416fb",
};

/** Their names in the wheel, which holds the library three times, begin alike. */
const CONTENTS = /^onednn_cpu_gomp-[\d.]+\.data\/data\/(?:lib|share\/doc\/onednn)\//;
const LIBRARY = "libdnnl.so.3";
const LICENCES = ["LICENSE", "THIRD-PARTY-PROGRAMS"];

/**
 * Downloads the wheel into `folder` with pip, under the file name that the package index gives it.
 *
 * @throws {Error} What came is not the pinned wheel; it is not kept.
 */
export async function downloadWheel(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const platform = ["--only-binary=:all:", "--platform", "manylinux1_x86_64"];
  await pip(["download", "--no-deps", ...platform, "--dest", folder, wheel.requirement], wheel);
  await verify(await wheelIn(folder), wheel.sha256);
}

/**
 * Takes the library and its licences out of the wheel.
 *
 * @throws {Error} The wheel is not the pinned one; nothing is written.
 */
export async function unpackLibrary(archive: string, sha256: string, folder: string): Promise<void> {
  await verify(archive, sha256);
  const wanted = [LIBRARY, ...LICENCES];
  const names = await unzip(archive, folder, (name) => wanted.includes(name.replace(CONTENTS, "")));
  for (const name of wanted) {
    const path = names.find((path) => path.replace(CONTENTS, "") === name);
    if (path === undefined) throw new Error(`Cannot unpack ${archive} as it must hold ${name}: it does not`);
    await rename(join(folder, path), join(folder, name));
  }
  for (const root of new Set(names.map((name) => name.split("/")[0]!))) {
    await rm(join(folder, root), { recursive: true });
  }
}

/** Loads the library in a process of its own, and leaves the record that completes the set-up. */
export async function check(files: OnednnFiles, record: string): Promise<void> {
  const load = `const path = ${JSON.stringify(files.library)};
    const { symbols } = Deno.dlopen(path, { dnnl_version: { parameters: [], result: "pointer" } });
    const version = new Deno.UnsafePointerView(symbols.dnnl_version());
    console.log([0, 4, 8].map((at) => version.getInt32(at)).join("."));`;
  const version = (await run(process.execPath, ["eval", "--no-config", load])).trim();
  if (version !== onednnVersion) {
    throw new Error(`Cannot use oneDNN as its version must be ${onednnVersion}: current is '${version}'`);
  }
  await mkdir(dirname(record), { recursive: true });
  await writeJson(record, { onednn: version, wheel: wheel.requirement });
}
