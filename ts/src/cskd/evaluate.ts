import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { RatedDataset } from '../data/rated/dataset.ts';
import { binCentres, meanScore, type ScoreScale, sameBins } from '../data/rated/scale.ts';
import { embedDataset } from '../encoder/embed.ts';
import { hashModel } from '../encoder/identity.ts';
import { summariseModel } from '../eval/model.ts';
import { measureScores, type ScoreMetrics } from '../eval/scores.ts';
import type { ModelSummary } from '../eval/types.ts';
import { CidError } from '../native/errors.ts';
import { readJson, writeJson } from '../run/files.ts';
import type { Json } from '../run/hash.ts';
import { defined, type StageSettings } from '../run/settings.ts';
import { runStage, type StageResult } from '../run/stage.ts';
import type { AestheticsConfig, LabelsConfig } from './config.ts';
import { openScorer } from './scorer.ts';
import { joinStore, openLabels } from './sources.ts';

/** An image with what it was predicted and what people gave it. */
export interface RatedImage {
  readonly key: string;
  /** Path, or `tar#member`. */
  readonly image: string;
  readonly predicted: number;
  readonly given: number;
}

/** How well a scorer agrees with people; `NAME.json` of the stage. */
export interface ScorerResult {
  readonly model: ModelSummary;
  readonly data: {
    readonly source: string;
    readonly images: number;
    /** Images that could not be decoded. */
    readonly skipped: number;
  };
  /**
   * The scorer's own scale, where it is not that of the data: its scores were brought linearly from one to the other, ends to ends. There are
   * no distances of distributions then, unless both have as many bins.
   */
  readonly scale?: ScoreScale;
  readonly metrics: ScoreMetrics;
  /** Images with the highest and the lowest predicted scores, the most extreme first. */
  readonly highest: readonly RatedImage[];
  readonly lowest: readonly RatedImage[];
}

/** Images of a gallery. */
const SHOWN = 14;
const BATCH = 64;

export interface ScorerEvalOptions extends StageSettings {
  /** Model folders of scorers by the name that they have in the results, in the order of the table. */
  readonly models: Readonly<Record<string, string>>;
  /** Images with ratings, as in the section `labels` of a configuration; the test split is measured on. */
  readonly labels: LabelsConfig;
  /** Resamples that the intervals are taken from, and their confidence, 0 to 1. Default to 1,000 and 0.95. */
  readonly options?: AestheticsConfig['eval'] | undefined;
  /** Of the resamples. Defaults to 0. */
  readonly seed?: number | undefined;
}

/**
 * Measures scorers on the test images; writes `NAME.json` ({@link ScorerResult}) for each, and what it said of every image into an embedding
 * store `NAME/`. All models are measured on the same resamples.
 */
export async function scorerEvalStage(options: ScorerEvalOptions): Promise<StageResult> {
  const { models, seed = 0, folder } = options;
  const names = Object.keys(models);
  const outputs = names.map((name) => `${name}.json`);
  const { rated, splits } = await openLabels(options.labels);
  const test = rated.pick(splits.test);
  try {
    if (test.length === 0) throw new CidError('INVALID_DATA', `${rated.source} has no images for testing`);
    const inputs: Record<string, string> = { labels: test.hash };
    for (const name of names) inputs[name] = await hashModel(models[name]!);
    return await runStage({
      name: 'scores',
      folder,
      inputs,
      options: { ...(defined(options.options ?? {}) as Record<string, Json>), seed },
      owns: [...outputs, ...names],
      ...defined({ existing: options.existing, log: options.log }),
      work: async ({ resumed }) => {
        const summary: Record<string, Json> = {};
        for (const name of names) {
          const path = join(folder, `${name}.json`);
          // A result is written whole, so what is there from an attempt that was stopped is good.
          const done = resumed && existsSync(path);
          const result = done
            ? ((await readJson(path)) as ScorerResult)
            : await measureScorer(models[name]!, test, join(folder, name), { ...options, name, seed });
          if (!done) await writeJson(path, result);
          summary[name] = result.metrics.srcc.value;
        }
        return { outputs, summary };
      },
    });
  } finally {
    await Promise.all([test.dispose(), rated.dispose()]);
  }
}

/** Measures one scorer on all images of a data set. `folder` becomes an embedding store of what it says; an unfinished one is gone on with. */
export async function measureScorer(
  model: string,
  data: RatedDataset,
  folder: string,
  options: Pick<ScorerEvalOptions, 'threads' | 'signal' | 'onProgress' | 'options'> & {
    readonly name: string;
    readonly seed: number;
  },
): Promise<ScorerResult> {
  const { threads, signal, onProgress, name, seed } = options;
  const scorer = await openScorer(model, { batchSize: BATCH, ...defined({ threads }) });
  try {
    const store = await embedDataset({
      dataset: data,
      encoder: scorer,
      folder,
      batchSize: BATCH,
      signal,
      onProgress: onProgress && ((event) => onProgress({ ...event, label: `scores of ${name}` })),
    });
    const { items, rows } = await joinStore(data, store);
    const { bins } = scorer.scale;
    // From the first bin to the last, whatever they are called: the scorer's scores on the scale of the data.
    const centres = binCentres({ ...data.scale, bins });
    const given = data.pick(items);
    const scores = Float64Array.from(items, (_, i) =>
      meanScore(rows.subarray(i * bins, (i + 1) * bins), centres),
    );
    const distributions = bins === data.scale.bins ? { distributions: rows } : {};
    const metrics = await measureScores({ scores, ...distributions }, given, {
      seed,
      ...defined({ ...options.options, signal }),
    });
    const order = Array.from(items.keys()).sort((a, b) => scores[b]! - scores[a]! || a - b);
    const shown = (row: number): RatedImage => ({
      key: given.item(row).key,
      image: given.location(row),
      predicted: scores[row]!,
      given: given.scores[row]!,
    });
    return {
      model: await summariseModel(scorer),
      data: { source: data.source, images: items.length, skipped: data.length - items.length },
      ...(!sameBins(scorer.scale, data.scale) && { scale: scorer.scale }),
      metrics,
      highest: order.slice(0, SHOWN).map(shown),
      lowest: order.slice(-SHOWN).reverse().map(shown),
    };
  } finally {
    await scorer.dispose();
  }
}
