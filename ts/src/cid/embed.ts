import { type Dataset, openDataset } from '../data/dataset.ts';
import { readStoreRecord, STORE_FILE } from '../data/store.ts';
import { embedDataset } from '../encoder/embed.ts';
import { openEncoder } from '../encoder/encoder.ts';
import { runStage, type StageResult } from '../run/stage.ts';
import type { Config } from './config.ts';
import { hashModel } from './inputs.ts';
import { defined, type StageSettings } from './stage.ts';

export interface EmbedStageOptions extends StageSettings {
  /** Images, with captions or without: a list, a folder, or WebDataset tars. */
  readonly data: string;
  readonly imageField?: string | undefined;
  readonly captionField?: string | undefined;
  /** Model folder. */
  readonly model: string;
  readonly encoder?: Config['encoder'] | undefined;
  /** Images or texts of one run of the model. Defaults to 64. */
  readonly batchSize?: number | undefined;
  /** Element type of the stored embeddings. Defaults to 'float32'. */
  readonly dtype?: 'float32' | 'float16' | undefined;
  /** CSS colour that transparent images are laid on. Defaults to '#ffffff'. */
  readonly background?: string | undefined;
  /** Items of a shard: what is lost at most when embedding is stopped. Defaults to 4096. */
  readonly shardSize?: number | undefined;
}

/** Embeds a data set into an embedding store, the stage's folder; see `embedDataset`. */
export async function embedStage(options: EmbedStageOptions): Promise<StageResult> {
  const { folder, batchSize = 64, dtype = 'float32', background = '#ffffff', shardSize = 4096 } = options;
  const dataset = await openDataset(options.data, {
    captions: false,
    ...defined({ imageField: options.imageField, captionField: options.captionField }),
  });
  try {
    return await runStage({
      name: 'embed',
      folder,
      inputs: { data: dataset.hash, model: await hashModel(options.model) },
      options: {
        ...{ dtype, background, shardSize, batchSize },
        providers: options.encoder?.providers ?? ['cpu'],
        ...defined({ visionModel: options.encoder?.visionModel, textModel: options.encoder?.textModel }),
      },
      owns: [STORE_FILE, 'progress.jsonl', 'img_emb', 'text_emb', 'metadata'],
      ...defined({ existing: options.existing, log: options.log }),
      work: async () => {
        noteMissingCaptions(dataset, options.log);
        const { threads, signal, onProgress } = options;
        const encoder = await openEncoder(options.model, {
          batchSize,
          ...defined({ ...options.encoder, threads }),
        });
        try {
          const store = await embedDataset({
            dataset,
            encoder,
            folder,
            batchSize,
            dtype,
            background,
            shardSize,
            signal,
            onProgress,
          });
          const record = await readStoreRecord(folder);
          const files = record.shards.flatMap((shard) => Object.entries(shard.files));
          if (store.skipped > 0) {
            options.log?.(
              `embed: left out ${store.skipped} items; ${STORE_FILE} in ${folder} lists them with reasons`,
            );
          }
          return {
            outputs: [STORE_FILE, ...files.map(([path, hash]) => ({ path, hash }))],
            summary: {
              rows: store.rows,
              dim: store.dim,
              texts: store.text !== undefined,
              skipped: store.skipped,
            },
          };
        } finally {
          await encoder.dispose();
        }
      },
    });
  } finally {
    await dataset.dispose();
  }
}

/** Texts are embedded for all images or for none, so a few without a caption cost the captions of the others. */
function noteMissingCaptions(dataset: Dataset, log: ((line: string) => void) | undefined): void {
  const missing: string[] = [];
  for (let i = 0; i < dataset.length; i++) {
    const { key, captions } = dataset.item(i);
    if (captions.length === 0) missing.push(key);
  }
  if (missing.length === 0 || missing.length === dataset.length) return;
  log?.(
    `embed: ${missing.length} of ${dataset.length} images have no caption (the first is ${missing[0]}), so that no captions are ` +
      'embedded at all, which distilling needs: give them captions or leave them out',
  );
}
