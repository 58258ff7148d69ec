import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { abortError, CidError } from '../native/errors.ts';
import { openRun, STAGE_FOLDERS } from '../run/folder.ts';
import type { Json } from '../run/hash.ts';
import { required } from '../run/schema.ts';
import { defined, type StageSettings } from '../run/settings.ts';
import { readStage, type StageResult } from '../run/stage.ts';
import { chooseBackbone } from '../student/backbone.ts';
import { type Analyzed, type AnalyzeStageOptions, analyzeStage } from './analyze.ts';
import {
  alignTraining,
  expectAlignable,
  expectTrainable,
  learnerOf,
  type Role,
  scorerTraining,
} from './check.ts';
import { type AestheticsConfig, type ImageSetSource, imageSetsOf } from './config.ts';
import { scorerEvalStage } from './evaluate.ts';
import type { LearnerOptions } from './learners.ts';
import { readScale } from './scorer.ts';
import { openImages, openLabels } from './sources.ts';
import {
  alignStage,
  featuresStage,
  modelOf,
  pseudoStage,
  type ScorerStageOptions,
  scorerStage,
} from './stages.ts';
import { SCORERS, SCORES_FOLDER, type ScorerName, scorerFolder } from './summary.ts';
import { expectTeacher } from './train.ts';

/** Where a phase runs, beside its configuration: `folder` is the run folder, which is locked meanwhile. */
export interface PhaseOptions extends StageSettings {
  /** Told after each stage with its folder, in order. */
  readonly onStage?: ((folder: string, result: StageResult) => void) | undefined;
}

/** Folder of the stage that aligned an encoder, in a run folder. */
export const alignFolder = (role: Role) => `align-${role}`;
/** Folder of what encoders look at, in a run folder. */
export const ANALYSIS_FOLDER = STAGE_FOLDERS.analyze;

/**
 * Phase 1 in a run folder: the frozen CLIP's features of every image set, and an alignment each of the teacher's and of the student's encoder.
 * Stages that are done with the same inputs and options are skipped and one that was stopped goes on.
 */
export async function runAlignment(config: AestheticsConfig, options: PhaseOptions): Promise<void> {
  required(config.clip, 'clip (--clip)', 'a model folder');
  required(imageSetsOf(config, 'align')[0], 'unlabelled (--data)', 'images');
  await inRun(config, options, async ({ folder, stage, metrics }) => {
    const open = await undone(ROLES, (role) => [join(folder, alignFolder(role))]);
    await expectAlignable(config, open, options);
    for (const role of ['teacher', 'student'] as const)
      await alignEncoder(config, role, alignFolder(role), folder, { stage, metrics });
  });
}

/** {@link runAlignment} of the student's encoder alone, into a folder of its own; features go into `features-N` in it. */
export async function alignInto(config: AestheticsConfig, settings: StageSettings): Promise<StageResult> {
  const { folder } = settings;
  required(config.clip, 'clip (--clip)', 'a model folder');
  required(imageSetsOf(config, 'align')[0], 'unlabelled (--data)', 'images');
  await expectAlignable(config, await undone(['student'], () => [folder]), settings);
  return alignEncoder(config, 'student', '', folder, { stage: stagesIn(settings) });
}

/** Runs a stage in a subfolder. */
type RunStage = (
  name: string,
  work: (settings: StageSettings) => Promise<StageResult>,
) => Promise<StageResult>;

const ROLES = ['teacher', 'student'] as const;

/** Roles of which a stage, by its folder, is not done. */
async function undone(roles: readonly Role[], folders: (role: Role) => readonly string[]): Promise<Role[]> {
  const open: Role[] = [];
  for (const role of roles) {
    const stages = await Promise.all(folders(role).map(readStage));
    if (stages.some((stage) => stage?.status !== 'done')) open.push(role);
  }
  return open;
}

