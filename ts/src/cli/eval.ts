import { join } from 'node:path';
import type { Command } from 'commander';
import type { EvaluateResult } from '../eval/types.ts';
import type { Device } from '../native/devices.ts';
import { readJson } from '../run/files.ts';
import type { Json } from '../run/hash.ts';
import { required } from '../run/schema.ts';
import {
  type CommonFlags,
  configOf,
  list,
  placeFlags,
  runCommand,
  type Session,
  stageFlags,
  UsageError,
} from './common.ts';
import { openPlace } from './place.ts';

interface Flags extends CommonFlags {
  model?: string;
  data?: string;
  train?: string;
  tasks?: string[];
  labels?: string[];
  template?: string[];
}

export function evalCommand(program: Command): void {
  const command = program
    .command('eval')
    .description('measure models: zero-shot classification, retrieval, linear probe');
  stageFlags(placeFlags(command, 'folder for the results of --model; only printed when not given'))
    .option('--model <dir>', 'model folder to measure (with --run: teacher and students of the run)')
    .option('--data <source>', 'images to measure on: a list, a folder, or WebDataset tars')
    .option('--train <source>', 'images that the model may have seen: labels for the linear probe')
    .addOption(
      list(
        '--tasks <names>',
        'zero-shot, image-text, image-image, linear-probe (default: all that the data allow)',
      ),
    )
    .addOption(list('--labels <fields>', 'fields of a list that hold a class (default: label or category)'))
    .option(
      '--template <text>',
      "prompt with {} for the class; may be repeated (default: 'a photo of a {}.')",
      (text: string, all: string[] = []) => [...all, text],
    )
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid eval --model student/model --data heldout.jsonl --train train.jsonl --labels category
  $ clip-cid eval --run runs/mine --data heldout.jsonl --json

zero-shot: images are given the class whose prompt is nearest; image-text: captions are found by images and images by captions;
image-image: images of the same concept are found by each other (fields concept and vendor); linear-probe: a classifier is trained on the
embeddings of --train. R@k is the share of queries with a right answer among the first k. Measure on images that were not trained on:
where they were, the results say so, as they do of a student that is older than what the run has now.`,
    )
    .action((flags: Flags, command: Command) =>
      runCommand(flags, async (session) => {
        if (flags.run !== undefined && flags.model !== undefined) {
          throw new UsageError('Expected --model or --run but received both');
        }
        const { data, train, tasks, labels, template } = flags;
        const overrides = { eval: { data, train, tasks, labels, templates: template } };
        if (flags.run === undefined && flags.out === undefined) await measureOnly(flags, overrides, session);
        else await measureInto(flags, overrides, session, command);
      }),
    );
}

async function measureOnly(
  flags: Flags,
  overrides: Record<string, unknown>,
  session: Session,
): Promise<void> {
  const [{ measure }, { formatEvaluation }] = await Promise.all([
    import('../cid/evaluate.ts'),
    import('../eval/format.ts'),
  ]);
  const config = await configOf(flags, overrides);
  const { data, train, ...options } = config.eval;
  const result = await measure('model', {
    ...session,
    device: config.device as Device,
    threads: config.threads,
    models: { model: required(flags.model, '--model', 'a model folder') },
    data: required(data, 'eval.data (--data)', 'a data set'),
    train,
    imageField: config.imageField,
    captionField: config.captionField,
    options,
    encoder: config.encoder,
    seed: config.seed,
  });
  session.print({ name: 'model', ...result }, formatEvaluation(result));
}

async function measureInto(
  flags: Flags,
  overrides: Record<string, unknown>,
  session: Session,
  command: Command,
): Promise<void> {
  const [{ evalStage }, { modelsOf }, { formatEvaluation }, { describeStale, EVALUATED, staleStages }] =
    await Promise.all([
      import('../cid/evaluate.ts'),
      import('../cid/run.ts'),
      import('../eval/format.ts'),
      import('../report/stale.ts'),
    ]);
  const place = await openPlace('eval', session, command, overrides);
  try {
    const { config, folder } = place;
    const { data, train, ...options } = config.eval;
    const models = place.run
      ? await modelsOf(place.run, config)
      : { model: required(flags.model, '--model', 'a model folder') };
    // An earlier student may well be what is to be measured: that is said, not refused.
    const stale = place.run ? await staleStages(place.run.folder) : [];
    const staleOf = (name: string) => stale.find(({ folder }) => folder === EVALUATED[name]);
    for (const name of Object.keys(models)) {
      const found = staleOf(name);
      if (found) session.log(`eval: warning: ${describeStale(found)}`);
    }
    const { skipped } = await evalStage({
      ...place.settings(session),
      models,
      data: required(data, 'eval.data (--data)', 'a data set'),
      train: train ?? (place.run ? config.data : undefined),
      imageField: config.imageField,
      captionField: config.captionField,
      options,
      encoder: config.encoder,
      seed: config.seed,
    });
    await place.run?.remember(config as Json, config.seed);
    if (skipped) session.log(`eval: was done already, in ${folder}`);
    for (const name of Object.keys(models)) {
      const result = (await readJson(join(folder, `${name}.json`))) as EvaluateResult;
      const found = staleOf(name);
      session.print(
        { name, ...result, ...(found && { stale: found }) },
        `${name}: ${formatEvaluation(result)}${found ? `\n  NOTE: ${describeStale(found)}` : ''}`,
      );
    }
  } finally {
    await place.dispose();
  }
}
