/**
 * From the store to something to read: a static site with every claim, and figures, tables and rows as files.
 *
 * {@link buildSite} turns all stored results of some experiments into pages that open from disk without a network;
 * {@link writeArtifacts} leaves the figures and tables of one run beside its trials; {@link toParquet} writes rows
 * for tools that do not read Arrow files.
 *
 * @module
 */
export { toParquet, writeArtifacts } from "./_artifacts.ts";
export { buildSite, type SiteOutcome, type SiteSettings } from "./_site.ts";
export { changedOptions, rerunCommand, type ResultsPage, viewResults } from "./_view.ts";
