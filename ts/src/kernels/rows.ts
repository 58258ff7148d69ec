import type { NativeDtype } from '../native/addon.ts';

/** Element types of rows. `float16` and `bfloat16` are raw bits in a Uint16Array. */
export type Dtype = NativeDtype;

/** Rows in memory: row-major, flat. */
export interface Matrix {
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