async function alignEncoder(
  config: AestheticsConfig,
  role: Role,
  folder: string,
  root: string,
  { stage, metrics }: { stage: RunStage; metrics?: string },
): Promise<StageResult> {
  const { encoder } = config;
  const clip = config.clip!;
  const sets = imageSetsOf(config, 'align');
  const training = alignTraining(config, role);
  const features = training.targets === 'online' ? [] : sets.map((_, i) => `features-${i + 1}`);
  for (const [i, name] of features.entries()) {
    await stage(name, (settings) => featuresStage({ ...settings, name, set: sets[i]!, clip, encoder }));
  }
  return stage(folder, (settings) =>
    alignStage({
      ...settings,
      name: folder === '' ? 'align' : folder,
      sets,
      features: features.map((name) => join(root, name)),
      clip,
      encoder,
      backbone: learnerOf(config, role),
      training,
      seed: config.seed,
      ...defined({ metrics }),
    }),
  );
}

/**
 * Phase 2 in a run folder: the teacher on labels, its distributions of the unlabelled images, the student on both; with `baselines` also what
 * either phase is missing from; and then all of them measured on the test images. Encoders are those that phase 1 aligned, or start as they are
 * configured where the configuration names no CLIP.
 */
export async function runTraining(config: AestheticsConfig, options: PhaseOptions): Promise<void> {
  required(config.labels.data, 'labels.data (--labels)', 'images with ratings');
  const sets = imageSetsOf(config, 'train');
  const semi = sets.length > 0;
  const aligned = config.clip !== undefined;
  await inRun(config, options, async (run) => {
    const start = async (role: Role, plain: boolean): Promise<LearnerOptions> => {
      if (plain || !aligned) return learnerOf(config, role);
      const folder = join(run.folder, alignFolder(role));
      await requireAlignment(folder);
      return { init: modelOf(folder) };
    };
    const pair = { teacher: await start('teacher', false), student: await start('student', false) };
    // Each is called what it has of the two phases.
    const names = {
      teacher: aligned ? 'teacher' : 'teacher-plain',
      student: aligned ? (semi ? 'student' : 'aligned') : semi ? 'unlabelled' : 'supervised',
    } as const;
    const open = await undone(ROLES, (role) =>
      SCORERS.filter((name) => roleOf(name) === role && (config.baselines || name === names[role])).map(
        (name) => join(run.folder, scorerFolder(name)),
      ),
    );
    await expectTrainable(config, open, options);
    await trainPair(config, run, sets, pair, names);
    if (config.baselines) {
      const plain = { teacher: await start('teacher', true), student: await start('student', true) };
      const alone = trainAlone(config, run);
      if (aligned && semi) await alone('aligned', 'student', pair.student);
      if (aligned || semi) await alone('supervised', 'student', plain.student);
      if (aligned && semi) {
        await trainPair(config, run, sets, plain, { teacher: 'teacher-plain', student: 'unlabelled' });
      }
    }
    await evaluateAll(config, run);
  });
}

/** Measures every scorer of a run folder on the test images. */
export async function runEvaluation(config: AestheticsConfig, options: PhaseOptions): Promise<void> {
  await inRun(config, options, (run) => evaluateAll(config, run));
}

export interface AnalysisOptions extends PhaseOptions {
  /** Images to run the encoders on. Defaults to the first set that they were aligned on. */
  readonly data?: string | undefined;
  /** What is looked into; see {@link AnalyzeStageOptions}. Defaults to its defaults, and the seed to that of the run. */
  readonly analysis?: AnalyzeStageOptions['options'];
}

/**
 * Looks into the encoders of a run folder that have been aligned, the student's and the teacher's, as they are now and as they were before:
 * `before-ROLE.json` and `after-ROLE.json`. Fails with FILE_NOT_FOUND when none has.
 */
