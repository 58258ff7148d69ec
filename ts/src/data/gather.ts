import { type FileHandle, open } from 'node:fs/promises';
import type { FileMatrix, Matrix } from '../kernels/rows.ts';
import { CidError } from '../native/errors.ts';
import { readError } from '../run/files.ts';
import { halfToFloat } from './half.ts';

/** Rows read at once: enough to make calls rare, little enough to stay in the cache. */
const PIECE = 2048;

/**
 * Reads chosen rows of file-backed matrices into one in memory, as float32, which float16 widens to without loss.
 *
 * @param rows Indices over all matrices in order, 0 to their rows − 1, in any order.
 * @param name Names row i of the result in an error; when given, rows that are zero or not finite fail with INVALID_DATA.
 */
export async function gatherRows(
  matrices: readonly FileMatrix[],
  rows: Int32Array,
  name?: (index: number) => string,
): Promise<Matrix> {
  const dim = matrices[0]?.dim ?? 0;
  const data = new Float32Array(rows.length * dim);
  const files = new OpenFiles();
  try {
    let index = 0;
    while (index < rows.length) {
      const { matrix, row } = find(matrices, rows[index]!);
      // A run of consecutive rows is one read.
      let count = 1;
      const most = Math.min(PIECE, matrix.rows - row, rows.length - index);
      while (count < most && rows[index + count] === rows[index]! + count) count++;
      data.set(await readRows(await files.open(matrix.path), matrix, row, count), index * dim);
      index += count;
    }
  } finally {
    await files.close();
  }
  if (name) checkRows(data, rows.length, dim, name);
  return { data, rows: rows.length, dim };
}

/**
 * Chosen rows of file-backed matrices, left in their files: a matrix for each run of consecutive ones.
 *
 * @param rows Indices over all matrices in order, ascending.
 */
export function selectRows(matrices: readonly FileMatrix[], rows: Int32Array): FileMatrix[] {
  const runs: FileMatrix[] = [];
  let first = 0;
  let at = 0;
  for (const matrix of matrices) {
    const rowBytes = matrix.dim * (matrix.dtype === 'float32' ? 4 : 2);
    while (at < rows.length && rows[at]! < first + matrix.rows) {
      const row = rows[at]! - first;
      let count = 1;
      while (rows[at + count] === rows[at]! + count && row + count < matrix.rows) count++;
      runs.push({ ...matrix, offset: matrix.offset + row * rowBytes, rows: count });
      at += count;
    }
    first += matrix.rows;
  }
  return runs;
}

/** Fails with INVALID_DATA where a chosen row is zero or not finite, as {@link gatherRows} does; holds a few at a time. */
export async function expectRows(
  matrices: readonly FileMatrix[],
  rows: Int32Array,
  name: (index: number) => string,
): Promise<void> {
  for (let from = 0; from < rows.length; from += PIECE) {
    await gatherRows(matrices, rows.subarray(from, from + PIECE), (index) => name(from + index));
  }
}

function find(matrices: readonly FileMatrix[], row: number): { matrix: FileMatrix; row: number } {
  let first = 0;
  for (const matrix of matrices) {
    if (row < first + matrix.rows) return { matrix, row: row - first };
    first += matrix.rows;
  }
  throw new CidError('INVALID_DATA', `There is no row ${row}: the embeddings have ${first} rows`);
}

async function readRows(
  handle: FileHandle,
  matrix: FileMatrix,
  row: number,
  count: number,
): Promise<Float32Array> {
  const { dim, dtype, offset, path } = matrix;
  const width = dtype === 'float32' ? 4 : 2;
  const bytes = new Uint8Array(count * dim * width);
  let done = 0;
  while (done < bytes.length) {
    const at = offset + row * dim * width + done;
    const { bytesRead } = await handle.read(bytes, done, bytes.length - done, at);
    if (bytesRead === 0) throw new CidError('FILE_FORMAT', `${path} is cut short`);
    done += bytesRead;
  }
  return dtype === 'float32' ? new Float32Array(bytes.buffer) : halfToFloat(new Uint16Array(bytes.buffer));
}

function checkRows(data: Float32Array, rows: number, dim: number, name: (index: number) => string): void {
  for (let index = 0; index < rows; index++) {
    let sum = 0;
    for (let i = index * dim; i < (index + 1) * dim; i++) sum += Math.abs(data[i]!);
    if (sum > 0 && sum < Number.POSITIVE_INFINITY) continue;
    const what = sum === 0 ? 'zero' : 'not finite';
    throw new CidError(
      'INVALID_DATA',
      `The embedding of ${name(index)} is ${what}: it has no direction to compare`,
    );
  }
}

/** Files stay open while their rows are read; shards are few. */
class OpenFiles {
  readonly #handles = new Map<string, FileHandle>();

  async open(path: string): Promise<FileHandle> {
    let handle = this.#handles.get(path);
    if (!handle) {
      try {
        handle = await open(path, 'r');
      } catch (error) {
        throw readError(path, error);
      }
      this.#handles.set(path, handle);
    }
    return handle;
  }

  async close(): Promise<void> {
    await Promise.all([...this.#handles.values()].map((handle) => handle.close()));
  }
}
