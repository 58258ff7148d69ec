import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';
import { expectOneOf, expectString } from '../../native/check.ts';
import { CidError } from '../../native/errors.ts';
import { MANIFEST_EXTENSIONS } from '../manifest.ts';
import { type AadbOptions, aadbLabels, readAadb } from './aadb.ts';
import { AVA_FILE, type AvaOptions, readAva } from './ava.ts';
import type { RatedDataset, RatedFormat } from './dataset.ts';
import { type ListOptions, readRatedList } from './list.ts';
import { isParaFile, type ParaOptions, paraAnnotation, readPara } from './para.ts';

export interface OpenRatedOptions extends AvaOptions, AadbOptions, ParaOptions, ListOptions {
  /** What the source is. Found out when not given. */
  format?: RatedFormat;
}

const FORMATS: readonly RatedFormat[] = ['ava', 'aadb', 'para', 'list'];

/**
 * Opens images with ratings: the folder that AVA, AADB or PARA was unpacked to (or `AVA.txt`, a `PARA-….csv`), or a list (`.csv`, `.tsv`,
 * `.jsonl`, `.ndjson`, `.parquet`) with scores or histograms. See {@link readAva}, {@link readAadb}, {@link readPara} and
 * {@link readRatedList} for what is read and which options each takes.
 *
 * What cannot be used (images that are missing or empty, wrong numbers, repeated names) is left out, counted and listed with reasons in
 * `skipped`. Fails with FILE_NOT_FOUND when the source or all of its images are missing, with INVALID_DATA when nothing usable is left,
 * and with FILE_FORMAT when the source is none of these.
 */
export async function openRated(source: string, options: OpenRatedOptions = {}): Promise<RatedDataset> {
  expectString('source', source);
  const { format } = options;
  if (format !== undefined) expectOneOf('format', format, FORMATS);
  if (!existsSync(source)) throw new CidError('FILE_NOT_FOUND', `No such data set: ${source}`);
  switch (format ?? (await ratedFormat(source))) {
    case 'ava':
      return readAva(source, options);
    case 'aadb':
      return readAadb(source, options);
    case 'para':
      return readPara(source, options);
    case 'list':
      return readRatedList(source, options);
    default:
      throw new CidError(
        'FILE_FORMAT',
        `${source} has no ratings that can be read: expected a folder with ${AVA_FILE} (AVA), ` +
          `imgListFiles_label (AADB) or annotation/PARA-GiaaTrain.csv (PARA), or a list (${MANIFEST_EXTENSIONS.join(', ')})`,
      );
  }
}

/** What a source of ratings is, by its files; undefined for anything else, such as a folder of images alone. */
export async function ratedFormat(source: string): Promise<RatedFormat | undefined> {
  const status = await stat(source).catch(() => undefined);
  if (status === undefined) return undefined;
  if (status.isDirectory()) {
    if (existsSync(join(source, AVA_FILE))) return 'ava';
    if (aadbLabels(source) !== undefined) return 'aadb';
    return paraAnnotation(source) === undefined ? undefined : 'para';
  }
  if (basename(source) === AVA_FILE) return 'ava';
  if (isParaFile(source)) return 'para';
  return MANIFEST_EXTENSIONS.includes(extname(source).toLowerCase()) ? 'list' : undefined;
}
