import { type KernelOptions, runNative } from './context.ts';

/** What a device reaches at most, in billions of operations a second; a multiply-add counts as two. */
export interface Peak {
  readonly float32: number;
  /** That of float32 where the machine has nothing faster for bfloat16. On a GPU that of float16, which it multiplies as fast. */
  readonly bfloat16: number;
  /** That of bfloat16 where the machine has nothing faster for int8. */
  readonly int8: number;
  /** Of a GPU: billions of bytes a second that a copy reads and writes in its memory. */
  readonly bandwidth?: number;
}

/**
 * Measures a device. The CPU: multiply-adds that load nothing, by the instructions that the filters of each precision use, on all threads of the
 * call at once, for some 30 ms a precision. A GPU: large products by this library's own loops, as large as a quarter of `maxDeviceMemory` allows,
 * and a copy. What else runs on the machine lowers it.
 *
 * @param options `device` defaults to `'cpu'`.
 */
export function peak(
  options: Pick<KernelOptions, 'device' | 'threads' | 'maxDeviceMemory' | 'signal'> = {},
): Promise<Peak> {
  return runNative({ device: 'cpu', ...options }, 0, (addon, context) => addon.peak(context));
}
