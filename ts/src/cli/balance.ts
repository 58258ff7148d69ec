import type { Command } from 'commander';
import { required } from '../cid/config.ts';
import { type CommonFlags, number, placeFlags, runCommand, stageFlags } from './common.ts';
import { openPlace } from './place.ts';

interface Flags extends CommonFlags {
  embeddings?: string;
  threshold?: number;
  keepRatio?: number;
}

export function balanceCommand(program: Command): void {
  const command = program
    .command('balance')
    .description('find groups of near-duplicate images and keep the central one of each');
  stageFlags(placeFlags(command, 'folder for groups.npy, keep.npy, kept.jsonl and report.json'))
    .option(
      '--embeddings <dir>',
      "embedding store, ours or clip-retrieval's; no images needed (default: the run's)",
    )
    .addOption(
      number('--threshold <cosine>', 'images are near-duplicates over this cosine, -1 to 1').conflicts(
        'keepRatio',
      ),
    )
    .addOption(number('--keep-ratio <share>', 'search the threshold that keeps this share (default: 0.563)'))
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid balance --embeddings embeddings/ --threshold 0.9 --out balance/
  $ clip-cid balance --run runs/mine --keep-ratio 0.7

All pairs are compared, exactly: the result is the same for every number of threads and on every device.`,
    )
    .action((flags: Flags) =>
      runCommand(flags, async (session) => {
        const { balanceStage } = await import('../cid/balance.ts');
        const { threshold, keepRatio } = flags;
        // One of the two replaces whichever a configuration has.
        const rule =
          threshold !== undefined
            ? { threshold, keepRatio: null }
            : keepRatio !== undefined
              ? { keepRatio, threshold: null }
              : {};
        const place = await openPlace('balance', flags, { balance: rule });
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
      }),
    );
}
