import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach } from 'vitest';
import type { RatedDataset } from '../../../src/data/rated/dataset.ts';

/** A folder of its own for each test of a file. */
export interface Folder {
  at(name: string): string;
  /** Writes files; contents of images need not be images, since opening a data set looks at none. */
  put(files: Readonly<Record<string, string>>): Promise<void>;
}

export function testFolder(): Folder {
  let root: string;
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'rated-'));
  });
  afterEach(() => rm(root, { recursive: true }));
  return {
    at: (name) => join(root, name),
    async put(files) {
      for (const [name, contents] of Object.entries(files)) {
        await mkdir(dirname(join(root, name)), { recursive: true });
        await writeFile(join(root, name), contents);
      }
    },
  };
}

export const keysOf = (data: RatedDataset) => Array.from({ length: data.length }, (_, i) => data.item(i).key);
export const splitsOf = (data: RatedDataset) => Array.from({ length: data.length }, (_, i) => data.split(i));
/** Reasons by what they are given for. */
export const reasonsOf = (data: RatedDataset) =>
  Object.fromEntries(data.skipped.map(({ key, reason }) => [key, reason]));
export const rowOf = (data: RatedDataset, index: number) =>
  Array.from(data.distributions.subarray(index * data.scale.bins, (index + 1) * data.scale.bins));
