import type { Command } from 'commander';
import { placeFlags, runCommand, stageFlags } from '../common.ts';
import { printStage } from '../place.ts';
import { type TrainerFlags, trainerFlags, trainerSection } from '../training.ts';
import {
  type ImageFlags,
  imageFlags,
  imageSection,
  type LearnerFlags,
  learnerFlags,
  learnerSections,
  openAesthetics,
} from './place.ts';

type Flags = TrainerFlags & ImageFlags & LearnerFlags & { clip?: string; targets?: string };

export function alignCommand(group: Command): void {
  const command = group
    .command('align')
    .description('phase 1: encoders learn the image features of a frozen CLIP on images without labels');
  trainerFlags(
    learnerFlags(
      imageFlags(stageFlags(placeFlags(command, "folder for one aligned encoder, the student's"))),
    ),
    'images of a step (default: 256)',
  )
    .option('--clip <dir>', 'model folder of the frozen CLIP; its image side will do')
    .option(
      '--targets <which>',
      "'cached' features of the plain images, or 'online': of the views that the encoder sees (default: cached)",
    )
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid aesthetics align --run runs/rate --clip models/clip --data photos/ --teacher-backbone vit-b-16 --backbone vit-ti-16
  $ clip-cid aesthetics align --out aligned/ --clip models/clip --data photos/ drawings/ --mix 3,1 --init mobilenet.onnx

In a run folder, the teacher's and the student's encoder are aligned, each in a folder of its own; with --out the student's alone.
Ctrl-C stops after the step in hand; the same command goes on from there and ends with the same encoder.
Losses (cosine, mse, feature, relational), the projector and augmentation are set in the section "align" of a configuration file.`,
    )
    .action((flags: Flags, command: Command) =>
      runCommand(flags, async (session) => {
        const { alignInto, runAlignment } = await import('../../cskd/run.ts');
        const { config, run, settings } = await openAesthetics(session, command, {
          clip: flags.clip,
          unlabelled: imageSection(flags),
          ...learnerSections(flags),
          align: { ...trainerSection(flags), targets: flags.targets },
        });
        if (run) await runAlignment(config, settings);
        else printStage(session, settings.folder, await alignInto(config, settings));
      }),
    );
}
