/** Where `deno task setup:onednn` puts the native library, and where the wasm backend looks for it. */
import { join } from "node:path";
import { cacheFolder } from "./tensorflow_files.ts";

/** Version of oneDNN that the kit uses. */
export const onednnVersion = "3.2.0";

/** The files of the set-up library. */
export interface OnednnFiles {
  /** The folder that holds all the others. */
  readonly folder: string;
  /** libdnnl.so.3 and its licence. */
  readonly libraries: string;
  /** The library to load. */
  readonly library: string;
  /** Written last: the set-up is complete when this exists. */
  readonly ready: string;
}

/** The places of the library's files, whether they exist or not. */
export function onednnFiles(cache: string = cacheFolder()): OnednnFiles {
  const folder = join(cache, `onednn-${onednnVersion}`);
  const libraries = join(folder, "libraries");
  return { folder, libraries, library: join(libraries, "libdnnl.so.3"), ready: join(folder, "ready.json") };
}
