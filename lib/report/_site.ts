import { Buffer } from "node:buffer";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import {
  type Experiment,
  loadAllResults,
  type ResultsView,
  SCALES,
  storageError,
} from "../experiment/mod.ts";
import { artifacts } from "./_artifacts.ts";
import { siteAssets } from "./_assets.ts";
import { pageFile } from "./_claims_table.ts";
import { experimentPage, type ResultFiles } from "./_experiment_page.ts";
import { indexPage } from "./_index_page.ts";
import { changedOptions, type ResultsPage, viewResults } from "./_view.ts";

/** Says that a folder is a site made by this program, which may be replaced. */
const MARKER = ".normlab-site";

/** Beyond this, in bytes, a set of results offers Parquet only: the site stays small enough to send around. */
const ARROW_LIMIT = 2 * 2 ** 20;

/** What to publish, and where. */
export interface SiteSettings {
  readonly experiments: readonly Experiment[];
  /** Default `results`. */
  readonly resultsDir?: string;
  /** Default `site`. Replaced as a whole, if it is a former site. */
  readonly outDir?: string;
}

/** What {@link buildSite} made. */
export interface SiteOutcome {
  /** Path of the first page. */
  readonly index: string;
  /** Everything that is shown, largest scale first. */
  readonly views: readonly ResultsPage[];
  /** Files of the store that are not shown, and why. */
  readonly warnings: readonly string[];
  readonly bytes: number;
}

/**
 * Builds the static site: `index.html` with the claims table, a page per experiment, figures, data, scripts. It is
 * read from disk or from any server, offline: no page asks another host for anything. The site is built beside
 * `outDir` and then takes its place.
 *
 * Throws RangeError where `outDir` holds something else than a former site, `StorageError` where it cannot write.
 */
export async function buildSite(settings: SiteSettings): Promise<SiteOutcome> {
  const { experiments, resultsDir = "results", outDir = "site" } = settings;
  checkReplaceable(outDir);
  const views: ResultsPage[] = [];
  const warnings: string[] = [];
  const site = new Map<string, Uint8Array | string>([[MARKER, ""]]);
  for (const [name, text] of siteAssets()) site.set(`assets/${name}`, text);
  for (const experiment of experiments) {
    const loaded = loadAllResults(experiment, resultsDir);
    warnings.push(...loaded.warnings);
    const own = viewsOf(experiment, loaded.results);
    views.push(...own);
    const published = [];
    for (const view of own) published.push({ view, files: await publish(view, site) });
    site.set(pageFile(experiment), experimentPage(experiment, published));
  }
  site.set("index.html", indexPage(experiments, views));
  replaceFolder(outDir, site);
  const bytes = [...site.values()].reduce((sum, content) => sum + Buffer.byteLength(content), 0);
  return { index: join(outDir, "index.html"), views, warnings, bytes };
}

/** The results of an experiment in the order of the pages, each with a key of its own. */
function viewsOf(experiment: Experiment, results: readonly ResultsView[]): ResultsPage[] {
  const size = ({ scale }: ResultsView) => SCALES.indexOf(scale);
  const keys = new Map<string, number>();
  return [...results].sort((a, b) => size(b) - size(a)).map((one) => {
    const words = [one.scale, one.backend, ...changedOptions(experiment, one)].join("-");
    const base = words.replace(/[^A-Za-z0-9._-]+/g, "-");
    const count = (keys.get(base) ?? 0) + 1;
    keys.set(base, count);
    return viewResults(experiment, one, count === 1 ? base : `${base}-${count}`);
  });
}

/** Adds the files of one set of results to the site. */
async function publish(view: ResultsPage, site: Map<string, Uint8Array | string>): Promise<ResultFiles> {
  const folder = `data/${view.experiment.id}/${view.key}`;
  for (const [path, content] of await artifacts(view)) site.set(`${folder}/${path}`, content);
  const arrow = new Map<string, string>();
  const trials = view.results.trials.map(({ file, provenance }) => ({
    name: provenance.trial.name,
    bytes: readFileSync(file),
  }));
  if (trials.reduce((sum, { bytes }) => sum + bytes.length, 0) <= ARROW_LIMIT) {
    for (const { name, bytes } of trials) {
      arrow.set(name, `${folder}/${name}.arrow`);
      site.set(`${folder}/${name}.arrow`, bytes);
    }
  }
  return {
    figures: new Map(view.figures.map(({ name }) => [name, `${folder}/figures/${name}.svg`])),
    tables: new Map(Object.keys(view.tables).map((name) => [name, `${folder}/tables/${name}.csv`])),
    others: new Map(Object.keys(view.files).map((name) => [name, `${folder}/${name}`])),
    parquet: `${folder}/rows.parquet`,
    arrow,
  };
}

function checkReplaceable(outDir: string): void {
  if (!existsSync(outDir) || existsSync(join(outDir, MARKER)) || readdirSync(outDir).length === 0) return;
  throw new RangeError(
    `Cannot build the site as its folder must be new, empty or a former site: current folder is ${outDir}`,
  );
}

/** Writes the files to a folder beside `outDir`, which then takes its place: a reader sees the old or the new. */
function replaceFolder(outDir: string, files: ReadonlyMap<string, Uint8Array | string>): void {
  const target = resolve(outDir);
  // Known names, so that a task can be permitted to write just these.
  const building = `${target}.building.tmp`;
  const former = `${target}.former.tmp`;
  try {
    for (const left of [building, former]) rmSync(left, { recursive: true, force: true });
    for (const [path, content] of files) {
      const file = join(building, path);
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, content);
    }
    if (existsSync(target)) renameSync(target, former);
    renameSync(building, target);
    rmSync(former, { recursive: true, force: true });
  } catch (error) {
    throw storageError("build the site", dirname(target), error);
  }
}
