import { dirname, isAbsolute, resolve } from 'node:path';
import { z } from 'zod';
import { describeValue } from '../native/check.ts';
import { CidError } from '../native/errors.ts';
import { readJson } from '../run/files.ts';
import { studentNames } from '../student/config.ts';

/*
 * The configuration of `clip-cid run`, and of every single command, whose flags are laid over it. Fields, ranges and the defaults
 * of embed, balance and cluster are here and nowhere else; those of training are documented with TrainingOptions and
 * DistillOptions, those of eval with EvaluateOptions.
 */

const path = z.string().min(1);
const whole = (min: number) => z.int().min(min);
const share = z.number().min(0).max(1);
const positive = z.number().positive();
const pair = z.tuple([z.number(), z.number()]);

const device = z
  .string()
  .regex(/^(auto|cpu|cuda(:\d+)?)$/, { error: "Expected 'auto', 'cpu', 'cuda' or 'cuda:N'" });

/** How a model folder is opened; see OpenEncoderOptions. */
const encoder = z.strictObject({
  /** Execution providers of ONNX Runtime in order of preference. Defaults to ['cpu']. */
  providers: z.array(z.string().min(1)).min(1).optional(),
  /** Files of the folder, where they have other names than those of the Hugging Face export. */
  visionModel: path.optional(),
  textModel: path.optional(),
});

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

const vision = z.strictObject({
  imageSize: whole(1).optional(),
  patchSize: whole(1).optional(),
  width: whole(1).optional(),
  layers: whole(1).optional(),
  heads: whole(1).optional(),
  mlpRatio: positive.optional(),
  pooling: z.enum(['class', 'mean']).optional(),
});

const text = z.strictObject({
  contextLength: whole(1).optional(),
  width: whole(1).optional(),
  layers: whole(1).optional(),
  heads: whole(1).optional(),
  mlpRatio: positive.optional(),
});

const studentName = z.enum(studentNames as [string, ...string[]]);

const augment = z.strictObject({
  scale: pair.optional(),
  ratio: pair.optional(),
  flip: share.optional(),
  rotation: z.number().min(0).max(45).optional(),
  brightness: share.optional(),
  contrast: share.optional(),
  saturation: share.optional(),
  hue: z.number().min(0).max(0.5).optional(),
  grayscale: share.optional(),
});

const trainingFields = {
  student: z
    .union([
      studentName,
      z.strictObject({
        base: studentName.optional(),
        embedDim: whole(1).optional(),
        vision: vision.optional(),
        text: text.optional(),
      }),
    ])
    .optional(),
  init: path.optional(),
  imageModel: path.optional(),
  epochs: whole(1).optional(),
  steps: whole(1).optional(),
  batchSize: whole(2).optional(),
  microBatch: whole(1).optional(),
  rate: positive.optional(),
  finalRate: z.number().min(0).optional(),
  warmup: whole(0).optional(),
  decay: z.number().min(0).optional(),
  betas: pair.optional(),
  epsilon: positive.optional(),
  clip: z.number().min(0).optional(),
  ema: z.number().gt(0).lt(1).optional(),
  augment: z.union([z.literal('none'), augment]).optional(),
  captions: z.enum(['first', 'random']).optional(),
  validation: z.union([z.number().min(0).max(0.5), z.array(whole(0))]).optional(),
  validateEvery: whole(1).optional(),
  checkpointEvery: whole(1).optional(),
  select: z.enum(['best', 'last']).optional(),
  exportDtype: z.enum(['float32', 'float16']).optional(),
  cacheBytes: whole(0).optional(),
};

const weight = z.number().min(0).optional();

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
  /** Fields of a list that name the image and its caption; found by their usual names when not given. */
  imageField: z.string().min(1).optional(),
  captionField: z.string().min(1).optional(),
  /** The teacher's model folder. */
  teacher: path.optional(),
  seed: whole(0).default(0),
  /** Where kernels and training run. */
  device: device.default('auto'),
  /** Threads that kernels, ONNX Runtime and decoding share. Defaults to the cores that this process may use. */
  threads: whole(1).max(1024).optional(),
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
  const result = schema.safeParse(value, { reportInput: true });
  if (!result.success) {
    const lines = result.error.issues.flatMap((issue) => describeIssue(issue, value));
    throw new CidError('INVALID_CONFIG', `${name}: ${[...new Set(lines)].join('; ')}`);
  }
  return withAbsolutePaths(result.data, folder);
}

/** {@link parseConfig} of a JSON file, whose folder its paths are relative to. */
export async function readConfig(file: string): Promise<Config> {
  return parseConfig(await readConfigFile(file), file, dirname(resolve(file)));
}

