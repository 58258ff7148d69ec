import { join } from 'node:path';
import { type Dataset, openDataset } from '../data/dataset.ts';
import { gatherRows } from '../data/gather.ts';
import { npyMatrix, readNpy } from '../data/npy.ts';
import type { Store } from '../data/store.ts';
import { openEncoder } from '../encoder/encoder.ts';
import { encoderIdentity, hashModel } from '../encoder/identity.ts';
import { summariseModel } from '../eval/model.ts';
import type { Matrix } from '../kernels/rows.ts';
import { CidError } from '../native/errors.ts';
import { hashFile, type Json } from '../run/hash.ts';
import { defined, type StageSettings } from '../run/settings.ts';
import { describeSpeed, speedNotes } from '../run/speed.ts';
import { outputHash, requireStage, runStage, type StageResult } from '../run/stage.ts';
import { chosenPrecision } from '../student/optimise.ts';
import type { TrainedStudent, TrainingOptions } from '../student/options.ts';
import type { Config } from './config.ts';
import { checkDistill, distill } from './distill.ts';
import { identifyStore } from './inputs.ts';
import { expectItemsOf, readKept } from './items.ts';
import { checkPretrain, pretrain } from './pretrain.ts';

/** What a training folder holds: checkpoints, metrics of its own, and the exported model. */
const OWNS = ['last.safetensors', 'best.safetensors', 'metrics.jsonl', 'model'] as const;

export interface DistillStageOptions extends StageSettings {
  /** Name of the stage in the record and in messages. Defaults to 'distill'. */
  readonly name?: string;
  /** The teacher's model folder. */
  readonly teacher: string;
  /** Embedding store that this teacher made, images and texts. */
  readonly embeddings: string;
  /** The `kept.jsonl` of balancing: items to train on, with their rows of the store. */
  readonly kept: string;
  /** Folder of the cluster stage over the same `kept.jsonl`; needed where a cluster term has weight. */
  readonly cluster?: string | undefined;
  /** Options of `distill`, as in the section `distill` of a configuration: see {@link DistillOptions} for meaning, ranges and defaults. */
  readonly training: Config['distill'];
  /** How the model folder is opened: execution providers, and files by other names. Defaults to those of {@link OpenEncoderOptions}. */
  readonly encoder?: Config['encoder'] | undefined;
  /** Defaults to 0. */
  readonly seed?: number | undefined;
  /** Where a line of metrics a step goes. Defaults to `metrics.jsonl` in the stage's folder. */
  readonly metrics?: string | undefined;
}

/** Distils a student from cached embeddings; see `distill`. The exported model is in `model/` of the folder. */
export async function distillStage(options: DistillStageOptions): Promise<StageResult> {
  const { name = 'distill', training, seed = 0, kept } = options;
  const weights = { clusterCe: 1, clusterKl: 1, instance: 1, ...defined(training.weights ?? {}) };
  const clustered = weights.clusterCe > 0 || weights.clusterKl > 0;
  const guided = clustered || weights.instance > 0;
  if (clustered && options.cluster === undefined) {
    throw new CidError(
      'INVALID_CONFIG',
      'Expected the results of clustering for the cluster terms but received none',
    );
  }
  const centres = clustered ? await requireStage(options.cluster!, 'cluster') : undefined;
  const keptHash = await hashFile(kept);
  if (centres && centres.inputs.kept !== keptHash) {
    throw new CidError(
      'INVALID_DATA',
      `${options.cluster} was made from another list than ${kept}. Run clip-cid cluster again, with --force to replace its result`,
    );
  }
  const store = await identifyStore(options.embeddings);
  let data: Dataset | undefined;
  try {
    return await runStage({
      name,
      folder: options.folder,
      inputs: {
        teacher: await hashModel(options.teacher),
        kept: keptHash,
        ...(guided ? { embeddings: store.hash } : {}),
        ...(centres
          ? { centroids: outputHash(centres, 'centroids.npy'), labels: outputHash(centres, 'labels.npy') }
          : {}),
        ...(await startInputs(training)),
      },
      options: { ...trainingOptions(training, seed), ...(guided ? encoderIdentity(options.encoder) : {}) },
      owns: OWNS,
      ...defined({ existing: options.existing, log: options.log }),
      check: async () => {
        if (guided) await expectItemsOf(store, kept);
        data = await openDataset(kept);
        checkDistill({ ...shared(options, name, seed), data, teacherFolder: options.teacher });
      },
      work: async () => {
        const teacher = await openEncoder(options.teacher, {
          ...defined(options.encoder ?? {}),
          ...threadsOf(options),
        });
        try {
          if (guided && store.model !== undefined && store.model !== teacher.hash) {
            throw new CidError(
              'INVALID_DATA',
              `${options.embeddings} was made by another model than ${options.teacher}, or with other preprocessing`,
            );
          }
          const { rows, places } = await rowsOf(data!, kept);
          const embeddings = guided ? await gatherEmbeddings(store, rows, data!) : undefined;
          const clusters = clustered ? await readClusters(options.cluster!, places) : undefined;
          const { parameters } = await summariseModel(teacher, defined(options.encoder ?? {}));
          const student = await distill({
            ...shared(options, name, seed),
            data: data!,
            teacherFolder: options.teacher,
            teacher,
            ...defined({ embeddings, clusters, metrics: options.metrics }),
            onSizes: (sizes) => options.log?.(`${name}: ${describeSizes(sizes, parameters)}`),
          });
          return trained(student, options, name);
        } finally {
          await teacher.dispose();
        }
      },
    });
  } finally {
    await data?.dispose();
  }
}

