import { join } from 'node:path';
import type { Store } from '../data/store.ts';
import { type PairBatch, pairs } from '../kernels/pairs.ts';
import { CidError } from '../native/errors.ts';
import { type FileChunk, writeFileAtomic } from '../run/files.ts';
import type { StageSettings } from '../run/settings.ts';
import { toTheEnd } from './stage.ts';

/** Files that pairs are written to. */
export type PairsFormat = 'npy' | 'tsv';

export const PAIRS_FILES: Readonly<Record<PairsFormat, string>> = { npy: 'pairs.npy', tsv: 'pairs.tsv' };

/**
 * Writes all pairs over a cosine, in no order and without holding them: `pairs.npy`, a structured array with the fields `first`,
 * `second` (int32) and `cosine` (float64), or `pairs.tsv` with the same columns.
 *
 * @param count How many there are, as the balance found.
 * @returns Name of the file.
 */
export async function writePairs(
  store: Store,
  threshold: number,
  count: number,
  format: PairsFormat,
  settings: StageSettings,
): Promise<string> {
  await toTheEnd(settings, 'pairs', async (kernel) => {
    const found = pairs(store.image, { threshold, ...kernel });
    const lines = format === 'npy' ? records(found, count) : table(found);
    await writeFileAtomic(join(settings.folder, PAIRS_FILES[format]), lines);
  });
  return PAIRS_FILES[format];
}

async function* table(found: AsyncIterable<PairBatch>): AsyncGenerator<FileChunk> {
  yield 'first\tsecond\tcosine\n';
  for await (const { first, second, dots } of found) {
    const lines: string[] = [];
    for (const [at, dot] of dots.entries()) lines.push(`${first[at]}\t${second[at]}\t${dot}\n`);
    yield lines.join('');
  }
}

const RECORD = 16;

async function* records(found: AsyncIterable<PairBatch>, count: number): AsyncGenerator<FileChunk> {
  const type = "[('first', '<i4'), ('second', '<i4'), ('cosine', '<f8')]";
  const text = `{'descr': ${type}, 'fortran_order': False, 'shape': (${count},), }`;
  // The header ends at a multiple of 64 bytes; 10 of them come before the text.
  const length = Math.ceil((10 + text.length + 1) / 64) * 64 - 10;
  const start = Buffer.from('\x93NUMPY\x01\x00\x00\x00', 'latin1');
  start.writeUInt16LE(length, 8);
  yield start;
  yield `${text.padEnd(length - 1)}\n`;
  let written = 0;
  for await (const { first, second, dots } of found) {
    const bytes = new DataView(new ArrayBuffer(RECORD * dots.length));
    for (const [at, dot] of dots.entries()) {
      bytes.setInt32(RECORD * at, first[at]!, true);
      bytes.setInt32(RECORD * at + 4, second[at]!, true);
      bytes.setFloat64(RECORD * at + 8, dot, true);
    }
    written += dots.length;
    yield bytes;
  }
  // The header has promised a number.
  if (written !== count) {
    throw new CidError('INVALID_DATA', `The embeddings changed meanwhile: ${count} pairs became ${written}`);
  }
}
