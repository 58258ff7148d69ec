import { Command } from 'commander';
import { packageVersion } from '../native/loader.ts';
import { aestheticsCommand } from './aesthetics.ts';
import { balanceCommand } from './balance.ts';
import { benchCommand } from './bench.ts';
import { clusterCommand } from './cluster.ts';
import { distillCommand } from './distill.ts';
import { doctorCommand } from './doctor.ts';
import { embedCommand } from './embed.ts';
import { evalCommand } from './eval.ts';
import { explainCommand } from './explain.ts';
import { pretrainCommand } from './pretrain.ts';
import { reportCommand } from './report.ts';
import { runPipelineCommand } from './run.ts';

/**
 * The command line. Parsing throws a CommanderError instead of ending the process.
 *
 * Commands load what they need when they run: help is quick, and `doctor` works where a library does not load.
 */
export function createProgram(): Command {
  const program = new Command('clip-cid')
    .description('Distil a large CLIP into a small one.')
    .version(packageVersion)
    .exitOverride()
    .showHelpAfterError('(--help shows the usage)')
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid run config.json --run runs/first
  $ clip-cid embed --data images/ --model teacher/ --out embeddings/
  $ clip-cid balance --embeddings embeddings/ --threshold 0.9 --out balance/

The stages in their order: embed, balance, cluster, distill, eval, report. Each works in a run folder (--run DIR), where it finds what those
before it made, or on files of its own (--out DIR); run does all of them.

Exit codes: 0 done, 1 failed, 2 misuse or bad configuration, 130 interrupted and resumable.
Results go to standard output, progress and notes to standard error.
Environment: CLIP_CID_DEBUG=1 shows where an error came from.`,
    );
  for (const add of [
    runPipelineCommand,
    embedCommand,
    balanceCommand,
    clusterCommand,
    distillCommand,
    pretrainCommand,
    evalCommand,
    aestheticsCommand,
    reportCommand,
    explainCommand,
    doctorCommand,
    benchCommand,
  ]) {
    add(program);
  }
  return program;
}
