/** Just enough of tar (POSIX ustar, GNU long names refused) to read an archive of plain files, distrusting it. */

const BLOCK = 512;

/**
 * The regular files of a tar archive by path, as views into it.
 *
 * @throws {SyntaxError} if the archive is truncated or damaged, holds anything but files and folders, or a path that
 * leads out of the folder it would be unpacked in
 */
export function untar(archive: Uint8Array): Map<string, Uint8Array> {
  const files = new Map<string, Uint8Array>();
  let offset = 0;
  while (true) {
    if (offset + BLOCK > archive.length) throw refused("end with an empty block", "cut short");
    const header = archive.subarray(offset, offset + BLOCK);
    offset += BLOCK;
    if (header.every((byte) => byte === 0)) return files;
    requireChecksum(header);
    const path = safePath(header);
    const size = octal(header, 124, 12);
    if (offset + size > archive.length) throw refused(`hold all ${size} bytes of ${path}`, "cut short");
    const type = String.fromCharCode(header[156]!);
    if (type === "0" || type === "\0") files.set(path, archive.subarray(offset, offset + size));
    else if (type !== "5") throw refused("hold only files and folders", `holding ${path} of type '${type}'`);
    offset += Math.ceil(size / BLOCK) * BLOCK;
  }
}

function refused(must: string, given: string): SyntaxError {
  return new SyntaxError(`Cannot read the tar archive as it must ${must}: current archive is ${given}`);
}

function text(header: Uint8Array, start: number, length: number): string {
  const field = header.subarray(start, start + length);
  const end = field.indexOf(0);
  return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end));
}

function octal(header: Uint8Array, start: number, length: number): number {
  const digits = text(header, start, length).trim();
  if (!/^[0-7]+$/.test(digits)) throw refused("have octal numbers in its headers", "damaged");
  return parseInt(digits, 8);
}

/** The sum of a header's bytes, its own eight checksum bytes counted as spaces. */
function requireChecksum(header: Uint8Array): void {
  let sum = 0;
  for (let i = 0; i < BLOCK; i++) sum += i >= 148 && i < 156 ? 32 : header[i]!;
  if (sum !== octal(header, 148, 8)) throw refused("have headers that match their checksums", "damaged");
}

function safePath(header: Uint8Array): string {
  const prefix = text(header, 257, 5) === "ustar" ? text(header, 345, 155) : "";
  const path = (prefix ? `${prefix}/` : "") + text(header, 0, 100);
  const parts = path.split(/[/\\]/);
  if (path === "" || parts[0] === "" || parts.includes("..") || /^[A-Za-z]:/.test(path)) {
    throw refused("hold only paths below its own folder", `holding ${JSON.stringify(path)}`);
  }
  return path;
}
