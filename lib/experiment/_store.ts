import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { BrokenFileError, decodeTrial, encodeTrial, identityOf } from "./_arrow.ts";
import { type FileWriter, storageError, TEMPORARY, writeAndFlush, writeAtomically } from "./_files.ts";
import type { FailedTrial, Provenance, Row, Scale, StoredTrial, Trial } from "./_types.ts";

/** A write takes milliseconds: a temporary file this old, in milliseconds, has lost its writer. */
const ORPHAN_AGE = 60_000;

/** Bytes written to see whether there is room before hours of work: more than most trials need. */
const PROBE_BYTES = 1 << 18;

const ARROW = ".arrow";
const FAILED = ".failed.txt";

/**
 * The folder `results/<experiment>/<scale>`: one Arrow file per trial, `<name>-<first 12 hex of identity>.arrow`,
 * written whole and then renamed. Whatever is there was finished; several processes may share the folder.
 */
export class Store {
  readonly folder: string;
  readonly #write: FileWriter;

  constructor(resultsDir: string, experiment: string, scale: Scale, write: FileWriter = writeAndFlush) {
    this.folder = join(resultsDir, ...experiment.split("/"), scale);
    this.#write = write;
  }

  /** Path of the file of a trial, whether it is there or not. */
  path(trial: Trial, identity: string): string {
    return join(this.folder, `${trial.name}-${identity.slice(0, 12)}${ARROW}`);
  }

  /** The stored trial, or undefined. Throws {@link BrokenFileError} for a file that is not that trial. */
  read(trial: Trial, identity: string): StoredTrial | undefined {
    const file = this.path(trial, identity);
    if (!existsSync(file)) return undefined;
    const stored = readTrialFile(file);
    if (stored.id !== identity) throw new BrokenFileError("it is another trial under this one's name");
    return stored;
  }

  /** Moves a broken file out of the way, to the same name with `.broken`, and returns that name. */
  moveAside(file: string): string {
    for (let n = 0;; n++) {
      const aside = `${file}${n === 0 ? "" : `.${n}`}.broken`;
      if (existsSync(aside)) continue;
      try {
        renameSync(file, aside);
      } catch (error) {
        throw storageError(`move the broken file ${file} aside`, this.folder, error);
      }
      return aside;
    }
  }

  /** Makes the folder, sweeps up orphans, and tries a write. Throws {@link StorageError}. */
  prepareForWriting(): void {
    try {
      mkdirSync(this.folder, { recursive: true });
    } catch (error) {
      throw storageError("make the results folder", this.folder, error);
    }
    this.sweep();
    const probe = join(this.folder, ".probe");
    writeAtomically(probe, new Uint8Array(PROBE_BYTES), this.#write);
    rmSync(probe, { force: true });
  }

  /** Removes temporary files whose writer was killed. */
  sweep(): void {
    for (const name of readdirSync(this.folder)) {
      if (!name.startsWith(".") || !name.endsWith(TEMPORARY)) continue;
      const file = join(this.folder, name);
      const age = Date.now() - (statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
      if (age > ORPHAN_AGE) rmSync(file, { force: true });
    }
  }

  /** Stores a finished trial, over an older file of it, and forgets its earlier failure. */
  write(provenance: Provenance, rows: readonly Row[]): void {
    const file = this.path(provenance.trial, identityOf(provenance));
    writeAtomically(file, encodeTrial(provenance, rows), this.#write);
    rmSync(file.replace(ARROW, FAILED), { force: true });
  }

  /** Leaves a note about a trial that failed; the next run tries it again. */
  writeFailure(trial: Trial, identity: string, reason: string): void {
    const file = this.path(trial, identity).replace(ARROW, FAILED);
    writeAtomically(file, `${reason}\n`, this.#write);
  }

  /** The note about a trial's failure, if there is one. */
  readFailure(trial: Trial, identity: string): FailedTrial | undefined {
    const file = this.path(trial, identity).replace(ARROW, FAILED);
    return existsSync(file) ? { trial, reason: readFileSync(file, "utf8").trim() } : undefined;
  }

  /** Every readable trial in the folder, and what is wrong with the other Arrow files. */
  list(): { trials: StoredTrial[]; broken: string[] } {
    const trials: StoredTrial[] = [];
    const broken: string[] = [];
    const names = existsSync(this.folder) ? readdirSync(this.folder).sort() : [];
    for (const name of names.filter((name) => name.endsWith(ARROW))) {
      const file = join(this.folder, name);
      try {
        trials.push(readTrialFile(file));
      } catch (error) {
        if (!(error instanceof BrokenFileError)) throw error;
        broken.push(`${file} was left out: ${error.message}`);
      }
    }
    return { trials, broken };
  }
}

/** Reads one file of a store. Throws {@link BrokenFileError} where it is not a whole trial. */
export function readTrialFile(file: string): StoredTrial {
  const { provenance, rows } = decodeTrial(readFileSync(file));
  return { file, id: identityOf(provenance), rows, provenance };
}
