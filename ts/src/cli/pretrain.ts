import type { Command } from 'commander';
import { required } from '../run/schema.ts';
import { number, placeFlags, runCommand, stageFlags } from './common.ts';
import { openPlace, sourceFlags } from './place.ts';
import { studentTable, type TrainingFlags, trainingFlags, trainingSection } from './training.ts';

interface Flags extends TrainingFlags {
  data?: string;
  imageField?: string;
  captionField?: string;
  vocabSize?: number;
}

export function pretrainCommand(program: Command): void {
  const command = program
    .command('pretrain')
    .description('train a CLIP from nothing with the contrastive loss, its tokenizer included');
  trainingFlags(
    stageFlags(placeFlags(sourceFlags(command), 'folder for checkpoints and, in model/, the CLIP')),
  )
    .addOption(
      number('--vocab-size <n>', 'tokens of the byte-level BPE trained on the captions (default: 8192)'),
    )
    .addHelpText('after', studentTable)
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid pretrain --data train.jsonl --student mini-64 --epochs 40 --out teacher/

Ctrl-C stops after the step in hand; the same command goes on from there and ends with the same model.`,
    )
    .action((flags: Flags, command: Command) =>
      runCommand(flags, async (session) => {
        const { pretrainStage } = await import('../cid/student.ts');
        const place = await openPlace('pretrain', session, command, {
          data: flags.data,
          imageField: flags.imageField,
          captionField: flags.captionField,
          pretrain: { ...trainingSection(flags), vocabSize: flags.vocabSize },
        });
        try {
          const { config } = place;
          const result = await pretrainStage({
            ...place.settings(session),
            data: required(config.data, 'data (--data)', 'a data set'),
            imageField: config.imageField,
            captionField: config.captionField,
            training: config.pretrain,
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
