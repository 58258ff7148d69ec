import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { packageRoot } from '../../src/native/loader.ts';

/** The compiled command line: what a user runs. */
export const main = join(packageRoot, 'dist', 'cli', 'main.js');

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  cwd?: string;
  env?: Record<string, string>;
  /** Largest file that the process may write, in KiB. */
  fileLimit?: number;
  /** Told of the process as soon as it is started. */
  onStart?: (child: ChildProcess) => void;
}

/** Runs `clip-cid` with arguments until it ends. */
export function clipCid(args: readonly string[], options: RunOptions = {}): Promise<Ended> {
  const command = options.fileLimit === undefined ? process.execPath : 'bash';
  const full =
    options.fileLimit === undefined
      ? [main, ...args]
      : ['-c', `ulimit -f ${options.fileLimit}; exec "$0" "$@"`, process.execPath, main, ...args];
  const child = spawn(command, full, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  options.onStart?.(child);
  const text = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name]!.setEncoding('utf8').on('data', (chunk: string) => {
      text[name] += chunk;
    });
  }
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve({ code, signal, ...text }));
  });
}

/** The objects that `--json` printed. */
export function objects(ended: Ended): Record<string, unknown>[] {
  return ended.stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}