/** The JSON of a configuration file, unchecked. Damaged JSON is INVALID_CONFIG. */
export async function readConfigFile(file: string): Promise<unknown> {
  try {
    return await readJson(file);
  } catch (error) {
    if (error instanceof CidError && error.code === 'FILE_FORMAT') {
      throw new CidError('INVALID_CONFIG', error.message, { cause: error });
    }
    throw error;
  }
}

/** `value`, or INVALID_CONFIG that names the field that is needed. */
export function required<T>(value: T | undefined, field: string, what: string): T {
  if (value === undefined)
    throw new CidError('INVALID_CONFIG', `Expected ${what} for ${field} but received nothing`);
  return value;
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

type Issue = z.core.$ZodIssue;

function describeIssue(issue: Issue, root: unknown, base: readonly PropertyKey[] = []): string[] {
  const where = [...base, ...issue.path];
  const field = where.length === 0 ? 'the configuration' : where.join('.').replace(/\.(\d+)/g, '[$1]');
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => {
      const name = [...where, key].join('.');
      const meant = closest(key, knownFields(where));
      return `unknown field ${name}${meant ? ` (did you mean ${meant}?)` : ''}`;
    });
  }
  if (issue.code === 'invalid_union') {
    // The branch that got furthest is the one that was meant.
    const branches = issue.errors.filter((errors) =>
      errors.some((error) => error.path.length > 0 || error.code !== 'invalid_type'),
    );
    const given = valueAt(root, where);
    const meant =
      branches.find((errors) => errors.every((error) => error.code !== 'invalid_value')) ?? branches[0];
    if (meant && (typeof given === 'object' || branches.length === 1)) {
      return meant.flatMap((error) => describeIssue(error, root, where));
    }
    const expected = issue.errors.map((errors) => expectation(errors[0]!)).join(' or ');
    return [`Expected ${expected} for ${field} but received ${describeValue(given)}`];
  }
  if (issue.code === 'invalid_format' || issue.code === 'custom') {
    return [`${issue.message} for ${field} but received ${describeValue(valueAt(root, where))}`];
  }
  return [`Expected ${expectation(issue)} for ${field} but received ${describeValue(valueAt(root, where))}`];
}

const KINDS: Record<string, string> = {
  string: 'a text',
  number: 'a number',
  int: 'an integer',
  boolean: 'true or false',
  object: 'an object',
  array: 'a list',
  tuple: 'a list of two numbers',
  record: 'an object',
};

function expectation(issue: Issue): string {
  switch (issue.code) {
    case 'invalid_type':
      return KINDS[issue.expected] ?? issue.expected;
    case 'invalid_value':
      return issue.values.length === 1
        ? JSON.stringify(issue.values[0])
        : `one of ${issue.values.map((value) => JSON.stringify(value)).join(', ')}`;
    case 'too_small':
      if (issue.origin === 'string') return 'a text that is not empty';
      if (issue.origin === 'array') return `at least ${issue.minimum} entries`;
      return `a number ${issue.inclusive === false ? 'over' : 'of at least'} ${issue.minimum}`;
    case 'too_big':
      if (issue.origin === 'array') return `at most ${issue.maximum} entries`;
      return `a number ${issue.inclusive === false ? 'under' : 'of at most'} ${issue.maximum}`;
    default:
      return issue.message;
  }
}

function valueAt(root: unknown, where: readonly PropertyKey[]): unknown {
  let value = root;
  for (const key of where) value = (value as Record<PropertyKey, unknown> | undefined | null)?.[key];
  return value;
}

/** Names of the fields of a section of the schema; empty when there is no such section. */
function knownFields(where: readonly PropertyKey[]): string[] {
  let types: z.core.$ZodType[] = [schema];
  for (const key of where)
    types = types.flatMap((type) => shapeOf(type).flatMap((shape) => shape[String(key)] ?? []));
  return types.flatMap((type) => shapeOf(type).flatMap(Object.keys));
}

function shapeOf(type: z.core.$ZodType): Record<string, z.core.$ZodType>[] {
  if (type instanceof z.ZodObject) return [type.shape];
  if (type instanceof z.ZodUnion) return type.options.flatMap(shapeOf);
  if (type instanceof z.ZodOptional || type instanceof z.ZodPrefault || type instanceof z.ZodDefault) {
    return shapeOf(type.def.innerType);
  }
  return [];
}

/** The name that differs in the fewest letters, when that is few enough to be a slip. */
function closest(name: string, candidates: readonly string[]): string | undefined {
  const scored = candidates.map((candidate) => ({
    candidate,
    distance: editDistance(name.toLowerCase(), candidate.toLowerCase()),
  }));
  scored.sort((a, b) => a.distance - b.distance);
  const best = scored[0];
  return best && best.distance <= Math.ceil(name.length / 3) ? best.candidate : undefined;
}

/** Levenshtein. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitute = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitute, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