/** Who learns from whom. A student that is larger than its teacher is hardly what was meant. */
function describeSizes({ image, text }: { image: number; text: number }, teacher: number): string {
  const count = (value: number) => value.toLocaleString('en-US');
  const all = image + text;
  return (
    `a student of ${count(all)} parameters (image tower ${count(image)}, text tower ${count(text)}) learns from a teacher of ` +
    `${count(teacher)}${all > teacher ? '. Warning: the student is the larger one; --student names others, --help their sizes' : ''}`
  );
}

export interface PretrainStageOptions extends StageSettings {
  /** Images with captions: a list, a folder, or WebDataset tars; a `kept.jsonl` is one too. */
  readonly data: string;
  /** Field of a list that names the image. Defaults to the first there is of 'image', 'path', 'file', …; see `openDataset`. */
  readonly imageField?: string | undefined;
  /** Field of a list that holds the caption. Defaults to the first there is of 'caption', 'captions', 'text', …; see `openDataset`. */
  readonly captionField?: string | undefined;
  /** Options of `pretrain`, as in the section `pretrain` of a configuration: see `PretrainOptions` for meaning, ranges and defaults. */
  readonly training: Config['pretrain'];
  /** Defaults to 0. */
  readonly seed?: number | undefined;
  /** Where a line of metrics a step goes. Defaults to `metrics.jsonl` in the stage's folder. */
  readonly metrics?: string | undefined;
}

/** Trains a CLIP from nothing; see `pretrain`. The exported model is in `model/` of the folder. */
export async function pretrainStage(options: PretrainStageOptions): Promise<StageResult> {
  const { training, seed = 0 } = options;
  const data = await openDataset(
    options.data,
    defined({ imageField: options.imageField, captionField: options.captionField }),
  );
  try {
    return await runStage({
      name: 'pretrain',
      folder: options.folder,
      inputs: { data: data.hash, ...(await startInputs(training)) },
      options: trainingOptions(training, seed),
      owns: OWNS,
      ...defined({ existing: options.existing, log: options.log }),
      check: async () => checkPretrain({ ...shared(options, 'pretrain', seed), data }),
      work: async () => {
        const student = await pretrain({
          ...shared(options, 'pretrain', seed),
          data,
          ...defined({ metrics: options.metrics }),
        });
        return trained(student, options, 'pretrain');
      },
    });
  } finally {
    await data.dispose();
  }
}

/** All options but those that change the student by rounding at most; a path counts by the hash of what is there. */
function trainingOptions(
  training: Config['distill'] | Config['pretrain'],
  seed: number,
): Record<string, Json> {
  const {
    cacheBytes: _cacheBytes,
    prefetchBytes: _prefetchBytes,
    executor: _executor,
    maxActivationMemory: _maxActivationMemory,
    init: _init,
    imageModel: _imageModel,
    precision,
    ...rest
  } = training;
  return { ...(rest as Record<string, Json>), ...chosenPrecision(precision), seed };
}

