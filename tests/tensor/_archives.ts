/** Small zip archives, and folders to put them in. */
import { Buffer } from "node:buffer";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32, deflateRawSync } from "node:zlib";

/** A file of an archive. */
export interface File {
  name: string;
  text: string;
  stored?: boolean;
}

/** A zip archive of small files, as the format's specification (APPNOTE 6.3) lays it out. */
export function zip(files: File[]): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  const directory: Uint8Array[] = [];
  let offset = 0;
  for (const { name, text, stored = false } of files) {
    const bytes = new TextEncoder().encode(text);
    const packed = stored ? bytes : deflateRawSync(bytes);
    const title = new TextEncoder().encode(name);
    const header = (signature: number, length: number) => {
      const view = new DataView(new ArrayBuffer(length));
      view.setUint32(0, signature, true);
      const at = signature === 0x04034b50 ? 8 : 10;
      view.setUint16(at, stored ? 0 : 8, true);
      view.setUint32(at + 6, crc32(bytes), true);
      view.setUint32(at + 10, packed.length, true);
      view.setUint32(at + 14, bytes.length, true);
      view.setUint16(at + 18, title.length, true);
      return view;
    };
    const local = header(0x04034b50, 30);
    const entry = header(0x02014b50, 46);
    entry.setUint32(42, offset, true);
    parts.push(new Uint8Array(local.buffer), title, packed);
    directory.push(new Uint8Array(entry.buffer), title);
    offset += 30 + title.length + packed.length;
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0);
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, files.length, true);
  end.setUint16(10, files.length, true);
  end.setUint32(12, length, true);
  end.setUint32(16, offset, true);
  return new Uint8Array(Buffer.concat([...parts, ...directory, new Uint8Array(end.buffer)]));
}

/** Runs `test` in an empty folder. */
export async function inFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "normlab-setup-"));
  try {
    await test(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}
