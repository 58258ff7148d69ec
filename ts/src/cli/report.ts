import type { Command } from 'commander';
import { outputFlags, runCommand, UsageError } from './common.ts';

interface Flags {
  run?: string;
  out?: string;
  title?: string;
  json?: boolean;
  quiet?: boolean;
}

export function reportCommand(program: Command): void {
  outputFlags(program.command('report'))
    .description('write one HTML file about a run: funnel, groups, curves, scores')
    .option('--run <dir>', 'run folder')
    .option('--out <file>', 'file to write (default: report.html in the run folder)')
    .option('--title <text>', 'heading (default: the name of the run folder)')
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid report --run runs/mine
  $ clip-cid report --run runs/mine --out mine.html --title 'Mine'`,
    )
    .action((flags: Flags) =>
      runCommand(flags, async ({ print, log }) => {
        const [{ writeReport }, { describeStale, staleStages }] = await Promise.all([
          import('../report/report.ts'),
          import('../report/stale.ts'),
        ]);
        const { run, out, title } = flags;
        if (run === undefined) throw new UsageError('Expected --run DIR but received nothing');
        const path = await writeReport(run, {
          ...(out === undefined ? {} : { out }),
          ...(title === undefined ? {} : { title }),
        });
        const stale = await staleStages(run);
        for (const stage of stale) log(`report: ${describeStale(stage)}`);
        print({ report: path, ...(stale.length > 0 && { stale }) }, path);
      }),
    );
}
