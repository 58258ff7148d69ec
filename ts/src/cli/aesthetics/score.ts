import { resolve } from 'node:path';
import type { Command } from 'commander';
import { parseAestheticsConfig } from '../../cskd/config.ts';
import { required } from '../../run/schema.ts';
import { type CommonFlags, configWith, number, runCommand, stageFlags } from '../common.ts';
import { printStage } from '../place.ts';

interface Flags extends CommonFlags {
  model?: string;
  data?: string;
  imageField?: string;
  batchSize?: number;
  shardSize?: number;
}

export function scoreCommand(group: Command): void {
  const command = group
    .command('score')
    .description('rate images with a scorer: a CSV file with a line an image');
  stageFlags(command.option('--out <dir>', 'folder for scores.csv, and for what was left out, skipped.csv'))
    .option('--model <dir>', 'model folder of a scorer')
    .option('--data <source>', 'images: a folder, a list (.jsonl, .csv, .tsv, .parquet) or WebDataset tars')
    .option(
      '--image-field <name>',
      "field of a list that names the image (default: the first there is of 'image', 'path', 'file', …)",
    )
    .addOption(number('--batch-size <n>', 'images of one run of the model (default: 64)'))
    .addOption(number('--shard-size <n>', 'images after which what is done is safe (default: 4096)'))
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid aesthetics score --model runs/rate/scorer-student/model --data holiday/ --out holiday-scores/
  $ clip-cid aesthetics score --model student/model --data 'photos/*.tar' --out scores/ --json

A line of scores.csv is image,score,deviation and the share of every bin; it opens as a list of rated images.
Ctrl-C stops at a safe point; the same command goes on from there. Images that cannot be decoded are counted and listed.`,
    )
    .action((flags: Flags) =>
      runCommand(flags, async (session) => {
        const { scoreStage } = await import('../../cskd/score.ts');
        const config = await configWith(parseAestheticsConfig, flags, {});
        const folder = resolve(required(flags.out, '--out', 'a folder'));
        const { imageField, batchSize, shardSize } = flags;
        const data = resolve(required(flags.data, '--data', 'images'));
        const result = await scoreStage({
          ...session,
          folder,
          scorer: required(flags.model, '--model', 'a model folder'),
          set: { data, ...(imageField !== undefined && { imageField }) },
          threads: config.threads,
          batchSize,
          shardSize,
        });
        printStage(session, folder, result);
      }),
    );
}
