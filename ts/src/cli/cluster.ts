import type { Command } from 'commander';
import { required } from '../run/schema.ts';
import { type CommonFlags, memoryFlag, number, placeFlags, runCommand, stageFlags } from './common.ts';
import { openPlace } from './place.ts';

interface Flags extends CommonFlags {
  embeddings?: string;
  kept?: string;
  clusters?: number;
  iterations?: number;
  tolerance?: number;
  init?: string;
  nInit?: number;
}

export function clusterCommand(program: Command): void {
  const command = program.command('cluster').description('spherical k-means over the kept embeddings');
  memoryFlag(stageFlags(placeFlags(command, 'folder for centroids.npy, labels.npy and report.json')))
    .option(
      '--embeddings <dir>',
      "embedding store, ours or clip-retrieval's; no images needed (default: the run's)",
    )
    .option(
      '--kept <file>',
      "kept.jsonl of balance: the rows to cluster (default: the run's, or with --embeddings all)",
    )
    .addOption(number('--clusters <k>', 'centres, at most the number of rows'))
    .addOption(number('--iterations <n>', 'most iterations (default: 50)'))
    .addOption(
      number('--tolerance <share>', 'end when at most this share changes its centre (default: 0.001)'),
    )
    .option('--init <way>', "start: 'k-means++', 'k-means||' or 'random' (default: k-means++)")
    .addOption(number('--n-init <n>', 'starts, of which the best counts (default: 1)'))
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid cluster --run runs/mine --clusters 10000
  $ clip-cid cluster --embeddings embeddings/ --kept balance/kept.jsonl --clusters 1000 --seed 1 --out cluster/`,
    )
    .action((flags: Flags, command: Command) =>
      runCommand(flags, async (session) => {
        const { clusterStage } = await import('../cid/cluster.ts');
        const { clusters, iterations, tolerance, init, nInit } = flags;
        const place = await openPlace('cluster', session, command, {
          cluster: { clusters, iterations, tolerance, init, nInit },
        });
        try {
          const { config } = place;
          const result = await clusterStage({
            ...place.settings(session),
            embeddings: required(
              await place.earlier('embed', flags.embeddings),
              '--embeddings',
              'an embedding store',
            ),
            kept:
              flags.embeddings !== undefined
                ? flags.kept
                : await place.earlier('balance', flags.kept, 'kept.jsonl'),
            seed: config.seed,
            ...config.cluster,
            clusters: required(
              config.cluster.clusters,
              'cluster.clusters (--clusters)',
              'a number of centres',
            ),
          });
          await place.finish(session, result);
        } finally {
          await place.dispose();
        }
      }),
    );
}
