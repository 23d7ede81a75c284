import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ArrowJournal, readRecords, writeHistory } from "../../experiments/evonorm/_search_journal.ts";
import { type CandidateRecord, search, searchIdentity } from "../../lib/evolution/mod.ts";
import { names } from "../evolution/_digits.ts";
import { digitsSearch, repeatable, run } from "../evolution/_helpers.ts";
import { temporaryFolder } from "../experiment/_helpers.ts";

const script = fileURLToPath(new URL("./_search_process.ts", import.meta.url));
const identity = searchIdentity(digitsSearch());

/** The bytes of the history file made of the records that a journal holds. */
function historyOf(records: readonly CandidateRecord[], folder: string): Uint8Array {
  const path = join(folder, "history.arrow");
  writeHistory(path, records, names, identity);
  return readFileSync(path);
}

const kept = (folder: string) => readRecords(folder, names);

/** Starts the search as a process; `until` says when to kill it. Whether it came to its end. */
async function process(folder: string, workers: number, until?: () => boolean): Promise<boolean> {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", script, folder, `${workers}`, "300"],
    stdout: "null",
    stderr: "inherit",
  });
  const child = command.spawn();
  let ended = false;
  const status = child.status.then((status) => (ended = true, status));
  while (until !== undefined && !ended) {
    await new Promise((resolve) => setTimeout(resolve, 2));
    if (!until()) continue;
    child.kill("SIGKILL");
    break;
  }
  return (await status).success;
}

Deno.test("search journal: SIGKILL at ten places, then the same history file, bit for bit", async () => {
  using folder = temporaryFolder();
  const expected = historyOf(
    (await run(digitsSearch({ budget: { candidates: 300 }, workers: 1 }))).records,
    folder.path,
  );
  const killed = join(folder.path, "killed");
  const files = () => {
    try {
      return readdirSync(killed).filter((file) => file.endsWith(".arrow")).join();
    } catch {
      return "";
    }
  };
  let kills = 0;
  for (; kills < 10; kills++) {
    // Killed as soon as it has written something new: in the middle of evaluations, and of what follows a writing.
    const before = files();
    if (await process(killed, 2, () => files() !== before)) break;
    const records = kept(killed);
    assert.ok(records.length > 0 && records.length < 300, `${records.length} records`);
  }
  assert.ok(kills >= 5, `killed ${kills} times before it came to its end`);
  assert.ok(await process(killed, 2));
  assert.equal(kept(killed).length, 300);
  assert.deepEqual(new Uint8Array(historyOf(kept(killed), folder.path)), new Uint8Array(expected));
});

Deno.test("search journal: 9,000 candidates come back from few files, and the search goes on as if never stopped", async () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "journal");
  const stopped = {
    journal: new ArrowJournal(path, names),
    budget: { candidates: 9_000 },
    journalSeconds: 0.05,
  };
  await search(digitsSearch(stopped));
  assert.ok(readdirSync(path).length < 64 + 5);
  let evaluated = 0;
  const options = digitsSearch({ journal: new ArrowJournal(path, names), budget: { candidates: 9_100 } });
  const { progress } = await search({
    ...options,
    evaluate(candidate, signal) {
      assert.ok(candidate.index >= 9_000);
      evaluated++;
      return options.evaluate(candidate, signal);
    },
  });
  assert.equal(progress.candidates, 9_100);
  assert.ok(evaluated <= 100);
  const whole = await run(digitsSearch({ budget: { candidates: 9_100 } }));
  assert.equal(repeatable(kept(path)), repeatable(whole.records));
  assert.equal(progress.duplicates, whole.progress.duplicates);
  assert.deepEqual(progress.front, whole.progress.front);
});

Deno.test("search journal: a journal of another search is refused", async () => {
  using folder = temporaryFolder();
  await search(digitsSearch({ journal: new ArrowJournal(folder.path, names), budget: { candidates: 30 } }));
  await assert.rejects(
    search(digitsSearch({ journal: new ArrowJournal(folder.path, names), identity: { seed: 2 } })),
    /must be one of its files: its 'identity' is .*"seed":1.* and not .*"seed":2/,
  );
});
