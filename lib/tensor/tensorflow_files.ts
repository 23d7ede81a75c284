/** Where `deno task setup:tensorflow` puts the native library, and where the backend looks for it. */
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import process from "node:process";

/** Version of TensorFlow whose libraries the kit uses. */
export const tensorflowVersion = "2.21.0";

/** The two builds of TensorFlow: for the processor alone, or with kernels for NVIDIA GPUs. */
export type TensorflowBuild = "cpu" | "cuda";

/** The files of one set-up build. */
export interface TensorflowFiles {
  readonly build: TensorflowBuild;
  /** The folder that holds all the others. */
  readonly folder: string;
  /** libtensorflow_cc.so.2, libtensorflow_framework.so.2 and the C headers, placed as in a Python install. */
  readonly libraries: string;
  /** The JavaScript and C++ of `@tensorflow/tfjs-node`. */
  readonly package: string;
  /** The C++ compiled against the libraries. */
  readonly binding: string;
  /** The Node-API module to `require`: it loads the binding apart from other libraries in the process. */
  readonly loader: string;
  /** Written last: the build is complete when this exists. */
  readonly ready: string;
}

/** The kit's cache: `$NORMLAB_CACHE`, else `$XDG_CACHE_HOME/normlab`, else `~/.cache/normlab`. */
export function cacheFolder(): string {
  const { NORMLAB_CACHE, XDG_CACHE_HOME } = process.env;
  if (NORMLAB_CACHE) return resolve(NORMLAB_CACHE);
  return join(XDG_CACHE_HOME || join(process.env.HOME || homedir(), ".cache"), "normlab");
}

/** The places of a build's files, whether they exist or not. */
export function tensorflowFiles(build: TensorflowBuild, cache: string = cacheFolder()): TensorflowFiles {
  const folder = join(cache, `tensorflow-${tensorflowVersion}-${build}`);
  return {
    build,
    folder,
    libraries: join(folder, "site-packages", "tensorflow"),
    package: join(folder, "tfjs-node"),
    binding: join(folder, "libtfjs_binding.so"),
    loader: join(folder, "tfjs_binding.node"),
    ready: join(folder, "ready.json"),
  };
}
