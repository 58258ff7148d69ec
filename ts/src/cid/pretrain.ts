import type { Dataset } from '../data/dataset.ts';
import { tokenizerConfig, trainTokenizer } from '../encoder/bpe.ts';
import { expectObject } from '../native/check.ts';
import { studentConfig } from '../student/config.ts';
import { fitStudent, kernelOptions, type PreparedData, prepareData } from '../student/fit.ts';
import { loadStudent } from '../student/load.ts';
import { clipLoss } from '../student/losses.ts';
import { type StudentModel, startStudent } from '../student/model.ts';
import { TRAINING_OPTIONS, type TrainedStudent, type TrainingOptions } from '../student/options.ts';

/** Training of a CLIP from nothing, with the contrastive loss alone; see {@link TrainingOptions} for the rest. */
export interface PretrainOptions extends TrainingOptions {
  /** Images with captions; the caller disposes of it. */
  data: Dataset;
  /** Indices of the items to use. Defaults to all. */
  items?: ArrayLike<number>;
  /** Tokens of the byte-level BPE that is trained on the captions, at least 514. Defaults to 8,192. Not used with `init`. */
  vocabSize?: number;
}

/** Holds options against the data that they are for, and throws what {@link pretrain} would. */
export function checkPretrain(options: PretrainOptions): void {
  expectObject('options', options, OPTIONS);
  if (options.init === undefined) studentConfig(options.student);
  prepareData(options.data, options.items, options);
}

/**
 * Trains a CLIP from nothing: its tokenizer, byte-level BPE over the captions of the training items, and then both towers with
 * CLIP's contrastive loss (Radford et al., 2021).
 */
export async function pretrain(options: PretrainOptions): Promise<TrainedStudent> {
  expectObject('options', options, OPTIONS);
  const prepared = prepareData(options.data, options.items, options);
  const student =
    options.init === undefined ? await fresh(options, prepared) : await loadStudent(options.init);
  return fitStudent({
    prepared,
    options,
    stage: 'pretrain',
    student,
    heads: { instance: false },
    loss: clipLoss({ dim: student.embedDim, kernel: kernelOptions(options) }),
    identity: 'clip',
  });
}

async function fresh(
  options: PretrainOptions,
  { data, items, training }: PreparedData,
): Promise<StudentModel> {
  const captions = Array.from(items, (item) => data.item(item).captions).flat();
  const { contextLength } = studentConfig(options.student).text;
  const json = trainTokenizer(captions, { vocabSize: options.vocabSize ?? 8192 });
  return startStudent(options, training.seed, { json, config: tokenizerConfig(contextLength) });
}

const OPTIONS = [
  ...TRAINING_OPTIONS,
  ...Object.keys({
    data: true,
    items: true,
    vocabSize: true,
  } satisfies Record<Exclude<keyof PretrainOptions, keyof TrainingOptions>, true>),
];
