/** Streams chosen files out of a zip archive (a Python wheel is one), checking length and CRC of each. */
import { createReadStream, createWriteStream } from "node:fs";
import { type FileHandle, mkdir, open, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { crc32, createInflateRaw } from "node:zlib";

interface Entry {
  readonly name: string;
  readonly method: number;
  readonly crc: number;
  readonly packedSize: number;
  readonly size: number;
  readonly headerOffset: number;
}

const END_OF_DIRECTORY = 0x06054b50;
const DIRECTORY_ENTRY = 0x02014b50;
const LOCAL_HEADER = 0x04034b50;
const STORED = 0;
const DEFLATED = 8;

/**
 * Writes the entries of `archive` that `choose` accepts into `folder`, under their names in the archive, and
 * returns those names.
 *
 * @throws {SyntaxError} The file is not a zip archive, is cut short, or an entry does not match its checksum.
 */
export async function unzip(
  archive: string,
  folder: string,
  choose: (name: string) => boolean,
): Promise<string[]> {
  const file = await open(archive);
  try {
    const entries = (await readDirectory(file, archive)).filter((entry) => choose(entry.name));
    for (const entry of entries) await extract(file, archive, entry, folder);
    return entries.map((entry) => entry.name);
  } finally {
    await file.close();
  }
}

async function readDirectory(file: FileHandle, archive: string): Promise<Entry[]> {
  const { size } = await file.stat();
  // The end record is 22 bytes and a comment of at most 65,535.
  const tail = await readAt(file, Math.max(0, size - 65_557), Math.min(size, 65_557), archive);
  let at = tail.byteLength - 22;
  while (at >= 0 && tail.getUint32(at, true) !== END_OF_DIRECTORY) at--;
  if (at < 0) throw unreadable(archive, "it has no end-of-directory record (cut short?)");
  const count = tail.getUint16(at + 10, true);
  const length = tail.getUint32(at + 12, true);
  const offset = tail.getUint32(at + 16, true);
  if (offset === 0xffffffff || count === 0xffff) throw unreadable(archive, "it is a zip64 archive");
  if (offset + length > size) throw unreadable(archive, "its directory lies outside the file");

  const directory = await readAt(file, offset, length, archive);
  const entries: Entry[] = [];
  let position = 0;
  for (let i = 0; i < count; i++) {
    if (position + 46 > length || directory.getUint32(position, true) !== DIRECTORY_ENTRY) {
      throw unreadable(archive, `entry ${i} of its directory is damaged`);
    }
    const nameLength = directory.getUint16(position + 28, true);
    if (position + 46 + nameLength > length) {
      throw unreadable(archive, `entry ${i} of its directory is damaged`);
    }
    entries.push({
      name: new TextDecoder().decode(
        new Uint8Array(directory.buffer, directory.byteOffset + position + 46, nameLength),
      ),
      method: directory.getUint16(position + 10, true),
      crc: directory.getUint32(position + 16, true),
      packedSize: directory.getUint32(position + 20, true),
      size: directory.getUint32(position + 24, true),
      headerOffset: directory.getUint32(position + 42, true),
    });
    position += 46 + nameLength + directory.getUint16(position + 30, true) +
      directory.getUint16(position + 32, true);
  }
  return entries;
}

async function extract(file: FileHandle, archive: string, entry: Entry, folder: string): Promise<void> {
  if (entry.name.endsWith("/")) return;
  if (entry.name.startsWith("/") || entry.name.split("/").includes("..")) {
    throw unreadable(archive, `'${entry.name}' would be written outside the folder`);
  }
  if (entry.method !== STORED && entry.method !== DEFLATED) {
    throw unreadable(archive, `'${entry.name}' is packed by method ${entry.method}`);
  }
  const header = await readAt(file, entry.headerOffset, 30, archive);
  if (header.getUint32(0, true) !== LOCAL_HEADER) {
    throw unreadable(archive, `'${entry.name}' has no local header`);
  }
  const start = entry.headerOffset + 30 + header.getUint16(26, true) + header.getUint16(28, true);

  const target = join(folder, entry.name);
  await mkdir(dirname(target), { recursive: true });
  let size = 0;
  let crc = 0;
  // At most the promised size is written, so a crafted entry cannot fill the disk.
  const check = async function* (chunks: AsyncIterable<Uint8Array>) {
    for await (const chunk of chunks) {
      size += chunk.length;
      if (size > entry.size) throw unreadable(archive, `'${entry.name}' is longer than its directory says`);
      crc = crc32(chunk, crc);
      yield chunk;
    }
  };
  const partial = `${target}.tmp`;
  try {
    if (entry.packedSize === 0) {
      await (await open(partial, "w")).close();
    } else {
      const packed = createReadStream(archive, { start, end: start + entry.packedSize - 1 });
      const out = createWriteStream(partial);
      if (entry.method === STORED) await pipeline(packed, check, out);
      else await pipeline(packed, createInflateRaw(), check, out);
    }
    if (size !== entry.size || crc !== entry.crc) {
      throw unreadable(archive, `'${entry.name}' does not match its checksum`);
    }
    await rename(partial, target);
  } catch (error) {
    await rm(partial, { force: true });
    if (error instanceof SyntaxError || !isDamage(error)) throw error;
    throw unreadable(archive, `'${entry.name}' cannot be unpacked: ${(error as Error).message}`);
  }
}

/** True for errors of the unpacker, as opposed to those of the file system. */
function isDamage(error: unknown): boolean {
  return String((error as { code?: unknown }).code).startsWith("Z_");
}

async function readAt(
  file: FileHandle,
  offset: number,
  length: number,
  archive: string,
): Promise<DataView<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  const { bytesRead } = await file.read(bytes, 0, length, offset);
  if (bytesRead < length) throw unreadable(archive, "it is cut short");
  return new DataView(bytes.buffer);
}

function unreadable(archive: string, why: string): SyntaxError {
  return new SyntaxError(`Cannot unpack as the file must be a complete zip archive: ${why}: ${archive}`);
}
