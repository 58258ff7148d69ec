import { basename, join, resolve } from 'node:path';
import { CidError } from '../native/errors.ts';
import { writeFileAtomic } from '../run/files.ts';
import { sampleClusters } from './clusters.ts';
import { evaluationSection } from './evaluation.ts';
import { Html, html } from './html.ts';
import { readRun } from './read.ts';
import {
  balanceSection,
  clustersSection,
  curvesSection,
  funnelSection,
  groupsSection,
  runSection,
} from './sections.ts';
import { style } from './style.ts';
import { Thumbnails } from './thumbnails.ts';

export interface ReportOptions {
  /** Defaults to the name of the run folder. */
  readonly title?: string;
  /** File to write. Defaults to `report.html` in the run folder. */
  readonly out?: string;
  /** Bytes that the images in the page may take. Defaults to 3,000,000. */
  readonly imageBytes?: number;
}

const IMAGE_BYTES = 3_000_000;

/**
 * Writes one HTML file about a run: funnel, balance, galleries, clusters, training curves, evaluation, configuration. It loads
 * nothing and runs no script. What the run does not have is left out.
 *
 * @returns Path of the file.
 * @throws CidError FILE_NOT_FOUND without the folder, INVALID_DATA when there is nothing in it to report, FILE_FORMAT, FILE_WRITE.
 */
export async function writeReport(runFolder: string, options: ReportOptions = {}): Promise<string> {
  const run = await readRun(runFolder);
  const thumbnails = new Thumbnails(options.imageBytes ?? IMAGE_BYTES);
  const sections = [
    funnelSection(run),
    evaluationSection(run.evaluations),
    balanceSection(run),
    await groupsSection(run, thumbnails),
    await clustersSection(run, await sampleClusters(runFolder), thumbnails),
    curvesSection(run),
    runSection(run),
  ].filter((part) => part !== undefined);
  if (sections.length === 0) {
    throw new CidError(
      'INVALID_DATA',
      `There is nothing to report in ${runFolder}: no stage of clip-cid was run there`,
    );
  }
  const title = options.title ?? basename(resolve(runFolder));
  const path = options.out ?? join(runFolder, 'report.html');
  await writeFileAtomic(path, page(title, run.run?.package, sections));
  return path;
}

function page(title: string, version: string | undefined, sections: readonly Html[]): string {
  // Ids and headings are those of section() alone, so that the list at the top cannot lack one.
  const links = sections.flatMap(({ text }) => {
    const found = /^<section id="([^"]+)"><h2>(.*?)<\/h2>/.exec(text);
    return found ? [new Html(`<a href="#${found[1]}">${found[2]}</a>`)] : [];
  });
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title} · clip-cid</title>
<style>${new Html(style)}</style>
</head>
<body>
<header><h1>${title}</h1>
<p class="lead">Report of a clip-cid run</p>
<nav aria-label="Sections">${links}</nav></header>
<main>
${sections}</main>
<footer>Made by clip-cid${version === undefined ? undefined : ` ${version}`}. This file loads nothing from elsewhere.</footer>
</body>
</html>
`.text;
}
