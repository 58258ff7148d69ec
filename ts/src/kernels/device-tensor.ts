/// <reference lib="esnext.disposable" preserve="true" />
import type { NativeDeviceMatrix, NativeEngine } from '../native/addon.ts';
import { runNative } from '../native/context.ts';
import type { Device } from '../native/devices.ts';
import { CidError } from '../native/errors.ts';
import { loadAddon } from '../native/loader.ts';

/** What tensors over the same memory share. */
interface Memory {
  native: NativeDeviceMatrix | undefined;
  readonly engine: NativeEngine;
  /** Of all of it. */
  readonly rows: number;
}

/**
 * A matrix of float32 that an executor has on its device: an output of a program, or its gradient, which never was on the host. What is
 * done with it is done in the order of the executor's other work. Private to the package.
 */
export class DeviceTensor implements Disposable {
  readonly type = 'float32';
  /** [rows, columns]. */
  readonly dims: readonly [number, number];
  /** `'cpu'` or `'cuda:N'`. */
  readonly device: Device;
  /** The first of its rows among those of the memory that it lies in. */
  readonly row: number;
  readonly #memory: Memory;

  private constructor(memory: Memory, device: Device, row: number, dims: readonly [number, number]) {
    this.#memory = memory;
    this.device = device;
    this.row = row;
    this.dims = dims;
  }

  static of(native: NativeDeviceMatrix, engine: NativeEngine): DeviceTensor {
    const { rows, dim, device } = native;
    return new DeviceTensor({ native, engine, rows }, device as Device, 0, [rows, dim]);
  }

  /** The core's handle, of all rows of the memory. @throws CidError DISPOSED. */
  get native(): NativeDeviceMatrix {
    const { native } = this.#memory;
    if (native === undefined) throw new CidError('DISPOSED', 'This DeviceTensor has been disposed of');
    return native;
  }

  get engine(): NativeEngine {
    return this.#memory.engine;
  }

  /** Whether its rows are all that the memory has. */
  get whole(): boolean {
    return this.row === 0 && this.dims[0] === this.#memory.rows;
  }

  /** Rows `from` to `to`, in the same memory. */
  rows(from: number, to: number): DeviceTensor {
    const [rows, columns] = this.dims;
    if (from === 0 && to === rows) return this;
    return new DeviceTensor(this.#memory, this.device, this.row + from, [to - from, columns]);
  }

  /** A copy on the host, once what makes it is done. */
  async read(): Promise<Float32Array> {
    const { native, engine, device, row } = this;
    const all = await runNative({ device }, 0, (addon, context) => addon.engineRead(context, engine, native));
    const [rows, columns] = this.dims;
    return all.subarray(row * columns, (row + rows) * columns);
  }

  /** Gives up the memory, of all tensors in it, when the work on it is done; again does nothing. */
  dispose(): void {
    const { native } = this.#memory;
    this.#memory.native = undefined;
    if (native !== undefined) loadAddon().release(native);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
