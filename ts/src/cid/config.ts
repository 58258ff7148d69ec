import { dirname, isAbsolute, resolve } from 'node:path';
import { z } from 'zod';
import { parseWith, readConfigFile } from '../run/schema.ts';
import {
  encoder,
  path,
  placeFields,
  positive,
  share,
  studentName,
  trainerFields,
  visionFields,
  weight,
  whole,
} from '../student/schema.ts';

/*
 * The configuration of `clip-cid run`, and of every single command, whose flags are laid over it. Fields, ranges and the defaults
 * of embed, balance and cluster are here and nowhere else; those of training are in student/schema.ts and documented with
 * TrainingOptions and DistillOptions, those of eval with EvaluateOptions.
 */

const embed = z.strictObject({
  /** Images or texts of one run of the model. */
  batchSize: whole(1).default(64),
  /** Element type of the stored embeddings. */
  dtype: z.enum(['float32', 'float16']).default('float32'),
  /** CSS colour that transparent images are laid on. */
  background: z.string().min(1).default('#ffffff'),
  /** Rows of a shard: what is lost at most when embedding is stopped. */
  shardSize: whole(1).default(4096),
});

const balanceFields = z.strictObject({
  /** Two images are near-duplicates when they are more alike than this, in the unit of `metric`. Either this or `keepRatio`. */
  threshold: z.number().optional(),
  /** Unit of `threshold`. Defaults to 'cosine'. */
  metric: z.enum(['cosine', 'cosine-distance', 'euclidean']).optional(),
  /** Share of the images that should stay; the threshold is searched for. Defaults to 0.563, as in the paper. */
  keepRatio: z.number().positive().max(1).optional(),
  /** A share within this of `keepRatio` counts as reached. */
  tolerance: share.default(0.001),
  /** Which image of a group stays. Defaults to 'central'. */
  keep: z.enum(['central', 'easy', 'hard', 'first', 'best', 'random']).optional(),
  /** Of 'best': .npy file with a score for each embedding. */
  scores: path.optional(),
  /** Greatest cosine distance to the mean of a group. */
  maxDiameter: z.number().min(0).max(2).optional(),
  /** Also write all pairs over the threshold, as pairs.npy or pairs.tsv. */
  pairs: z.enum(['npy', 'tsv']).optional(),
  /** SemDeDup within so many clusters instead, for comparison; `keep` is its order. */
  semdedup: whole(1).optional(),
  /** An earlier embedding store, near-duplicates of whose images are dropped; and its keep.npy: only those count that stayed. */
  against: path.optional(),
  againstKeep: path.optional(),
});

/** The range of a threshold follows from its unit. */
const balance = balanceFields.superRefine(({ threshold, metric = 'cosine' }, context) => {
  if (threshold === undefined) return;
  const [minimum, maximum] = metric === 'cosine' ? [-1, 1] : [0, 2];
  const issue = { origin: 'number' as const, input: threshold, path: ['threshold'], inclusive: true };
  if (threshold < minimum) context.addIssue({ ...issue, code: 'too_small', minimum });
  if (threshold > maximum) context.addIssue({ ...issue, code: 'too_big', maximum });
});

const cluster = z.strictObject({
  /** Centres, 1 to the kept images. */
  clusters: whole(1).optional(),
  iterations: whole(1).default(50),
  /** Ends when at most this share of the rows changes its centre. */
  tolerance: share.default(0.001),
  init: z.enum(['k-means++', 'k-means||', 'random']).default('k-means++'),
  /** Starts, of which the one of smallest inertia counts. */
  nInit: whole(1).default(1),
});

const text = z.strictObject({
  contextLength: whole(1).optional(),
  width: whole(1).optional(),
  layers: whole(1).optional(),
  heads: whole(1).optional(),
  mlpRatio: positive.optional(),
});

const trainingFields = {
  ...trainerFields,
  student: z
    .union([
      studentName,
      z.strictObject({
        base: studentName.optional(),
        embedDim: whole(1).optional(),
        vision: z.strictObject(visionFields).optional(),
        text: text.optional(),
      }),
    ])
    .optional(),
  init: path.optional(),
  imageModel: path.optional(),
  captions: z.enum(['first', 'random']).optional(),
  validation: z.union([z.number().min(0).max(0.5), z.array(whole(0))]).optional(),
};

