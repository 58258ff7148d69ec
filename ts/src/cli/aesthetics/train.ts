import { resolve } from 'node:path';
import type { Command } from 'commander';
import { number, placeFlags, runCommand, stageFlags, UsageError } from '../common.ts';
import { printStage } from '../place.ts';
import { type TrainerFlags, trainerFlags, trainerSection } from '../training.ts';
import {
  type ImageFlags,
  imageFlags,
  imageSection,
  type LabelFlags,
  type LearnerFlags,
  labelSection,
  learnerFlags,
  learnerSections,
  openAesthetics,
  RATED_LISTS,
} from './place.ts';
import { printScores } from './table.ts';

interface Flags extends TrainerFlags, ImageFlags, LabelFlags, LearnerFlags {
  teacher?: string;
  targets?: string;
  ratio?: number;
  unlabelledWeight?: number;
  maxDeviation?: number;
  mutual?: boolean;
  baselines?: boolean;
}

export function scorerTrainCommand(group: Command): void {
  const command = group
    .command('train')
    .description(
      'phase 2: a teacher learns from labels, a student from labels and from the teacher on images without',
    );
  trainerFlags(
    learnerFlags(imageFlags(stageFlags(placeFlags(command, "folder for one scorer, the student's")))),
    'labelled images of a step (default: 64)',
  )
    .option('--labels <source>', 'images with ratings: the folder of AVA, AADB or PARA, or a list')
    .addOption(
      number('--label-count <n>', 'learn from so many labels (default: all for training)').conflicts(
        'labelShare',
      ),
    )
    .addOption(number('--label-share <share>', 'learn from a share of the labels'))
    .addOption(
      number('--split-seed <n>', 'seed of splits, and of which labels are learned from (default: 0)'),
    )
    .option('--teacher <dir>', 'with --out: a scorer that rates the images without labels')
    .option(
      '--targets <which>',
      "'cached' distributions of the plain images, or 'online': of the views that the student sees (default: cached)",
    )
    .addOption(number('--ratio <n>', 'images without labels for each labelled one (default: 1)'))
    .addOption(number('--unlabelled-weight <w>', 'weight of their term of the loss (default: 1)'))
    .addOption(
      number(
        '--max-deviation <score>',
        'leave out what the teacher is unsure of by more than this (default: nothing)',
      ),
    )
    .option(
      '--mutual',
      'teacher and student learn from each other, at once (unconfirmed reading of the paper)',
    )
    .option('--baselines', 'also train without either phase, to see what each adds')
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid aesthetics train --run runs/rate --labels AVA/ --label-share 0.1 --baselines
  $ clip-cid aesthetics train --out teacher/ --labels rated.csv --init aligned/model
  $ clip-cid aesthetics train --out student/ --labels rated.csv --init aligned-small/model --data photos/ --teacher teacher/model

In a run folder, encoders are those that align left there, and all scorers are measured on the test images at the end.
Ctrl-C stops after the step in hand; the same command goes on from there and ends with the same scorers.
${RATED_LISTS}
Fields and scales of lists, heads and augmentation are set in the sections "labels" and "train" of a configuration file.`,
    )
    .action((flags: Flags, command: Command) =>
      runCommand(flags, async (session) => {
        const { runTraining, trainInto } = await import('../../cskd/run.ts');
        const { targets, ratio, unlabelledWeight, maxDeviation, mutual } = flags;
        if (flags.run !== undefined && flags.teacher !== undefined) {
          throw new UsageError(
            'Expected --teacher with --out, or --run, which has a teacher of its own, but received both',
          );
        }
        const { config, run, settings } = await openAesthetics(session, command, {
          labels: labelSection(flags),
          ...learnerSections(flags),
          train: {
            ...trainerSection(flags),
            unlabelled: imageSection(flags),
            targets,
            ratio,
            unlabelledWeight,
            maxDeviation,
            mutual,
          },
          baselines: flags.baselines,
        });
        if (run) {
          await runTraining(config, settings);
          await printScores(session, settings.folder);
        } else {
          const teacher = flags.teacher && resolve(flags.teacher);
          printStage(session, settings.folder, await trainInto(config, teacher, settings));
        }
      }),
    );
}
