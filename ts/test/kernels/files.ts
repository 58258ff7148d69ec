import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { FileMatrix, Matrix } from '../../src/kernels/rows.ts';

/** Matrices as regions of files of their own, at offsets that no element type is aligned to, while `work` runs. */
export async function withFiles<T>(
  matrices: readonly Matrix[],
  work: (files: FileMatrix[], folder: string) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'clip-cid-rows-'));
  try {
    const files: FileMatrix[] = [];
    for (const [index, { data, rows, dim, dtype }] of matrices.entries()) {
      const path = join(folder, `rows-${index}.bin`);
      const offset = 1 + 2 * index;
      const body = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
      await writeFile(path, Buffer.concat([Buffer.alloc(offset, 0xff), body, Buffer.alloc(3, 0xff)]));
      const stored = dtype ?? (data instanceof Float32Array ? 'float32' : 'float16');
      files.push({ path, offset, rows, dim, dtype: stored });
    }
    return await work(files, folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}
