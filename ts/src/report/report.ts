import { basename, join, resolve } from 'node:path';
import { CidError } from '../native/errors.ts';
import { writeFileAtomic } from '../run/files.ts';
import { STAGE_FOLDERS } from '../run/folder.ts';
import { analysisSection } from './analysis.ts';
import { sampleClusters } from './clusters.ts';
import { evaluationSection } from './evaluation.ts';
import { page } from './page.ts';
import { readRun } from './read.ts';
import { scoresSection } from './scores.ts';
import {
  balanceSection,
  clustersSection,
  curvesSection,
  funnelSection,
  groupsSection,
  runSection,
} from './sections.ts';
import { staleSection } from './stale-notes.ts';
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
  // Labels of an earlier balance would name other images than those that were clustered.
  const mixed = run.stale.some(({ folder }) => folder === STAGE_FOLDERS.cluster);
  const sections = [
    staleSection(run),
    funnelSection(run),
    evaluationSection(run),
    await scoresSection(run, thumbnails),
    analysisSection(run.analyses),
    balanceSection(run),
    await groupsSection(run, thumbnails),
    await clustersSection(run, mixed ? [] : await sampleClusters(runFolder), thumbnails),
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
  await writeFileAtomic(
    path,
    page({ title, lead: 'Report of a clip-cid run', version: run.run?.package, sections }),
  );
  return path;
}
