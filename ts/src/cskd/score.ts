import { join } from 'node:path';
import { gatherRows } from '../data/gather.ts';
import { binCentres, meanScore, type ScoreScale } from '../data/rated/scale.ts';
import { readStoreRecord, type Store } from '../data/store.ts';
import { embedDataset } from '../encoder/embed.ts';
import { hashModel } from '../encoder/identity.ts';
import { writeFileAtomic } from '../run/files.ts';
import { defined, type StageSettings } from '../run/settings.ts';
import { runStage, type StageResult } from '../run/stage.ts';
import type { ImageSetSource } from './config.ts';
import { openScorer } from './scorer.ts';
import { openImages } from './sources.ts';

export interface ScoreStageOptions extends StageSettings {
  /** Images to rate: a folder, a list or WebDataset tars. */
  readonly set: ImageSetSource;
  /** Model folder of a scorer. */
  readonly scorer: string;
  /** Images of a run of the model. Defaults to 64. */
  readonly batchSize?: number | undefined;
  /** Images after which what is done is safe; a stopped run goes on from there. Defaults to 4096. */
  readonly shardSize?: number | undefined;
}

/** Name of the list of scores in the stage's folder. */
export const SCORES_FILE = 'scores.csv';
/** Rows that are turned into text at once. */
const PIECE = 4096;

/**
 * Rates images: writes `scores.csv` with a line an image, `image,score,deviation` and a column a bin, in the order of the data set; `deviation` is
 * the standard deviation of the distribution. The columns of bins are named by their scores, so that the list opens as rated images. Goes on
 * where it was stopped; images that cannot be decoded are counted, and listed with reasons in `skipped.csv`.
 */
export async function scoreStage(options: ScoreStageOptions): Promise<StageResult> {
  const { folder, scorer: path, batchSize = 64, shardSize = 4096, threads } = options;
  const dataset = await openImages(options.set);
  const store = join(folder, 'shares');
  try {
    return await runStage({
      name: 'score',
      folder,
      inputs: { data: dataset.hash, scorer: await hashModel(path) },
      options: { batchSize, shardSize },
      owns: [SCORES_FILE, 'skipped.csv', 'shares'],
      ...defined({ existing: options.existing, log: options.log }),
      work: async () => {
        const { signal, onProgress } = options;
        const scorer = await openScorer(path, { batchSize, ...defined({ threads }) });
        try {
          const done = await embedDataset({
            dataset,
            encoder: scorer,
            folder: store,
            batchSize,
            shardSize,
            signal,
            onProgress: onProgress && ((event) => onProgress({ ...event, label: 'score' })),
          });
          let [sum, low, high] = [0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
          const count = (score: number) => {
            sum += score;
            low = Math.min(low, score);
            high = Math.max(high, score);
          };
          await writeFileAtomic(join(folder, SCORES_FILE), scoreLines(done, scorer.scale, count));
          const skipped = await skippedOf(store);
          await writeFileAtomic(join(folder, 'skipped.csv'), [
            'image,reason\n',
            ...skipped.map(({ key, reason }) => `${field(key)},${field(reason)}\n`),
          ]);
          if (skipped.length > 0) {
            options.log?.(
              `score: left out ${skipped.length} ${skipped.length === 1 ? 'image' : 'images'}; skipped.csv in ${folder} lists them with reasons`,
            );
          }
          return {
            outputs: [SCORES_FILE, 'skipped.csv', 'shares'],
            summary: {
              images: done.rows,
              skipped: skipped.length,
              mean: sum / done.rows,
              lowest: low,
              highest: high,
            },
          };
        } finally {
          await scorer.dispose();
        }
      },
    });
  } finally {
    await dataset.dispose();
  }
}

/** Lines of the list, many at a time. */
async function* scoreLines(
  store: Store,
  scale: ScoreScale,
  count: (score: number) => void,
): AsyncGenerator<string> {
  const centres = binCentres(scale);
  yield `image,score,deviation,${Array.from(centres, plain).join(',')}\n`;
  let images: string[] = [];
  let first = 0;
  const piece = async () => {
    const rows = Int32Array.from(images, (_, i) => first + i);
    const { data } = await gatherRows(store.image, rows);
    const lines = images.map((image, i) => {
      const shares = (data as Float32Array).subarray(i * scale.bins, (i + 1) * scale.bins);
      const score = meanScore(shares, centres);
      count(score);
      const variance = shares.reduce((sum, share, k) => sum + share * (centres[k]! - score) ** 2, 0);
      const numbers = [score, Math.sqrt(variance), ...shares].map(plain);
      return `${field(image)},${numbers.join(',')}\n`;
    });
    first += images.length;
    images = [];
    return lines.join('');
  };
  for await (const { key, image } of store.metadata()) {
    images.push(String(image ?? key));
    if (images.length === PIECE) yield await piece();
  }
  if (images.length > 0) yield await piece();
}

/** Items of a store's data set that are not in it, with reasons. */
async function skippedOf(folder: string): Promise<{ key: string; reason: string }[]> {
  const record = await readStoreRecord(folder);
  return [...record.skipped, ...record.shards.flatMap(({ skipped }) => skipped)];
}

/** Six digits: what float32 shares are good for. */
function plain(value: number): string {
  return String(Number(value.toPrecision(6)));
}

/** A field of a CSV file. */
function field(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
