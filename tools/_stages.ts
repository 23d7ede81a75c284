/**
 * What the set-up commands share. Each of their stages makes one file or folder under a temporary name and renames
 * it when it is complete, so a stopped run goes on where it was and never leaves half a library behind.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import process from "node:process";

/** Prints one line of progress. */
export type Log = (line: string) => void;

/**
 * Runs `make(temporary)` and renames what it made to `target`. Does nothing when `target` exists, which says
 * that the stage was completed before.
 */
export async function stage(
  title: string,
  target: string,
  log: Log,
  make: (temporary: string) => Promise<void>,
): Promise<void> {
  if (existsSync(target)) return log(`${title}: there`);
  log(`${title} ...`);
  const start = performance.now();
  const temporary = `${target}.${process.pid}.tmp`;
  await mkdir(dirname(target), { recursive: true });
  try {
    await make(temporary);
    await rename(temporary, target);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  log(`${title}: done in ${((performance.now() - start) / 1000).toFixed(1)} s`);
}

/** Removes what killed runs left behind, and the downloaded wheel. */
export async function tidy(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (name === "wheel" || name.endsWith(".tmp")) {
      await rm(join(folder, name), { recursive: true, force: true });
    }
  }
}

/** A Python wheel, for messages. */
export interface Wheel {
  /** What it holds. */
  readonly of: string;
  /** Name and version, as pip takes them. */
  readonly requirement: string;
  /** Which of its files. */
  readonly tags: string;
}

/**
 * Runs pip.
 *
 * @throws {Error} pip is not there, or fails; the message says how to do without it.
 */
export async function pip(options: string[], wheel: Wheel): Promise<void> {
  const python = process.env.PYTHON || "python3";
  await run(python, ["-m", "pip", "--version"]).catch((error) => {
    throw new Error(
      `Cannot fetch ${wheel.of} as Python's pip must be there: '${python} -m pip' says: ${error.message}. ` +
        `Install it (Debian: apt install python3-pip), or fetch the wheel of ${wheel.requirement} ` +
        `(${wheel.tags}) yourself and pass --wheel FILE`,
    );
  });
  await run(python, ["-m", "pip", ...options], { show: true });
}

/** The one wheel in `folder`. */
export async function wheelIn(folder: string): Promise<string> {
  const name = (await readdir(folder)).find((name) => name.endsWith(".whl"));
  if (name === undefined) {
    throw new Error(`Cannot unpack a wheel as ${folder} must hold a wheel: it holds none`);
  }
  return join(folder, name);
}

/**
 * Checks the content of a file.
 *
 * @throws {Error} It is not the one whose checksum is expected.
 */
export async function verify(wheel: string, sha256: string): Promise<void> {
  const given = await sha256Of(wheel);
  if (given === sha256) return;
  throw new Error(`Cannot unpack ${wheel} as its sha256 must be ${sha256}: current sha256 is ${given}`);
}

/** SHA-256 of a file, in hexadecimal, read as a stream. */
export async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk);
  return hash.digest("hex");
}

/** Writes a value as readable JSON. */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFile(path, `${JSON.stringify(value, null, 2)}\n`);
}

/** Runs a program and returns what it printed; with `show` its output goes to the terminal instead. */
export function run(
  command: string,
  options: string[],
  { cwd, show = false }: { cwd?: string; show?: boolean } = {},
) {
  return new Promise<string>((resolve, reject) => {
    const child = spawn(command, options, {
      ...(cwd === undefined ? {} : { cwd }),
      stdio: ["ignore", show ? "inherit" : "pipe", show ? "inherit" : "pipe"],
    });
    let output = "";
    let errors = "";
    child.stdout?.on("data", (chunk) => output += chunk);
    child.stderr?.on("data", (chunk) => errors += chunk);
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) return resolve(output);
      const said = (errors + output).trim().slice(-2000);
      reject(new Error(`'${command} ${options[0] ?? ""}' ended with code ${code}${said && `: ${said}`}`));
    });
  });
}
