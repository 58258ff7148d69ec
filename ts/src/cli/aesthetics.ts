import type { Command } from 'commander';
import { analyzeCommand } from './aesthetics/analyze.ts';

/** The commands of the second system: CLIP features for image aesthetics. */
export function aestheticsCommand(program: Command): void {
  const group = program.command('aesthetics').description('CLIP features for image aesthetics');
  for (const add of [analyzeCommand]) add(group);
}