const distillFields = {
  ...trainingFields,
  targets: z.enum(['cached', 'online']).optional(),
  weights: z
    .strictObject({ clip: weight, clusterCe: weight, clusterKl: weight, instance: weight })
    .optional(),
  temperature: positive.optional(),
  teacherTemperature: positive.optional(),
  pairing: z.enum(['same', 'cross', 'both']).optional(),
  sampleRate: z.number().positive().max(1).optional(),
  learnedCentres: z.boolean().optional(),
};

const distill = z.strictObject(distillFields);

const pretrain = z.strictObject({ ...trainingFields, vocabSize: whole(514).optional() });

const evaluation = z.strictObject({
  /** What models are measured on. */
  data: path.optional(),
  /** Data that the models may have seen: labels for the linear probe. Defaults to the run's `data`. */
  train: path.optional(),
  tasks: z
    .array(z.enum(['zero-shot', 'image-text', 'image-image', 'linear-probe']))
    .min(1)
    .optional(),
  labels: z.array(z.string().min(1)).optional(),
  classes: z.record(z.string(), z.array(z.string().min(1)).min(1)).optional(),
  templates: z
    .array(z.string().includes('{}', { error: 'Expected a text with {} for the class' }))
    .min(1)
    .optional(),
  concept: z.string().min(1).optional(),
  domain: z.string().min(1).optional(),
  captionsPerImage: whole(1).optional(),
  probeGrid: z.array(z.number().min(0)).min(1).optional(),
  probeLabels: z.array(z.string().min(1)).optional(),
});

const schema = z.strictObject({
  /** Images with captions: a list, a folder, or WebDataset tars. */
  data: path.optional(),
  /** Fields of a list that name the image and its caption; default to the first there is of 'image', 'path', …, and of 'caption', 'text', … */
  imageField: z.string().min(1).optional(),
  captionField: z.string().min(1).optional(),
  /** The teacher's model folder. */
  teacher: path.optional(),
  ...placeFields,
  /** Bytes that a comparison of embeddings may hold beyond its results. Defaults to what the device has to spare. */
  maxMemory: whole(16 * 2 ** 20).optional(),
  encoder: encoder.prefault({}),
  embed: embed.prefault({}),
  balance: balance.prefault({}),
  cluster: cluster.prefault({}),
  distill: distill.prefault({}),
  /** Changes to `distill` for a second student that the first is compared with; none when not given. */
  baseline: distill.optional(),
  pretrain: pretrain.prefault({}),
  eval: evaluation.prefault({}),
});

/** A configuration with its defaults filled in and its paths absolute. */
export type Config = z.output<typeof schema>;
/** A configuration as written: everything may be left out. */
export type ConfigInput = z.input<typeof schema>;

/**
 * Checks a configuration and fills in its defaults. Paths in it are relative to `folder`.
 *
 * @param name Where it comes from, for messages: a file, or 'the options'.
 * @throws CidError INVALID_CONFIG that names every field that is wrong, unknown ones with the name that may have been meant.
 */
export function parseConfig(value: unknown, name = 'the configuration', folder = process.cwd()): Config {
  return withAbsolutePaths(parseWith(schema, value, name), folder);
}

/** {@link parseConfig} of a JSON file, whose folder its paths are relative to. */
export async function readConfig(file: string): Promise<Config> {
  return parseConfig(await readConfigFile(file), file, dirname(resolve(file)));
}

function withAbsolutePaths(config: Config, folder: string): Config {
  const at = <T extends string | undefined>(value: T): T =>
    value === undefined || isAbsolute(value) ? value : (resolve(folder, value) as T);
  const training = <T extends { init?: string | undefined; imageModel?: string | undefined } | undefined>(
    section: T,
  ): T =>
    section && {
      ...section,
      ...(section.init && { init: at(section.init) }),
      ...(section.imageModel && { imageModel: at(section.imageModel) }),
    };
  return {
    ...config,
    data: at(config.data),
    teacher: at(config.teacher),
    balance: {
      ...config.balance,
      ...(config.balance.scores && { scores: at(config.balance.scores) }),
      ...(config.balance.against && { against: at(config.balance.against) }),
      ...(config.balance.againstKeep && { againstKeep: at(config.balance.againstKeep) }),
    },
    distill: training(config.distill),
    baseline: training(config.baseline),
    pretrain: training(config.pretrain),
    eval: { ...config.eval, data: at(config.eval.data), train: at(config.eval.train) },
  };
}
