import { open } from 'node:fs/promises';
import type { FileMatrix } from '../kernels/rows.ts';
import { failRange, failType } from '../native/check.ts';
import { CidError } from '../native/errors.ts';
import { type FileChunk, readError, writeFileAtomic } from '../run/files.ts';

/** Arrays that .npy files are read to and written from; a Uint16Array is float16 as raw bits. */
export type NpyData = Float32Array | Uint16Array | Int32Array | Uint8Array | BigInt64Array;
export type NpyDtype = 'float32' | 'float16' | 'int32' | 'uint8' | 'int64';

export interface NpyHeader {
  readonly dtype: NpyDtype;
  readonly shape: readonly number[];
  /** Byte of the file at which the elements start. */
  readonly offset: number;
}

export interface NpyArray {
  readonly dtype: NpyDtype;
  readonly shape: readonly number[];
  readonly data: NpyData;
}

const TYPES: Readonly<
  Record<NpyDtype, { code: string; make: new (buffer: ArrayBuffer) => NpyData; bytes: number }>
> = {
  float32: { code: '<f4', make: Float32Array, bytes: 4 },
  float16: { code: '<f2', make: Uint16Array, bytes: 2 },
  int32: { code: '<i4', make: Int32Array, bytes: 4 },
  uint8: { code: '|u1', make: Uint8Array, bytes: 1 },
  int64: { code: '<i8', make: BigInt64Array, bytes: 8 },
};
const MAGIC = '\x93NUMPY';

/**
 * Reads the header of an .npy file (versions 1 to 3) and checks that the file is as long as it says. Row-major, little-endian
 * float32, float16, int32, int64 and uint8. Fails with FILE_NOT_FOUND or FILE_FORMAT.
 */
export async function readNpyHeader(path: string): Promise<NpyHeader> {
  return withFile(path, async (handle) => {
    const size = (await handle.stat()).size;
    const start = await readBytes(handle, path, 0, Math.min(size, 12));
    if (start.length < 10 || start.toString('latin1', 0, 6) !== MAGIC)
      throw wrong(path, 'it does not start as .npy does');
    const long = start[6] >= 2;
    if (long && start.length < 12) throw wrong(path, 'it is cut short');
    const body = long ? 12 : 10;
    const length = long ? start.readUInt32LE(8) : start.readUInt16LE(8);
    const offset = body + length;
    if (offset > size) throw wrong(path, 'it is cut short');
    const header = parseHeader(path, (await readBytes(handle, path, body, length)).toString('utf8'));
    const bytes = TYPES[header.dtype].bytes * header.shape.reduce((product, n) => product * n, 1);
    if (size !== offset + bytes) {
      throw wrong(path, `it holds ${size - offset} bytes of elements where its header says ${bytes}`);
    }
    return { ...header, offset };
  });
}

/** Reads a whole .npy file. Fails as {@link readNpyHeader} does. */
export async function readNpy(path: string): Promise<NpyArray> {
  const { dtype, shape, offset } = await readNpyHeader(path);
  const { make: Type, bytes } = TYPES[dtype];
  const length = bytes * shape.reduce((product, n) => product * n, 1);
  const contents = await withFile(path, (handle) => readBytes(handle, path, offset, length));
  return { dtype, shape, data: new Type(contents.buffer) };
}

/** The rows of a float32 or float16 .npy file [rows, dim], left in the file. */
export async function npyMatrix(path: string): Promise<FileMatrix> {
  const { dtype, shape, offset } = await readNpyHeader(path);
  if (shape.length !== 2 || (dtype !== 'float32' && dtype !== 'float16')) {
    throw wrong(path, `expected rows of float32 or float16 but it holds ${dtype} [${shape.join(', ')}]`);
  }
  return { path, offset, rows: shape[0], dim: shape[1], dtype };
}

/** Writes an .npy file whole or not at all; a Uint16Array is written as float16. Fails with FILE_WRITE. */
export async function writeNpy(path: string, data: NpyData, shape: readonly number[]): Promise<void> {
  const dtype = dtypeOf(data);
  if (shape.reduce((product, n) => product * n, 1) !== data.length) {
    failRange(`${data.length} elements`, 'shape', shape);
  }
  await writeFileAtomic(path, npyChunks(dtype, data, shape));
}

function dtypeOf(data: NpyData): NpyDtype {
  const found = (Object.keys(TYPES) as NpyDtype[]).find((dtype) => data instanceof TYPES[dtype].make);
  return (
    found ?? failType('a Float32Array, Uint16Array, Int32Array, Uint8Array or BigInt64Array', 'data', data)
  );
}

function npyChunks(dtype: NpyDtype, data: NpyData, shape: readonly number[]): FileChunk[] {
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`;
  const text = `{'descr': '${TYPES[dtype].code}', 'fortran_order': False, 'shape': ${tuple}, }`;
  // Elements start at a multiple of 64 bytes, as numpy writes them, so that a mapped file is aligned.
  const length = Math.ceil((10 + text.length + 1) / 64) * 64 - 10;
  const start = Buffer.alloc(10);
  start.write(MAGIC, 0, 'latin1');
  start[6] = 1;
  start.writeUInt16LE(length, 8);
  return [start, `${text.padEnd(length - 1)}\n`, data];
}

function parseHeader(path: string, text: string): { dtype: NpyDtype; shape: number[] } {
  const descr = /'descr'\s*:\s*'([^']*)'/.exec(text)?.[1];
  const fortran = /'fortran_order'\s*:\s*(True|False)/.exec(text)?.[1];
  const tuple = /'shape'\s*:\s*\(([\d,\sL]*)\)/.exec(text)?.[1];
  if (descr === undefined || fortran === undefined || tuple === undefined) {
    throw wrong(path, 'its header names no type and shape');
  }
  const dtype = (Object.keys(TYPES) as NpyDtype[]).find((name) => TYPES[name].code === descr);
  if (dtype === undefined) {
    throw wrong(
      path,
      `elements of type ${descr} are not supported: expected ${Object.keys(TYPES).join(', ')}`,
    );
  }
  const shape = tuple
    .split(',')
    .map((part) => part.replace('L', '').trim())
    .filter((part) => part !== '')
    .map(Number);
  if (fortran === 'True' && shape.length > 1) throw wrong(path, 'its elements are in column order');
  return { dtype, shape };
}

type Handle = Awaited<ReturnType<typeof open>>;

async function withFile<T>(path: string, work: (handle: Handle) => Promise<T>): Promise<T> {
  let handle: Handle | undefined;
  try {
    handle = await open(path, 'r');
    return await work(handle);
  } catch (error) {
    throw readError(path, error);
  } finally {
    await handle?.close();
  }
}

/** A buffer of its own, so that a typed array over it is aligned. */
async function readBytes(
  handle: Handle,
  path: string,
  offset: number,
  length: number,
): Promise<Buffer<ArrayBuffer>> {
  const bytes = Buffer.from(new ArrayBuffer(length));
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(bytes, done, length - done, offset + done);
    if (bytesRead === 0) throw wrong(path, 'it is cut short');
    done += bytesRead;
  }
  return bytes;
}

function wrong(path: string, reason: string): CidError {
  return new CidError('FILE_FORMAT', `${path} is not a usable .npy file: ${reason}`);
}
