import type { Dataset } from '../data/dataset.ts';
import { defined, type StageSettings } from '../run/settings.ts';
import { chooseBackbone, visionConfig } from '../student/backbone.ts';
import { type AlignOptions, checkAlign } from './align.ts';
import { type AestheticsConfig, type ImageSetSource, imageSetsOf } from './config.ts';
import { checkLearners, type LearnerOptions, type ScorerTrainingOptions } from './learners.ts';
import { openImageSets, openLabels } from './sources.ts';

export type Role = 'teacher' | 'student';

/** How the encoder of a role is aligned. */
export function alignTraining(config: AestheticsConfig, role: Role) {
  const { unlabelled: _unlabelled, ...common } = config.align;
  return overlay(common, config[role].align ?? {});
}

/** How the scorer of a role is trained. */
export function scorerTraining(config: AestheticsConfig, role: Role) {
  const { unlabelled: _unlabelled, mutual: _mutual, ...common } = config.train;
  return overlay(common, config[role].train ?? {});
}

/** The encoder that a role starts from, where nothing was aligned. */
export function learnerOf(config: AestheticsConfig, role: Role): LearnerOptions {
  const { align: _align, train: _train, ...own } = config[role];
  return defined(own) as LearnerOptions;
}

/**
 * Holds the options of all roles that are still to be aligned against the images, and opens the encoders that they start from: before the
 * features of the first take their hours, not when the second's turn comes.
 */
export async function expectAlignable(
  config: AestheticsConfig,
  roles: readonly Role[],
  { folder, device }: Pick<StageSettings, 'folder' | 'device'>,
): Promise<void> {
  const sources = imageSetsOf(config, 'align');
  await withImages(sources, async (images) => {
    const sets = images.map((data, i) => ({ data, ...defined({ weight: sources[i]!.weight }) }));
    for (const role of roles) {
      const { weights, ...rest } = alignTraining(config, role);
      checkAlign({
        ...(defined(rest) as Partial<AlignOptions>),
        ...(weights && { weights: defined(weights) }),
        ...learnerOf(config, role),
        ...defined({ device }),
        seed: config.seed,
        folder,
        sets,
      });
      await expectEncoder(config, role);
    }
  });
}

/** The same for the scorers that are still to be trained; `start` says from which encoders, which where none is named are aligned ones. */
export async function expectTrainable(
  config: AestheticsConfig,
  roles: readonly Role[],
  { folder, device }: Pick<StageSettings, 'folder' | 'device'>,
): Promise<void> {
  const sources = imageSetsOf(config, 'train');
  const { rated, splits } = await openLabels(config.labels);
  try {
    await withImages(sources, async (images) => {
      const unlabelled = images.map((data, i) => ({ data, ...defined({ weight: sources[i]!.weight }) }));
      for (const role of roles) {
        const { head, backboneRate, ...rest } = scorerTraining(config, role);
        const options: ScorerTrainingOptions = {
          ...(defined(rest) as Partial<ScorerTrainingOptions>),
          ...defined({ device }),
          seed: config.seed,
          folder,
          labelled: rated,
          items: { train: splits.train, validation: splits.validation },
          unlabelled,
        };
        checkLearners(options, {
          [role]: { ...learnerOf(config, role), ...defined({ head, backboneRate }) },
        });
        if (config.clip === undefined || config.baselines) await expectEncoder(config, role);
      }
    });
  } finally {
    await rated.dispose();
  }
}

async function expectEncoder({ seed, ...config }: AestheticsConfig, role: Role): Promise<void> {
  const learner = learnerOf({ seed, ...config }, role);
  // Of our own the sizes say all; weights need not be drawn for it.
  if (learner.init === undefined) visionConfig(learner.backbone);
  else await chooseBackbone(learner, seed);
}

async function withImages(
  sources: readonly ImageSetSource[],
  use: (images: readonly Dataset[]) => Promise<void>,
): Promise<void> {
  const opened = await openImageSets(sources);
  try {
    await use(opened);
  } finally {
    await Promise.all(opened.map((data) => data.dispose()));
  }
}

/** `changes` laid over the options of a training; weights one by one. Of steps and epochs, what is given last counts. */
function overlay<T extends { weights?: object | undefined; steps?: unknown; epochs?: unknown }>(
  base: T,
  changes: T,
): T {
  const given = defined(changes);
  const { steps: _steps, epochs: _epochs, ...rest } = base;
  const length = 'steps' in given || 'epochs' in given ? rest : base;
  return {
    ...length,
    ...given,
    ...(base.weights || changes.weights ? { weights: { ...base.weights, ...changes.weights } } : {}),
  } as T;
}
