/** The stages of `setup:tensorflow`. */
import { existsSync } from "node:fs";
import { cp, mkdir, realpath, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { type TensorflowFiles, tensorflowVersion } from "../lib/tensor/mod.ts";
import { pip, run, verify, type Wheel, wheelIn, writeJson } from "./_stages.ts";
import { unzip } from "./_zip.ts";

/** Newest source of the N-API binding; it compiles unchanged against the C interface of today's TensorFlow. */
const TFJS_NODE = "4.22.0";
const NODE_API_HEADERS = "1.9.0";

/** Any CPython does, as only the C++ libraries are used: one wheel for everybody, so that it can be pinned. */
const WHEEL_PLATFORM = ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11"];
/** Both names of each, old and new: pip takes them literally. */
const MANYLINUX = [
  ...["manylinux_2_27", "manylinux_2_26", "manylinux_2_24", "manylinux_2_17", "manylinux2014"],
  ...["manylinux_2_12", "manylinux2010", "manylinux_2_5", "manylinux1"],
].flatMap((name) => ["--platform", `${name}_x86_64`]);

/** The wheel whose libraries are taken for the `cpu` build. */
export const cpuWheel = {
  requirement: `tensorflow-cpu==${tensorflowVersion}`,
  sha256: "2b847d217b02ee7731ed91431daf3250daa0196c3c94614d23be27232e6e5b6c",
};

const tensorflowWheel: Wheel = {
  of: "TensorFlow",
  requirement: cpuWheel.requirement,
  tags: "cp311, manylinux, x86_64",
};

/**
 * Downloads the wheel into `folder` with pip, under the file name that the package index gives it.
 *
 * @throws {Error} What came is not the pinned wheel; it is not kept.
 */
export async function downloadWheel(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  await pip([
    "download",
    "--no-deps",
    ...WHEEL_PLATFORM,
    ...MANYLINUX,
    "--dest",
    folder,
    cpuWheel.requirement,
  ], tensorflowWheel);
  await verify(await wheelIn(folder), cpuWheel.sha256);
}

/**
 * Takes the two libraries and the C headers out of a wheel of TensorFlow.
 *
 * @throws {Error} The wheel is not the one whose checksum is expected; nothing is written.
 */
export async function unpackLibraries(wheel: string, sha256: string, sitePackages: string): Promise<void> {
  await verify(wheel, sha256);
  const names = await unzip(wheel, sitePackages, isNeeded);
  for (const library of ["cc", "framework"]) {
    const name = `tensorflow/libtensorflow_${library}.so.2`;
    if (!names.includes(name)) throw new Error(`Cannot unpack ${wheel} as it must hold ${name}: it does not`);
  }
}

/** The libraries, and the headers that the C interface includes. */
function isNeeded(name: string): boolean {
  return /^tensorflow\/libtensorflow_(cc|framework)\.so\.2$/.test(name) ||
    /^tensorflow\/include\/(tensorflow\/c|xla\/tsl\/c)\//.test(name) ||
    /^tensorflow\/include\/(tensorflow\/core|tensorflow\/tsl|tsl)\/platform\/ctstring/.test(name);
}

/**
 * Installs TensorFlow with NVIDIA's libraries: the wheel's libraries find CUDA by their place beside `nvidia/`
 * (RUNPATH), so here the whole of both is needed.
 */
export async function installCuda(sitePackages: string, wheel: string | undefined): Promise<void> {
  const requirement = wheel === undefined ? "tensorflow" : resolve(wheel);
  const version = wheel === undefined ? `==${tensorflowVersion}` : "";
  await pip([
    "install",
    "--target",
    sitePackages,
    "--no-compile",
    ...WHEEL_PLATFORM,
    ...MANYLINUX,
    `${requirement}[and-cuda]${version}`,
  ], tensorflowWheel);
}

/**
 * Fetches the JavaScript and C++ of `@tensorflow/tfjs-node` and the headers of Node-API through Deno's npm
 * client, which runs no install script, and keeps the needed part of them in `folder`.
 */
export async function fetchPackage(folder: string): Promise<void> {
  const project = `${folder}.project.tmp`;
  try {
    await mkdir(project, { recursive: true });
    await writeJson(join(project, "deno.json"), { nodeModulesDir: "auto", lock: false });
    await writeJson(join(project, "package.json"), {
      private: true,
      dependencies: { "@tensorflow/tfjs-node": TFJS_NODE, "node-api-headers": NODE_API_HEADERS },
    });
    await run(process.execPath, ["install", "--quiet"], { cwd: project });
    const modules = join(project, "node_modules");
    // realpath: Deno links packages; a package's dependencies lie beside the real folder.
    const source = await realpath(join(modules, "@tensorflow", "tfjs-node"));
    await mkdir(folder, { recursive: true });
    for (
      const path of [
        "package.json",
        "LICENSE",
        "binding",
        "dist/kernels",
        "dist/proto",
        "dist/int64_tensors.js",
        "dist/nodejs_kernel_backend.js",
        "dist/register_all_kernels.js",
      ]
    ) {
      if (path === "LICENSE" && !existsSync(join(source, path))) continue;
      await copy(join(source, path), join(folder, path));
    }
    await copy(join(modules, "node-api-headers"), join(folder, "node_modules", "node-api-headers"));
    await copy(join(source, "../../google-protobuf"), join(folder, "node_modules", "google-protobuf"));
    for (const name of ["tfjs", "tfjs-core"]) {
      await writeStandIn(join(folder, "node_modules", "@tensorflow", name), `@tensorflow/${name}`);
    }
  } finally {
    await rm(project, { recursive: true, force: true });
  }
}

/**
 * Kernels register themselves with the TensorFlow.js that they `require`. It must be the running program's, not
 * a second copy, so the package found is a stand-in that hands over what the kit has left under a global symbol.
 */
async function writeStandIn(folder: string, name: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeJson(join(folder, "package.json"), { name, main: "index.js" });
  await writeFile(join(folder, "index.js"), `module.exports = globalThis[Symbol.for("normlab.tfjs")];\n`);
}

/** Compiles the binding with the machine's C++ compiler. It finds the libraries by their place beside it. */
export async function compileBinding(files: TensorflowFiles, output: string): Promise<void> {
  await compile(files, output, [
    join(files.package, "binding", "tfjs_backend.cc"),
    join(files.package, "binding", "tfjs_binding.cc"),
    `-L${files.libraries}`,
    ...["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"],
    "-Wl,-rpath,$ORIGIN/site-packages/tensorflow",
    // The CUDA build's libraries need NVIDIA's, which the linker need not see.
    "-Wl,--allow-shlib-undefined",
  ]);
}

/** Compiles the module that loads the binding, and says there why it is needed. */
export async function compileLoader(files: TensorflowFiles, output: string): Promise<void> {
  const source = fileURLToPath(new URL("./_tensorflow_loader.cc", import.meta.url));
  await compile(files, output, [source, "-ldl"]);
}

async function compile(files: TensorflowFiles, output: string, options: string[]): Promise<void> {
  await run(await findCompiler(), [
    ...["-O2", "-s", "-fPIC", "-shared", "-std=c++17", "-fvisibility=hidden", "-DNAPI_VERSION=8"],
    `-I${join(files.package, "node_modules", "node-api-headers", "include")}`,
    `-I${join(files.libraries, "include")}`,
    ...["-o", output],
    ...options,
  ]);
}

async function findCompiler(): Promise<string> {
  const candidates = process.env.CXX ? [process.env.CXX] : ["g++", "clang++", "c++"];
  for (const compiler of candidates) {
    if (await run(compiler, ["--version"]).then(() => true, () => false)) return compiler;
  }
  throw new Error(
    `Cannot compile the binding as a C++ compiler must be there: none of ${candidates.join(", ")} runs. ` +
      `Install one (Debian: apt install g++) or name yours in the environment variable CXX, then run this again`,
  );
}

/** Loads the binding in a process of its own, and leaves the record that completes the set-up. */
export async function check(files: TensorflowFiles, record: string): Promise<void> {
  const load = `import { createRequire } from "node:module";
    const path = ${JSON.stringify(files.loader)};
    console.log(createRequire(path)(path).TF_Version);`;
  const version = (await run(process.execPath, ["eval", "--no-config", load])).trim();
  if (version !== tensorflowVersion) {
    throw new Error(
      `Cannot use TensorFlow as its version must be ${tensorflowVersion}: current is '${version}'`,
    );
  }
  await writeJson(record, { tensorflow: version, build: files.build, tfjsNode: TFJS_NODE });
}

async function copy(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true });
  await cp(await realpath(from), to, {
    recursive: true,
    dereference: true,
    filter: (path) => !basename(path).endsWith("_test.js"),
  });
}
