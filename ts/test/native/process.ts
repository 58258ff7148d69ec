import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { packageRoot } from '../../src/native/loader.ts';

/** A module that has everything of the compiled package in `cid`, and rows that keep the kernels busy for a while in `rows`. */
export function program(body: string): string {
  const index = pathToFileURL(join(packageRoot, 'dist', 'index.js'));
  return `
    import * as cid from ${JSON.stringify(index)};
    const length = 12000 * 256;
    const rows = () => ({ data: Float32Array.from({ length }, (_, i) => Math.sin(i * i)), rows: 12000, dim: 256 });
    ${body}`;
}

/** Runs a module in a process of its own; what it printed. Rejects when it ends otherwise than with 0. */
export async function runProgram(
  body: string,
  flags: readonly string[] = [],
): Promise<{ stdout: string; stderr: string }> {
  return promisify(execFile)(process.execPath, [...flags, '--input-type=module', '-e', program(body)]);
}
