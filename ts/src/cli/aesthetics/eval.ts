import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { parseAestheticsConfig } from '../../cskd/config.ts';
import type { ScorerResult } from '../../cskd/evaluate.ts';
import { describeScale } from '../../data/rated/scale.ts';
import { formatEstimate } from '../../eval/scores.ts';
import { required } from '../../run/schema.ts';
import {
  type CommonFlags,
  configWith,
  number,
  placeFlags,
  runCommand,
  type Session,
  stageFlags,
  UsageError,
} from '../common.ts';
import { printStage } from '../place.ts';
import { type LabelFlags, labelSection, openAesthetics, RATED_LISTS } from './place.ts';
import { printScores } from './table.ts';

interface Flags extends CommonFlags, LabelFlags {
  model?: string;
  resamples?: number;
}

export function scorerEvalCommand(group: Command): void {
  const command = group
    .command('eval')
    .description(
      'measure scorers on test images: rank and linear correlation (SRCC, PLCC), accuracy of good against bad, squared error (MSE) and distance of distributions (EMD), with intervals',
    );
  stageFlags(placeFlags(command, 'folder for the results of --model; only printed when not given'))
    .option('--model <dir>', 'model folder of a scorer (with --run: all scorers of the run)')
    .option('--labels <source>', 'images with ratings: the folder of AVA, AADB or PARA, or a list')
    .addOption(number('--split-seed <n>', 'seed of the splits, where the images have none (default: 0)'))
    .addOption(number('--resamples <n>', 'resamples that the intervals are taken from (default: 1000)'))
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid aesthetics eval --run runs/rate
  $ clip-cid aesthetics eval --model student/model --labels PARA/ --json
${RATED_LISTS}`,
    )
    .action((flags: Flags, command: Command) =>
      runCommand(flags, async (session) => {
        if (flags.run !== undefined && flags.model !== undefined) {
          throw new UsageError('Expected --model or --run but received both');
        }
        const overrides = { labels: labelSection(flags), eval: { resamples: flags.resamples } };
        if (flags.run === undefined) await measureModel(flags, overrides, session, command);
        else await measureRun(overrides, session, command);
      }),
    );
}

async function measureRun(
  overrides: Record<string, unknown>,
  session: Session,
  command: Command,
): Promise<void> {
  const { runEvaluation } = await import('../../cskd/run.ts');
  const { config, settings } = await openAesthetics(session, command, overrides);
  await runEvaluation(config, { ...settings, onStage: undefined });
  await printScores(session, settings.folder);
}

async function measureModel(
  flags: Flags,
  overrides: Record<string, unknown>,
  session: Session,
  command: Command,
): Promise<void> {
  const [{ measureScorer, scorerEvalStage }, { openLabels }] = await Promise.all([
    import('../../cskd/evaluate.ts'),
    import('../../cskd/sources.ts'),
  ]);
  const model = required(flags.model, '--model', 'a model folder');
  if (flags.out !== undefined) {
    const { config, settings } = await openAesthetics(session, command, overrides);
    const { labels, seed } = config;
    const options = { models: { model }, labels, options: config.eval, seed };
    printStage(session, settings.folder, await scorerEvalStage({ ...settings, ...options }));
    return;
  }
  const config = await configWith(parseAestheticsConfig, flags, overrides);
  const { rated, splits } = await openLabels(config.labels);
  const folder = await mkdtemp(join(tmpdir(), 'clip-cid-scores-'));
  try {
    const result = await measureScorer(model, rated.pick(splits.test), folder, {
      ...session,
      threads: config.threads,
      options: config.eval,
      name: 'model',
      seed: config.seed,
    });
    session.print({ name: 'model', ...result }, describe(result));
  } finally {
    await Promise.all([rated.dispose(), rm(folder, { recursive: true, force: true })]);
  }
}

function describe({ data, scale, metrics }: ScorerResult): string {
  const { images, threshold, seed: _seed, resamples: _resamples, confidence, ...figures } = metrics;
  const lines = Object.entries(figures).map(([name, estimate]) => `  ${name}: ${formatEstimate(estimate)}`);
  const skipped = data.skipped > 0 ? `, ${data.skipped} left out` : '';
  return [
    `${images} images${skipped}; intervals of ${confidence}; a score over ${threshold} counts as high`,
    ...(scale ? [`scores were brought from ${describeScale(scale)} to the scale of the ratings`] : []),
    ...lines,
  ].join('\n');
}
