import type { Dataset } from '../data/dataset.ts';
import { readStoreRecord, STORE_FILE } from '../data/store.ts';
import type { Json } from '../run/hash.ts';
import { defined, type StageSettings } from '../run/settings.ts';
import { describeSpeed, type Speed } from '../run/speed.ts';
import { runStage, type StageResult } from '../run/stage.ts';
import { embedDataset } from './embed.ts';
import type { Encoder } from './encoder.ts';
import type { ImageEncoder } from './image-encoder.ts';

export interface StoreStageOptions extends StageSettings {
  /** Name of the stage in the record and in messages. */
  readonly name: string;
  readonly dataset: Dataset;
  /** Hash of the model's files. */
  readonly model: string;
  /** Opens the model; only when there is work to do. */
  readonly open: () => Promise<ImageEncoder | Encoder>;
  /** What else decides the embeddings: providers, files by other names. */
  readonly identity: Readonly<Record<string, Json>>;
  readonly batchSize: number;
  readonly dtype: 'float32' | 'float16';
  readonly background: string;
  readonly shardSize: number;
}

/** Embeds a data set into an embedding store, the stage's folder; see `embedDataset`. */
export async function storeStage(options: StoreStageOptions): Promise<StageResult> {
  const { name, folder, dataset, batchSize, dtype, background, shardSize } = options;
  return runStage({
    name,
    folder,
    inputs: { data: dataset.hash, model: options.model },
    options: { ...{ dtype, background, shardSize, batchSize }, ...options.identity },
    owns: [STORE_FILE, 'progress.jsonl', 'img_emb', 'text_emb', 'metadata'],
    ...defined({ existing: options.existing, log: options.log }),
    work: async () => {
      const { signal, onProgress } = options;
      const encoder = await options.open();
      try {
        let speed: Speed | undefined;
        const store = await embedDataset({
          dataset,
          encoder,
          folder,
          batchSize,
          dtype,
          background,
          shardSize,
          signal,
          onProgress: onProgress && ((event) => onProgress({ ...event, label: name })),
          onSpeed: (measured) => {
            speed = measured;
            options.log?.(`${name}: ${describeSpeed(measured, 'model')}`);
          },
        });
        const record = await readStoreRecord(folder);
        const files = record.shards.flatMap((shard) => Object.entries(shard.files));
        if (store.skipped > 0) {
          options.log?.(
            `${name}: left out ${store.skipped} ${store.skipped === 1 ? 'item' : 'items'}; ${STORE_FILE} in ${folder} lists them with reasons`,
          );
        }
        return {
          outputs: [STORE_FILE, ...files.map(([path, hash]) => ({ path, hash }))],
          summary: {
            rows: store.rows,
            dim: store.dim,
            texts: store.text !== undefined,
            skipped: store.skipped,
            ...(speed && { speed: { ...(speed as Speed) } }),
          },
        };
      } finally {
        await encoder.dispose();
      }
    },
  });
}
