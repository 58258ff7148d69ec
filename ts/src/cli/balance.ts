import { join } from 'node:path';
import type { Command } from 'commander';
import type { Config } from '../cid/config.ts';
import { STAGE_FOLDERS } from '../run/folder.ts';
import { required } from '../run/schema.ts';
import {
  type CommonFlags,
  configOf,
  memoryFlag,
  number,
  placeFlags,
  runCommand,
  type Session,
  stageFlags,
} from './common.ts';
import { openPlace, rememberedBy } from './place.ts';

interface Flags extends CommonFlags {
  embeddings?: string;
  threshold?: number;
  metric?: string;
  keepRatio?: number;
  keep?: string;
  scores?: string;
  maxDiameter?: number;
  pairs?: string;
  semdedup?: number;
  against?: string;
  againstKeep?: string;
  estimate?: boolean;
}

export function balanceCommand(program: Command): void {
  const command = program
    .command('balance')
    .description('find groups of near-duplicate images and keep one of each, the central one');
  memoryFlag(stageFlags(placeFlags(command, 'folder for groups.npy, keep.npy, kept.jsonl and report.json')))
    .option(
      '--embeddings <dir>',
      "embedding store, ours or clip-retrieval's; no images needed (default: the run's)",
    )
    .addOption(
      number('--threshold <value>', 'images more alike than this are near-duplicates').conflicts('keepRatio'),
    )
    .option(
      '--metric <unit>',
      "unit of --threshold: 'cosine' (-1 to 1), 'cosine-distance' or 'euclidean' (0 to 2) (default: cosine)",
    )
    .addOption(number('--keep-ratio <share>', 'find the threshold that keeps this share (default: 0.563)'))
    .option(
      '--keep <which>',
      "image of a group that stays: 'central', 'easy', 'hard', 'first', 'random', 'best' (default: central)",
    )
    .option('--scores <file>', 'of --keep best: .npy, float32, a score for each embedding; the highest stays')
    .addOption(
      number(
        '--max-diameter <distance>',
        'split groups with an image farther than this cosine distance from their mean',
      ),
    )
    .option(
      '--pairs <format>',
      "also write all pairs over the threshold: 'npy' (pairs.npy) or 'tsv' (pairs.tsv)",
    )
    .option('--against <dir>', 'earlier embedding store: near-duplicates of its images are dropped too')
    .option('--against-keep <file>', 'of --against: keep.npy of its balance; only images that stayed count')
    .addOption(
      number(
        '--semdedup <k>',
        'SemDeDup within k clusters instead, for comparison; --keep is its order, hard, easy or random',
      ),
    )
    .option('--estimate', 'only say how many pairs there are, how long it takes and how much memory')
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid balance --embeddings embeddings/ --threshold 0.9 --out balance/
  $ clip-cid balance --run runs/mine --keep-ratio 0.7 --max-diameter 0.2
  $ clip-cid balance --embeddings huge/ --threshold 0.9 --estimate
  $ clip-cid balance --embeddings huge/ --threshold 0.9 --max-memory 1GiB --pairs npy --out balance/
  $ clip-cid balance --embeddings new/ --against old/ --against-keep old-balance/keep.npy --threshold 0.9 --out balance/

Of a group, --keep lets stay: central (or easy), the image most like the group's mean; hard, the least like it; first, the first in the
list; random, one drawn by --seed; best, that with the highest of --scores.

All pairs are compared, exactly: the result is the same for every number of threads and on every device.`,
    )
    .action((flags: Flags, command: Command) =>
      runCommand(flags, (session) => (flags.estimate ? estimate : balance)(flags, session, command)),
    );
}

/** The section of the configuration that flags say. */
function section(flags: Flags): Record<string, unknown> {
  const { threshold, keepRatio, metric, keep, scores, maxDiameter, pairs, semdedup, against, againstKeep } =
    flags;
  // One of the two replaces whichever a configuration has.
  const rule =
    threshold !== undefined
      ? { threshold, keepRatio: null }
      : keepRatio !== undefined
        ? { keepRatio, threshold: null }
        : {};
  return { ...rule, metric, keep, scores, maxDiameter, pairs, semdedup, against, againstKeep };
}

async function balance(flags: Flags, session: Session, command: Command): Promise<void> {
  const { balanceStage } = await import('../cid/balance.ts');
  const place = await openPlace('balance', session, command, { balance: section(flags) });
  try {
    const result = await balanceStage({
      ...place.settings(session),
      embeddings: required(
        await place.earlier('embed', flags.embeddings),
        '--embeddings',
        'an embedding store',
      ),
      seed: place.config.seed,
      ...place.config.balance,
    });
    await place.finish(session, result);
  } finally {
    await place.dispose();
  }
}

/** Writes nothing, and so needs neither --run nor --out. */
async function estimate(flags: Flags, session: Session, command: Command): Promise<void> {
  const { estimateStore } = await import('../cid/estimate.ts');
  const { run } = flags;
  const remembered = await rememberedBy('balance', session, command);
  const config: Config = await configOf(flags, { balance: section(flags) }, remembered);
  const own = run === undefined ? undefined : join(run, STAGE_FOLDERS.embed);
  const found = await estimateStore({
    embeddings: required(flags.embeddings ?? own, '--embeddings', 'an embedding store'),
    threshold: required(config.balance.threshold, 'balance.threshold (--threshold)', 'a threshold'),
    ...(config.balance.metric === undefined ? {} : { metric: config.balance.metric }),
    seed: config.seed,
    device: config.device,
    threads: config.threads,
    maxMemory: config.maxMemory,
    maxDeviceMemory: config.maxDeviceMemory,
    signal: session.signal,
  });
  session.print({ estimate: 'balance', ...found.record }, found.text);
}