export async function runAnalysis(
  config: AestheticsConfig,
  { data, analysis, ...options }: AnalysisOptions,
): Promise<StageResult> {
  return inRun(config, options, async ({ folder, stage }) => {
    const before: [string, Analyzed][] = [];
    const after: [string, Analyzed][] = [];
    for (const role of ['student', 'teacher'] as const) {
      const aligned = join(folder, alignFolder(role));
      if ((await readStage(aligned))?.status !== 'done') continue;
      before.push([`before-${role}`, await chooseBackbone(learnerOf(config, role), config.seed)]);
      after.push([`after-${role}`, modelOf(aligned)]);
    }
    if (after.length === 0) {
      throw new CidError(
        'FILE_NOT_FOUND',
        `${folder} has no aligned encoder: run clip-cid aesthetics align first`,
      );
    }
    const [first] = imageSetsOf(config, 'align');
    const source = required(data ?? first?.data, '--data', 'images');
    return stage(ANALYSIS_FOLDER, (settings) =>
      analyzeStage({
        ...settings,
        models: Object.fromEntries([...before, ...after]),
        data: source,
        options: {
          ...defined({ imageField: data === undefined ? first?.imageField : undefined }),
          // What both have: the encoder's own features, which the projector of the aligned one comes after.
          output: 'pooler_output',
          seed: config.seed,
          ...analysis,
        },
      }),
    );
  });
}

/**
 * One scorer, as the configuration has the student, into a folder of its own: on labels, and where there are unlabelled images on the
 * distributions of a teacher, which go into `pseudo-N` in it; or both at once, where they are to learn from each other.
 *
 * @param teacher Model folder of a scorer.
 */
export async function trainInto(
  config: AestheticsConfig,
  teacher: string | undefined,
  settings: StageSettings,
): Promise<StageResult> {
  required(config.labels.data, 'labels.data (--labels)', 'images with ratings');
  const sets = imageSetsOf(config, 'train');
  const stage = stagesIn(settings);
  const { mutual } = config.train;
  const training = scorerTraining(config, 'student');
  await expectTrainable(config, await undone(['student'], () => [settings.folder]), settings);
  let guide: ScorerStageOptions['guide'];
  if (sets.length > 0 && mutual) {
    guide = { sets, mutual: learnerOf(config, 'teacher') };
  } else if (sets.length > 0) {
    const scorer = required(teacher, '--teacher', 'a scorer that rates the unlabelled images');
    // Before it rates them all.
    const { rated } = await openLabels(config.labels);
    await rated.dispose();
    expectTeacher(await readScale(scorer), rated.scale);
    const pseudo =
      training.targets === 'online' ? undefined : await rateSets(sets, scorer, '', settings.folder, stage);
    guide = { sets, teacher: scorer, pseudo };
  }
  return stage('', (own) =>
    scorerStage({
      ...own,
      name: 'train',
      labels: config.labels,
      learner: learnerOf(config, 'student'),
      training,
      guide,
      seed: config.seed,
    }),
  );
}

async function evaluateAll(config: AestheticsConfig, { folder, stage }: OpenRun): Promise<void> {
  const models = await scorersOf(folder);
  required(Object.keys(models)[0], '--run', 'a run with a trained scorer');
  await stage(SCORES_FOLDER, (settings) =>
    scorerEvalStage({
      ...settings,
      // More scorers to measure are no reason to refuse.
      existing: settings.existing === 'resume' ? 'replace-changed' : settings.existing,
      models,
      labels: config.labels,
      options: config.eval,
      seed: config.seed,
    }),
  );
}

/** Scorers of a run that are done, by name, in the order of tables. */
export async function scorersOf(folder: string): Promise<Record<string, string>> {
  const models: Record<string, string> = {};
  for (const name of SCORERS) {
    const stage = join(folder, scorerFolder(name));
    if ((await readStage(stage))?.status !== 'done') continue;
    // A teacher that learned beside its student stands in for one that was trained before it.
    models[name] ??= modelOf(stage);
    const other = join(stage, 'teacher-model');
    if (existsSync(other)) models[name === 'unlabelled' ? 'teacher-plain' : 'teacher'] = other;
  }
  const known = Object.entries(models);
  known.sort(([a], [b]) => SCORERS.indexOf(a as ScorerName) - SCORERS.indexOf(b as ScorerName));
  return Object.fromEntries(known);
}

const roleOf = (name: ScorerName): Role => (name.startsWith('teacher') ? 'teacher' : 'student');

