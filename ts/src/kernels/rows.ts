/// <reference lib="esnext.disposable" preserve="true" />
import type {
  NativeDeviceMatrix,
  NativeDtype,
  NativeFileMatrix,
  NativeMatrix,
  NativeRows,
} from '../native/addon.ts';
import {
  expectInteger,
  expectObject,
  expectOneOf,
  expectString,
  failRange,
  failType,
} from '../native/check.ts';
import { expectOptions, type KernelOptions, runNative } from '../native/context.ts';
import type { Device } from '../native/devices.ts';
import { CidError } from '../native/errors.ts';
import { loadAddon } from '../native/loader.ts';

/** Element types of rows. `float16` and `bfloat16` are raw bits in a Uint16Array. */
export type Dtype = NativeDtype;

/** Rows in memory: row-major, flat. */
export interface Matrix {
  /** [rows, dim]. Read where it lies, without a copy: it must not change while a call that got it runs. */
  readonly data: Float32Array | Uint16Array;
  readonly rows: number;
  readonly dim: number;
  /** Defaults to 'float32' for a Float32Array and 'float16' for a Uint16Array. */
  readonly dtype?: Dtype;
}

/** Rows in a region of a file (an .npy file's body, say), read by position when they are needed. */
export interface FileMatrix {
  readonly path: string;
  /** Byte at which the first row starts. */
  readonly offset: number;
  readonly rows: number;
  readonly dim: number;
  readonly dtype: Dtype;
}

/** What kernels take as rows: one matrix, or several of the same width that count as one, in order. */
export type Rows = Matrix | FileMatrix | DeviceMatrix | readonly (Matrix | FileMatrix)[];

const DTYPES: readonly Dtype[] = ['float32', 'float16', 'bfloat16'];
/** Indices of rows are int32 everywhere. */
const MOST_ROWS = 2 ** 31 - 1;
const WIDEST = 65_536;

/** Rows after their check, as the native core takes them. */
export interface CheckedRows {
  readonly native: NativeRows;
  readonly rows: number;
  readonly dim: number;
}

/**
 * Checks rows and converts them for the native core. File-backed rows are not opened here.
 *
 * @throws TypeError, RangeError, or CidError DISPOSED for a device matrix after its `dispose()`.
 */
export function checkRows(name: string, value: Rows): CheckedRows {
  if (value instanceof DeviceMatrix) {
    return { native: value.native, rows: value.rows, dim: value.dim };
  }
  if (!Array.isArray(value)) {
    const chunk = checkChunk(name, value as Matrix | FileMatrix);
    return { native: [chunk], rows: chunk.rows, dim: chunk.dim };
  }
  if (value.length === 0) failRange('at least one matrix', name, value);
  let rows = 0;
  const native = value.map((item: Matrix | FileMatrix, index) => {
    const chunk = checkChunk(`${name}[${index}]`, item);
    rows += chunk.rows;
    return chunk;
  });
  const { dim } = native[0]!;
  for (const [index, chunk] of native.entries()) {
    if (chunk.dim !== dim) failRange(`${dim}, as in ${name}[0],`, `${name}[${index}].dim`, chunk.dim);
  }
  if (rows > MOST_ROWS) failRange(`at most ${MOST_ROWS} rows in all`, name, rows);
  return { native, rows, dim };
}

function checkChunk(name: string, value: Matrix | FileMatrix): NativeMatrix | NativeFileMatrix {
  expectObject(name, value);
  const rows = expectInteger(`${name}.rows`, value.rows, 0, MOST_ROWS);
  const dim = expectInteger(`${name}.dim`, value.dim, 1, WIDEST);
  if ('path' in value) {
    return {
      path: expectString(`${name}.path`, value.path),
      offset: expectInteger(`${name}.offset`, value.offset),
      dtype: expectOneOf(`${name}.dtype`, value.dtype, DTYPES),
      rows,
      dim,
    };
  }
  const { data } = value;
  const wide = data instanceof Float32Array;
  if (!wide && !(data instanceof Uint16Array))
    failType('a Float32Array or Uint16Array', `${name}.data`, data);
  const dtype = expectOneOf(`${name}.dtype`, value.dtype ?? (wide ? 'float32' : 'float16'), DTYPES);
  if ((dtype === 'float32') !== wide) {
    failType(dtype === 'float32' ? 'a Float32Array' : 'a Uint16Array', `${name}.data of ${dtype}`, data);
  }
  if (data.length !== rows * dim) failRange(`${rows} × ${dim} elements`, `${name}.data`, data);
  return { data, dtype, rows, dim };
}

/**
 * Rows that live on a device, made by {@link upload}: for data that several calls use. Dispose of it when it is done
 * with; a garbage-collected one is released too, but nobody knows when.
 */
export class DeviceMatrix implements Disposable {
  /** `'cpu'` or `'cuda:N'`. */
  readonly device: Device;
  readonly dtype: Dtype;
  readonly rows: number;
  readonly dim: number;
  /** Bytes on the device. */
  readonly bytes: number;
  #native: NativeDeviceMatrix | undefined;

  /** Private to the package: see {@link upload}. */
  constructor(native: NativeDeviceMatrix) {
    this.#native = native;
    this.device = native.device as Device;
    this.dtype = native.dtype;
    this.rows = native.rows;
    this.dim = native.dim;
    this.bytes = native.bytes;
  }

  /** The core's handle. Private to the package. @throws CidError DISPOSED. */
  get native(): NativeDeviceMatrix {
    if (this.#native === undefined) throw new CidError('DISPOSED', 'This DeviceMatrix has been disposed of');
    return this.#native;
  }

  /** A copy of the rows on the host. */
  async download(): Promise<Matrix> {
    const { native, rows, dim, dtype } = this;
    const data = await runNative({ device: this.device }, 0, (addon, context) =>
      addon.download(context, native),
    );
    return { data, rows, dim, dtype };
  }

  /** Releases the memory on the device; again does nothing. */
  dispose(): void {
    const native = this.#native;
    this.#native = undefined;
    if (native !== undefined) loadAddon().release(native);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Copies rows to a device, chunks and files into one matrix of one element type.
 *
 * @example
 * using images = await upload({ data, rows: 10_000, dim: 512 });
 * const { labels } = await kmeans(images, { clusters: 100 });
 */
export async function upload(
  rows: Matrix | FileMatrix | readonly (Matrix | FileMatrix)[],
  options: KernelOptions = {},
): Promise<DeviceMatrix> {
  expectOptions('options', options, []);
  const { native } = checkRows('rows', rows);
  return new DeviceMatrix(await runNative(options, 0, (addon, context) => addon.upload(context, native)));
}

/** Device a call should use: the one its rows already live on, unless another is named. */
export function deviceOf<T extends KernelOptions>(options: T, ...inputs: readonly Rows[]): T {
  const resident = inputs.find((rows) => rows instanceof DeviceMatrix);
  if (resident === undefined) return options;
  const { device = 'auto' } = options;
  if (device === 'auto') return { ...options, device: resident.device };
  if (device !== resident.device && !(device === 'cuda' && resident.device.startsWith('cuda'))) {
    failRange(`'${resident.device}', where the rows are,`, 'device', device);
  }
  return { ...options, device: resident.device };
}
