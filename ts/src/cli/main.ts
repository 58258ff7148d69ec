#!/usr/bin/env node
import { CommanderError } from 'commander';
import { MISUSE, report } from './common.ts';
import { createProgram } from './program.ts';

// A reader that has seen enough (`clip-cid … | head`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

try {
  await createProgram().parseAsync();
} catch (error) {
  // Commander has written its message already; it ends with 0 after --help and --version, otherwise it was misuse.
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : MISUSE;
  else process.exitCode = report(error);
}
