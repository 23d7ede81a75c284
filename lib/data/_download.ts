/** A file from the web, into a cache folder: checked, resumed after a break, and in its place only when whole. */

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import process from "node:process";

/** How far a long piece of work is: `done` of `total` (0 if unknown) bytes or images. */
export interface Progress {
  readonly note: string;
  readonly done: number;
  readonly total: number;
}

/** A download that brings no byte for this long has failed. */
const STALL_MS = 30_000;
/** A part that nobody has written to for this long has lost its process, and can be taken over. */
const ORPHAN_MS = 2 * STALL_MS;

/**
 * Downloads `url` to `file` unless it is there. What a broken download left is completed (HTTP Range). Several
 * processes may do so at once: each writes a part of its own.
 *
 * @throws {RangeError} if the server refuses or stalls
 * @throws {SyntaxError} if the bytes are not those of `sha256`; nothing is kept
 */
export async function download(
  url: string,
  file: string,
  options: { sha256: string; onProgress?: ((progress: Progress) => void) | undefined },
): Promise<void> {
  if (await size(file) !== undefined) return;
  await mkdir(dirname(file), { recursive: true });
  const part = await claimPart(file);
  try {
    await fetchInto(
      part,
      url,
      (done, total) => options.onProgress?.({ note: `download ${url}`, done, total }),
    );
  } catch (error) {
    if (await size(part) !== undefined) await utimes(part, 0, 0); // given up: the next attempt may go on with it
    throw error;
  }
  const found = await sha256Of(part);
  if (found !== options.sha256) {
    await rm(part, { force: true });
    throw new SyntaxError(
      `Cannot use the download of ${url} as its SHA-256 must be ${options.sha256}: current SHA-256 is ${found}`,
    );
  }
  await rename(part, file);
}

let parts = 0;

/** A part file for this process: an orphan of an earlier one if there is any, renamed, which only one can do. */
async function claimPart(file: string): Promise<string> {
  const mine = `${file}.${process.pid}-${parts++}.part`;
  for (const name of await readdir(dirname(file))) {
    if (!name.startsWith(`${basename(file)}.`) || !name.endsWith(".part")) continue;
    const orphan = join(dirname(file), name);
    try {
      if (Date.now() - (await stat(orphan)).mtimeMs < ORPHAN_MS) continue;
      await rename(orphan, mine);
      return mine;
    } catch {
      continue; // another process took it first
    }
  }
  return mine;
}

async function fetchInto(
  part: string,
  url: string,
  report: (done: number, total: number) => void,
): Promise<void> {
  const have = await size(part) ?? 0;
  const stall = stallSignal();
  try {
    let response = await fetch(url, {
      signal: stall.signal,
      headers: have > 0 ? { Range: `bytes=${have}-` } : {},
    });
    const resumed = response.headers.get("content-range")?.startsWith(`bytes ${have}-`) ?? false;
    if (have > 0 && response.status !== 200 && !(response.status === 206 && resumed)) {
      // The part is whole already, or not a beginning of this file: start anew.
      await response.body?.cancel();
      response = await fetch(url, { signal: stall.signal });
    }
    if (!response.ok || response.body === null) {
      await response.body?.cancel();
      throw new RangeError(
        `Cannot download ${url} as the server must answer 200: current answer is ${response.status}`,
      );
    }
    let done = response.status === 206 ? have : 0;
    const length = response.headers.get("content-length");
    const total = length === null ? 0 : done + Number(length);
    const handle = await open(part, done > 0 ? "a" : "w");
    try {
      for await (const chunk of response.body) {
        stall.restart();
        await handle.writeFile(chunk);
        done += chunk.length;
        report(done, total);
      }
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (error instanceof RangeError) throw error;
    throw new RangeError(
      `Cannot download ${url} as the connection must hold: current failure is ${(error as Error).message}`,
      { cause: error },
    );
  } finally {
    stall.clear();
  }
}

function stallSignal(): { signal: AbortSignal; restart(): void; clear(): void } {
  const controller = new AbortController();
  const start = () =>
    setTimeout(() => controller.abort(new Error(`no data for ${STALL_MS / 1000} s`)), STALL_MS);
  let timer = start();
  return {
    signal: controller.signal,
    restart() {
      clearTimeout(timer);
      timer = start();
    },
    clear: () => clearTimeout(timer),
  };
}

async function size(file: string): Promise<number | undefined> {
  try {
    return (await stat(file)).size;
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return undefined;
    throw error;
  }
}

async function sha256Of(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(file)) hash.update(chunk as Uint8Array);
  return hash.digest("hex");
}