async function requireAlignment(folder: string): Promise<void> {
  const name = folder.split(/[\\/]/).at(-1)!;
  const found = await readStage(folder);
  if (found?.status === 'done') return;
  if (found) {
    throw new CidError(
      'FILE_NOT_FOUND',
      `${folder} is unfinished: run clip-cid aesthetics align again to go on with it`,
    );
  }
  required(
    undefined,
    `${name} in the run folder`,
    'an aligned encoder: run clip-cid aesthetics align first, or leave out clip',
  );
}

/** A teacher and its student under names of their own; or both at once, where they learn from each other. */
async function trainPair(
  config: AestheticsConfig,
  run: OpenRun,
  sets: readonly ImageSetSource[],
  start: Readonly<Record<Role, LearnerOptions>>,
  names: { readonly teacher: ScorerName; readonly student: ScorerName },
): Promise<void> {
  const train = trainAlone(config, run);
  const mutual = config.train.mutual && sets.length > 0;
  if (mutual) {
    await train(names.student, 'student', start.student, { sets, mutual: start.teacher });
    return;
  }
  await train(names.teacher, 'teacher', start.teacher);
  const teacher = modelOf(join(run.folder, scorerFolder(names.teacher)));
  if (sets.length === 0) {
    await train(names.student, 'student', start.student);
    return;
  }
  if (config.student.train?.targets === 'online' || config.train.targets === 'online') {
    await train(names.student, 'student', start.student, { sets, teacher });
    return;
  }
  const suffix = names.teacher === 'teacher' ? '' : '-plain';
  const pseudo = await rateSets(sets, teacher, suffix, run.folder, run.stage);
  await train(names.student, 'student', start.student, { sets, pseudo });
}

/** A scorer's distributions of all sets; the stores' folders. */
async function rateSets(
  sets: readonly ImageSetSource[],
  scorer: string,
  suffix: string,
  root: string,
  stage: RunStage,
): Promise<string[]> {
  const folders: string[] = [];
  for (const [i, set] of sets.entries()) {
    const name = `pseudo${suffix}-${i + 1}`;
    folders.push(join(root, name));
    const data = await openImages(set);
    try {
      await stage(name, (settings) => pseudoStage({ ...settings, name, data, scorer }));
    } finally {
      await data.dispose();
    }
  }
  return folders;
}

/** Trains one scorer as the configuration says for its role. */
function trainAlone(config: AestheticsConfig, { stage, metrics }: OpenRun) {
  return async (
    scorer: ScorerName,
    role: Role,
    learner: LearnerOptions,
    guide?: ScorerStageOptions['guide'],
  ): Promise<void> => {
    const name = scorerFolder(scorer);
    const training = scorerTraining(config, role);
    await stage(name, (settings) =>
      scorerStage({
        ...settings,
        name,
        labels: config.labels,
        learner,
        training,
        guide,
        seed: config.seed,
        metrics,
      }),
    );
  };
}

/** A run folder that is locked, and its stages. */
interface OpenRun {
  readonly folder: string;
  readonly stage: RunStage;
  readonly metrics: string;
}

/** Works in a run folder, which remembers the configuration after each stage. */
async function inRun<T>(
  config: AestheticsConfig,
  { onStage, ...settings }: PhaseOptions,
  work: (run: OpenRun) => Promise<T>,
): Promise<T> {
  const run = await openRun(settings.folder);
  const inFolder = stagesIn({ ...settings, folder: run.folder });
  const stage: RunStage = async (name, body) => {
    const result = await inFolder(name, body);
    await run.remember(config as unknown as Json, config.seed);
    onStage?.(join(run.folder, name), result);
    return result;
  };
  try {
    return await work({ folder: run.folder, stage, metrics: run.metrics });
  } finally {
    await run.dispose();
  }
}

function stagesIn(settings: StageSettings): RunStage {
  return async (name, work) => {
    if (settings.signal?.aborted) throw abortError();
    return work({ ...settings, folder: join(settings.folder, name) });
  };
}
