import type { Command } from 'commander';
import { alignCommand } from './aesthetics/align.ts';
import { analyzeCommand } from './aesthetics/analyze.ts';
import { scorerEvalCommand } from './aesthetics/eval.ts';
import { scoreCommand } from './aesthetics/score.ts';
import { scorerTrainCommand } from './aesthetics/train.ts';

/** The commands of the second system: CLIP features for image aesthetics. */
export function aestheticsCommand(program: Command): void {
  const group = program
    .command('aesthetics')
    .description('rate images: align encoders with CLIP, train scorers on few labels and many images, score')
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid aesthetics align --run runs/rate --clip models/clip --data photos/
  $ clip-cid aesthetics train --run runs/rate --labels AVA/ --baselines
  $ clip-cid aesthetics score --model runs/rate/scorer-student/model --data holiday/ --out holiday-scores/

A smallest configuration (--config) of both phases:
  {
    "clip": "models/clip",
    "unlabelled": "photos/",
    "labels": { "data": "AVA/" },
    "teacher": { "backbone": "vit-b-16" },
    "student": { "backbone": "vit-ti-16" }
  }`,
    );
  for (const add of [alignCommand, scorerTrainCommand, scorerEvalCommand, analyzeCommand, scoreCommand])
    add(group);
}
