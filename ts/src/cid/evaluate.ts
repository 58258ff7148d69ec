import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { openDataset } from '../data/dataset.ts';
import { encoderIdentity, hashModel } from '../encoder/identity.ts';
import { evaluate } from '../eval/evaluate.ts';
import { expectMeasurable } from '../eval/tasks.ts';
import type { EvaluateOptions, EvaluateResult } from '../eval/types.ts';
import { readJson, writeJson } from '../run/files.ts';
import type { Json } from '../run/hash.ts';
import { defined, type StageSettings } from '../run/settings.ts';
import { runStage, type StageResult } from '../run/stage.ts';
import type { Config } from './config.ts';
import { hashDataset } from './inputs.ts';

export interface EvalStageOptions extends StageSettings {
  /** Model folders by the name that they have in the results, in the order of the table. */
  readonly models: Readonly<Record<string, string>>;
  /** What they are measured on. */
  readonly data: string;
  /** Data that they may have seen. */
  readonly train?: string | undefined;
  /** Field of a list that names the image. Defaults to the first there is of 'image', 'path', 'file', …; see `openDataset`. */
  readonly imageField?: string | undefined;
  /** Field of a list that holds the caption. Defaults to the first there is of 'caption', 'captions', 'text', …; see `openDataset`. */
  readonly captionField?: string | undefined;
  /** Everything else; see EvaluateOptions. */
  readonly options: Omit<Config['eval'], 'data' | 'train'>;
  /** How the model folder is opened: execution providers, and files by other names. Defaults to those of {@link OpenEncoderOptions}. */
  readonly encoder?: Config['encoder'] | undefined;
  /** Defaults to 0. */
  readonly seed?: number | undefined;
}

/** Measures models on a data set; writes `NAME.json` ({@link EvaluateResult}) for each. */
export async function evalStage(options: EvalStageOptions): Promise<StageResult> {
  const { models, seed = 0, folder } = options;
  const names = Object.keys(models);
  const outputs = names.map((name) => `${name}.json`);
  const inputs: Record<string, string> = { data: await hashDataset(options.data, options) };
  if (options.train !== undefined) inputs.train = await hashDataset(options.train, options);
  for (const name of names) inputs[name] = await hashModel(models[name]!);
  return runStage({
    name: 'eval',
    folder,
    inputs,
    options: { ...(options.options as Record<string, Json>), seed, ...encoderIdentity(options.encoder) },
    owns: outputs,
    ...defined({ existing: options.existing, log: options.log }),
    check: () => checkEvaluation(options),
    work: async ({ resumed }) => {
      const summary: Record<string, Json> = {};
      for (const name of names) {
        const path = join(folder, `${name}.json`);
        // A result is written whole, so what is there from an attempt that was stopped is good.
        const done = resumed && existsSync(path);
        const result = done ? ((await readJson(path)) as EvaluateResult) : await measure(name, options);
        if (!done) await writeJson(path, result);
        summary[name] = headline(result);
      }
      return { outputs, summary };
    },
  });
}

/** Holds the options against the lists of images, which fails in a moment where measuring would after hours. */
async function checkEvaluation(
  options: Pick<EvalStageOptions, 'data' | 'train' | 'imageField' | 'captionField' | 'options'>,
): Promise<void> {
  const { imageField, captionField } = options;
  const fields = { captions: false, ...defined({ imageField, captionField }) };
  const data = await openDataset(options.data, fields);
  const train = options.train === undefined ? undefined : await openDataset(options.train, fields);
  try {
    expectMeasurable(data, train, defined(options.options) as Partial<EvaluateOptions>);
  } finally {
    await Promise.all([data.dispose(), train?.dispose()]);
  }
}

/** Measures one model of the stage's, without writing anything. */
export async function measure(
  name: string,
  options: Omit<EvalStageOptions, 'folder'>,
): Promise<EvaluateResult> {
  const { onProgress } = options;
  const settings = defined({
    train: options.train,
    imageField: options.imageField,
    captionField: options.captionField,
    device: options.device,
    threads: options.threads,
    signal: options.signal,
    seed: options.seed,
    encoder: options.encoder && defined(options.encoder),
    onProgress:
      onProgress &&
      ((event: Parameters<typeof onProgress>[0]) =>
        onProgress({ ...event, label: `eval ${name}: ${event.label}` })),
  });
  return evaluate({
    ...(defined(options.options) as Partial<EvaluateOptions>),
    ...settings,
    model: options.models[name]!,
    data: options.data,
  });
}

/** The few numbers that a summary shows. */
function headline(result: EvaluateResult): Record<string, Json> {
  const scores: Record<string, Json> = { parameters: result.model.parameters };
  for (const [field, zeroShot] of Object.entries(result.zeroShot ?? {}))
    scores[`zeroShot/${field}`] = zeroShot.top1;
  if (result.imageImage) scores.imageToImage = result.imageImage.recall['1'];
  for (const [field, probe] of Object.entries(result.linearProbe ?? {}))
    scores[`linearProbe/${field}`] = probe.top1;
  if (result.imageText?.data) scores.imageToText = result.imageText.data.imageToText.recall['1'];
  return scores;
}
