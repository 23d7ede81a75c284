import { closeSync, fsyncSync, openSync, renameSync, unlinkSync, writeSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import process from "node:process";

/** Ends the name of a file that is being written; one left behind by a killed process is swept up later. */
export const TEMPORARY = ".tmp";

/** Writes a whole file; the part that can run out of disk. Tests replace it by one that fails. */
export type FileWriter = (path: string, bytes: Uint8Array) => void;

/** A results folder that cannot be used: read-only, full, not a folder. Callers show its message as it is. */
export class StorageError extends Error {
  override readonly name = "StorageError";
}

let counter = 0;

/**
 * Writes `bytes` to `path` so that a reader sees the old file or the whole new one: temporary file in the same
 * folder, flushed to disk, renamed. On failure the temporary file is removed and {@link StorageError} thrown.
 */
export function writeAtomically(
  path: string,
  bytes: Uint8Array | string,
  write: FileWriter = writeAndFlush,
): void {
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}-${counter++}${TEMPORARY}`);
  try {
    write(temporary, typeof bytes === "string" ? new TextEncoder().encode(bytes) : bytes);
    renameSync(temporary, path);
  } catch (error) {
    try {
      unlinkSync(temporary);
    } catch {
      // It was never created.
    }
    throw storageError(`write ${path}`, dirname(path), error);
  }
}

/** Writes and flushes to the disk, so that the rename that follows cannot outrun the data. */
export function writeAndFlush(path: string, bytes: Uint8Array): void {
  const file = openSync(path, "wx");
  try {
    for (let done = 0; done < bytes.length;) done += writeSync(file, bytes, done);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** A file system error as a sentence that says what to do. */
export function storageError(what: string, folder: string, error: unknown): StorageError {
  const { code, message } = error as { code?: string; message: string };
  const reasons: Record<string, string> = {
    ENOSPC: "must have space left: its disk is full",
    EDQUOT: "must have space left: its quota is used up",
    EROFS: "must be writable: it is on a read-only file system",
    EACCES: "must be writable: permission is denied",
    EPERM: "must be writable: permission is denied",
    ENOTDIR: "must be a folder: a part of its path is a file",
    EEXIST: "must be a folder: there is a file of that name",
  };
  const reason = reasons[code ?? ""] ?? `must be usable: ${message}`;
  return new StorageError(`Cannot ${what} as the folder ${folder} ${reason}`);
}
