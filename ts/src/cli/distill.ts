import type { Command } from 'commander';
import { required } from '../run/schema.ts';
import { placeFlags, runCommand, stageFlags } from './common.ts';
import { openPlace } from './place.ts';
import { studentTable, type TrainingFlags, trainingFlags, trainingSection } from './training.ts';

interface Flags extends TrainingFlags {
  teacher?: string;
  embeddings?: string;
  kept?: string;
  cluster?: string;
  targets?: string;
}

export function distillCommand(program: Command): void {
  const command = program
    .command('distill')
    .description('distil a student by contrast, cluster discrimination and instance discrimination');
  trainingFlags(stageFlags(placeFlags(command, 'folder for checkpoints and, in model/, the student')))
    .option('--teacher <dir>', "the teacher's model folder (default: the run's)")
    .option('--embeddings <dir>', "embedding store that the teacher made (default: the run's)")
    .option('--kept <file>', "kept.jsonl of balance: the items to train on (default: the run's)")
    .option('--cluster <dir>', "results of cluster over the same kept.jsonl (default: the run's)")
    .option(
      '--targets <which>',
      "'cached' embeddings, or 'online': the teacher sees each augmented view (default: cached)",
    )
    .addHelpText('after', studentTable)
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid distill --run runs/mine --student vit-b-32 --epochs 32
  $ clip-cid distill --teacher models/clip --embeddings embeddings/ --kept balance/kept.jsonl --cluster cluster/ --out student/

Ctrl-C stops after the step in hand; the same command goes on from there and ends with the same student.
Loss weights, temperatures and augmentation are set in the section "distill" of a configuration file (--config), such as
  { "distill": { "weights": { "instance": 0.5 }, "temperature": 0.07, "augment": { "scale": [0.5, 1], "flip": 0.5 } } }`,
    )
    .action((flags: Flags, command: Command) =>
      runCommand(flags, async (session) => {
        const { distillStage } = await import('../cid/student.ts');
        const place = await openPlace('distill', session, command, {
          teacher: flags.teacher,
          distill: { ...trainingSection(flags), targets: flags.targets },
        });
        try {
          const { config } = place;
          const result = await distillStage({
            ...place.settings(session),
            teacher: required(config.teacher, 'teacher (--teacher)', 'a model folder'),
            embeddings: required(
              await place.earlier('embed', flags.embeddings),
              '--embeddings',
              'an embedding store',
            ),
            kept: required(
              await place.earlier('balance', flags.kept, 'kept.jsonl'),
              '--kept',
              'a kept.jsonl',
            ),
            cluster: flags.cluster ?? place.run?.stage('cluster'),
            training: config.distill,
            encoder: config.encoder,
            seed: config.seed,
            metrics: place.run?.metrics,
          });
          await place.finish(session, result);
        } finally {
          await place.dispose();
        }
      }),
    );
}