/** Files that training starts from. */
async function startInputs({ init, imageModel }: Config['pretrain']): Promise<Record<string, string>> {
  return {
    ...(init === undefined ? {} : { init: await hashModel(init) }),
    ...(imageModel === undefined ? {} : { imageModel: await hashFile(imageModel) }),
  };
}

/** Options of a training that both stages hand on. */
function shared(
  options: DistillStageOptions | PretrainStageOptions,
  label: string,
  seed: number,
): TrainingOptions {
  const { training, folder } = options;
  return {
    ...(defined(training) as Partial<TrainingOptions>),
    ...trainingSettings(options, label, seed),
    folder,
  };
}

function threadsOf(options: StageSettings): { threads?: number } {
  return options.threads === undefined ? {} : { threads: options.threads };
}

function trainingSettings(options: StageSettings, label: string, seed: number): Partial<TrainingOptions> {
  const { device, maxDeviceMemory, signal, onProgress, log } = options;
  const note = speedNotes();
  return {
    seed,
    stage: label,
    ...threadsOf(options),
    ...defined({ device, maxDeviceMemory, signal }),
    onStep: ({ step, steps, terms, speed }) =>
      onProgress?.({
        label,
        done: step,
        total: steps,
        unit: 'steps',
        note: `loss ${terms.total.toPrecision(4)}, ${note(speed)}`,
      }),
    onValidation: (step, metrics) => log?.(`${label}: step ${step}, validation: ${describeMetrics(metrics)}`),
    onSkip: (key, reason) => log?.(`${label}: left out ${key}: ${reason}`),
    onFallback: (reason) => log?.(`${label}: trained by ONNX Runtime, which is slower: ${reason}`),
  };
}

function describeMetrics(metrics: Readonly<Record<string, number>>): string {
  return Object.entries(metrics)
    .map(([name, value]) => `${name} ${value.toFixed(4)}`)
    .join(', ');
}

function trained(
  student: TrainedStudent,
  { log }: StageSettings,
  label: string,
): { outputs: string[]; summary: Record<string, Json> } {
  const { steps, best, validation, parameters, lossParameters, heldOut, skipped, speed } = student;
  if (speed) log?.(`${label}: ${describeSpeed(speed)}`);
  return {
    outputs: ['model'],
    summary: {
      model: 'model',
      steps,
      parameters,
      lossParameters,
      heldOut: heldOut.length,
      skipped,
      ...(best === undefined ? {} : { best }),
      ...(validation === undefined ? {} : { validation }),
      ...(speed === undefined ? {} : { speed: { ...speed } }),
    },
  };
}

/** Row of the store, and line of the list, of each item of the opened list; lines whose image is gone are not in it. */
async function rowsOf(data: Dataset, kept: string): Promise<{ rows: Int32Array; places: Int32Array }> {
  const lineOfRow = new Map<number, number>();
  for await (const { row } of readKept(kept)) lineOfRow.set(row, lineOfRow.size);
  const rows = new Int32Array(data.length);
  const places = new Int32Array(data.length);
  for (let index = 0; index < data.length; index++) {
    const row = data.item(index).metadata.row;
    const place = typeof row === 'number' ? lineOfRow.get(row) : undefined;
    if (place === undefined) throw new CidError('FILE_FORMAT', `${kept} was not written by clip-cid balance`);
    rows[index] = row as number;
    places[index] = place;
  }
  return { rows, places };
}

async function gatherEmbeddings(
  store: Store,
  rows: Int32Array,
  data: Dataset,
): Promise<{ image: Matrix; text: Matrix }> {
  if (!store.text) {
    throw new CidError(
      'INVALID_DATA',
      `${store.folder} has no text embeddings, which distillation compares captions with`,
    );
  }
  const name = (index: number) => data.item(index).key;
  return {
    image: await gatherRows(store.image, rows, name),
    text: await gatherRows(store.text, rows, (index) => `the caption of ${name(index)}`),
  };
}

async function readClusters(
  folder: string,
  places: Int32Array,
): Promise<{ centroids: Matrix; labels: Int32Array }> {
  const shape = await npyMatrix(join(folder, 'centroids.npy'));
  const centroids = await gatherRows(
    [shape],
    Int32Array.from({ length: shape.rows }, (_, row) => row),
  );
  const labels = (await readNpy(join(folder, 'labels.npy'))).data as Int32Array;
  return { centroids, labels: Int32Array.from(places, (place) => labels[place]!) };
}
