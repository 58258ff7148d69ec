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
 * The configuration of `clip-cid aesthetics`, and of each of its commands, whose flags are laid over it. Ranges are here; meaning and
 * defaults of the fields of training are documented with AlignOptions and TrainScorerOptions, those of labels with OpenRatedOptions.
 */

/** Images without labels: a folder, a list or WebDataset tars; with a weight, where several sets are mixed unevenly. */
const imageSet = z.strictObject({
  data: path,
  /** Share of the rows, relative to the other sets'; for all sets or for none. */
  weight: positive.optional(),
  /** Field of a list that names the image; defaults to the first there is of 'image', 'path', 'file', … */
  imageField: z.string().min(1).optional(),
});

const imageSets = z.union([path, imageSet, z.array(z.union([path, imageSet])).min(1)]).optional();

const labels = z.strictObject({
  /** Images with ratings: the folder of AVA, AADB or PARA, or a list with scores or histograms. */
  data: path.optional(),
  /** Found out when not given. */
  format: z.enum(['ava', 'aadb', 'para', 'list']).optional(),
  /** Folder of the images, and lists of AVA's splits, where they are not where the release has them. */
  images: path.optional(),
  testList: path.optional(),
  trainList: path.optional(),
  /** Bins of AADB's scores. */
  bins: whole(2).optional(),
  imageField: z.string().min(1).optional(),
  scoreField: z.string().min(1).optional(),
  histogramField: z.string().min(1).optional(),
  splitField: z.string().min(1).optional(),
  /** Of a list: the centres of the first and the last bin, how many there are, and over which score an image counts as a good one. */
  scale: z
    .strictObject({ low: z.number(), high: z.number(), bins: whole(2), threshold: z.number().optional() })
    .optional(),
  /** Shares that are held out for validation and testing where the data have no such split. */
  validation: share.optional(),
  test: share.optional(),
  /** Labels to learn from, for training with little data: so many images of the training split, or a share of them. Defaults to all. */
  count: whole(2).optional(),
  share: z.number().positive().max(1).optional(),
  /** Seed of splits and of which labels those are; not that of training, so that seeds can be compared on the same images. */
  splitSeed: whole(0).default(0),
});

const alignFields = {
  ...trainerFields,
  targets: z.enum(['cached', 'online']).optional(),
  weights: z.strictObject({ cosine: weight, mse: weight, feature: weight, relational: weight }).optional(),
  temperature: positive.optional(),
  projector: whole(0).optional(),
  validation: z.number().min(0).max(0.5).optional(),
};

const trainFields = {
  ...trainerFields,
  emd: z.enum(['squared', 'root']).optional(),
  head: whole(0).optional(),
  backboneRate: z.number().min(0).optional(),
  /** Of the student. */
  targets: z.enum(['cached', 'online']).optional(),
  unlabelledWeight: weight,
  ratio: positive.optional(),
  maxDeviation: positive.optional(),
};

/** An encoder, and what its two trainings do otherwise than the sections `align` and `train` say. */
const learner = z.strictObject({
  backbone: z
    .union([studentName, z.strictObject({ base: studentName.optional(), ...visionFields })])
    .optional(),
  init: path.optional(),
  features: z.string().min(1).optional(),
  align: z.strictObject(alignFields).optional(),
  train: z.strictObject(trainFields).optional(),
});

const schema = z.strictObject({
  ...placeFields,
  /** Model folder of the frozen CLIP, of which the image side is used. */
  clip: path.optional(),
  /** How it is opened. */
  encoder: encoder.omit({ textModel: true }).prefault({}),
  /** Images without labels, for both phases. */
  unlabelled: imageSets,
  labels: labels.prefault({}),
  teacher: learner.prefault({}),
  student: learner.prefault({}),
  /** Phase 1, for both encoders. `unlabelled` replaces the common images. */
  align: z.strictObject({ ...alignFields, unlabelled: imageSets }).prefault({}),
  /** Phase 2, for both scorers. `unlabelled` replaces the common images. `mutual` trains both on each other (unconfirmed). */
  train: z
    .strictObject({ ...trainFields, unlabelled: imageSets, mutual: z.boolean().default(false) })
    .prefault({}),
  /** Also trains what either phase is missing from, to see what each adds. */
  baselines: z.boolean().default(false),
  eval: z.strictObject({ resamples: whole(0).optional(), confidence: share.optional() }).prefault({}),
});

/** A configuration with its defaults filled in and its paths absolute. */
export type AestheticsConfig = z.output<typeof schema>;
/** A configuration as written: everything may be left out. */
export type AestheticsConfigInput = z.input<typeof schema>;
export type LabelsConfig = AestheticsConfig['labels'];
export type ImageSetSource = z.output<typeof imageSet>;

/**
 * Checks a configuration and fills in its defaults. Paths in it are relative to `folder`.
 *
 * @param name Where it comes from, for messages: a file, or 'the options'.
 * @throws CidError INVALID_CONFIG that names every field that is wrong.
 */
export function parseAestheticsConfig(
  value: unknown,
  name = 'the configuration',
  folder = process.cwd(),
): AestheticsConfig {
  return withAbsolutePaths(parseWith(schema, value, name), folder);
}

/** {@link parseAestheticsConfig} of a JSON file, whose folder its paths are relative to. */
export async function readAestheticsConfig(file: string): Promise<AestheticsConfig> {
  return parseAestheticsConfig(await readConfigFile(file), file, dirname(resolve(file)));
}

/** The image sets of a phase: its own, or the common ones. */
export function imageSetsOf(config: AestheticsConfig, phase: 'align' | 'train'): readonly ImageSetSource[] {
  const sets = config[phase].unlabelled ?? config.unlabelled;
  if (sets === undefined) return [];
  return (Array.isArray(sets) ? sets : [sets]).map((set) => (typeof set === 'string' ? { data: set } : set));
}

function withAbsolutePaths(config: AestheticsConfig, folder: string): AestheticsConfig {
  const at = <T extends string | undefined>(value: T): T =>
    value === undefined || isAbsolute(value) ? value : (resolve(folder, value) as T);
  const set = (value: string | ImageSetSource) =>
    typeof value === 'string' ? at(value) : { ...value, data: at(value.data) };
  const sets = (value: AestheticsConfig['unlabelled']): AestheticsConfig['unlabelled'] =>
    value === undefined ? undefined : Array.isArray(value) ? value.map(set) : set(value);
  const learnt = (value: AestheticsConfig['teacher']) =>
    value.init === undefined ? value : { ...value, init: at(value.init) };
  const { data, images, testList, trainList } = config.labels;
  const phase = <T extends { unlabelled?: AestheticsConfig['unlabelled'] }>(value: T): T =>
    value.unlabelled === undefined ? value : { ...value, unlabelled: sets(value.unlabelled) };
  return {
    ...config,
    ...(config.clip !== undefined && { clip: at(config.clip) }),
    ...(config.unlabelled !== undefined && { unlabelled: sets(config.unlabelled) }),
    labels: {
      ...config.labels,
      ...(data !== undefined && { data: at(data) }),
      ...(images !== undefined && { images: at(images) }),
      ...(testList !== undefined && { testList: at(testList) }),
      ...(trainList !== undefined && { trainList: at(trainList) }),
    },
    teacher: learnt(config.teacher),
    student: learnt(config.student),
    align: phase(config.align),
    train: phase(config.train),
  };
}
