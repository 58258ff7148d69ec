import { type Dataset, openDataset } from '../data/dataset.ts';
import { storeStage } from '../encoder/embed-stage.ts';
import { openEncoder } from '../encoder/encoder.ts';
import { hashModel } from '../encoder/identity.ts';
import { defined, type StageSettings } from '../run/settings.ts';
import type { StageResult } from '../run/stage.ts';
import type { Config } from './config.ts';

export interface EmbedStageOptions extends StageSettings {
  /** Images, with captions or without: a list, a folder, or WebDataset tars. */
  readonly data: string;
  /** Field of a list that names the image. Defaults to the first there is of 'image', 'path', 'file', …; see `openDataset`. */
  readonly imageField?: string | undefined;
  /** Field of a list that holds the caption. Defaults to the first there is of 'caption', 'captions', 'text', …; see `openDataset`. */
  readonly captionField?: string | undefined;
  /** Model folder. */
  readonly model: string;
  /** How the model folder is opened: execution providers, and files by other names. Defaults to those of {@link OpenEncoderOptions}. */
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
  const {
    batchSize = 64,
    dtype = 'float32',
    background = '#ffffff',
    shardSize = 4096,
    encoder = {},
  } = options;
  const dataset = await openDataset(options.data, {
    captions: false,
    ...defined({ imageField: options.imageField, captionField: options.captionField }),
  });
  try {
    return await storeStage({
      ...options,
      name: 'embed',
      dataset,
      model: await hashModel(options.model),
      open: () => {
        noteMissingCaptions(dataset, options.log);
        return openEncoder(options.model, {
          batchSize,
          ...defined({ ...encoder, threads: options.threads }),
        });
      },
      identity: {
        providers: encoder.providers ?? ['cpu'],
        ...defined({ visionModel: encoder.visionModel, textModel: encoder.textModel }),
      },
      batchSize,
      dtype,
      background,
      shardSize,
    });
  } finally {
    await dataset.dispose();
  }
}

/**
 * Texts are embedded for all images or for none, so a few without a caption cost the captions of the others. Without any, what works is said now
 * and not by `distill` in the end.
 */
function noteMissingCaptions(dataset: Dataset, log: ((line: string) => void) | undefined): void {
  const missing: string[] = [];
  for (let i = 0; i < dataset.length; i++) {
    const { key, captions } = dataset.item(i);
    if (captions.length === 0) missing.push(key);
  }
  if (missing.length === 0) return;
  if (missing.length === dataset.length) {
    log?.(
      `embed: warning: there are no captions in ${dataset.source}. balance, cluster and retrieval among images work without; distill and text ` +
        'retrieval need them: NAME.txt beside NAME.jpg in a folder, the field that --caption-field names in a list',
    );
    return;
  }
  log?.(
    `embed: warning: ${missing.length} of ${dataset.length} images have no caption (the first is ${missing[0]}), so that no captions are ` +
      'embedded at all, which distilling needs: give them captions or leave them out',
  );
}
