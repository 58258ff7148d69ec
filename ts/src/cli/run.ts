import { basename, extname, join } from 'node:path';
import type { Command } from 'commander';
import type { Device } from '../native/devices.ts';
import { type CommonFlags, configOf, runCommand, stageFlags, UsageError } from './common.ts';
import { printStage } from './place.ts';

export function runPipelineCommand(program: Command): void {
  stageFlags(program.command('run'))
    .description('the whole pipeline: embed, balance, cluster, distill, eval, report')
    .argument('[config]', 'configuration file (or --config)')
    .option('--run <dir>', 'run folder (default: runs/ and the name of the configuration)')
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid run config.json
  $ clip-cid run config.json --run runs/second --seed 2

A smallest configuration:
  {
    "data": "train.jsonl",
    "teacher": "models/clip",
    "balance": { "threshold": 0.9 },
    "cluster": { "clusters": 1000 },
    "distill": { "student": "mini-64", "epochs": 32 },
    "eval": { "data": "heldout.jsonl", "labels": ["category"] }
  }

Stages that are done are skipped, one that was stopped goes on. With --force, stages whose inputs or options changed are made
anew; the others stay.`,
    )
    .action((file: string | undefined, flags: CommonFlags) =>
      runCommand(flags, async (session) => {
        const { runPipeline } = await import('../cid/run.ts');
        const path = file ?? flags.config;
        if (path === undefined) throw new UsageError('Expected a configuration file but received nothing');
        const config = await configOf({ ...flags, config: path }, {});
        const folder = flags.run ?? join('runs', basename(path, extname(path)));
        const { student, report } = await runPipeline(config, {
          folder,
          existing: flags.force ? 'replace-changed' : 'resume',
          device: config.device as Device,
          threads: config.threads,
          maxMemory: config.maxMemory,
          maxDeviceMemory: config.maxDeviceMemory,
          signal: session.signal,
          onProgress: session.onProgress,
          log: session.log,
          onStage: (stageFolder, result) => printStage(session, stageFolder, result),
        });
        session.print({ student, report }, `The student is in ${student}\nThe report is ${report}`);
      }),
    );
}
