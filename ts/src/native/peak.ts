import { type KernelOptions, runNative } from './context.ts';

/** What a processor can do at most, in billions of operations a second; a multiply-add counts as two. */
export interface Peak {
  readonly float32: number;
  /** That of float32 where the machine has nothing faster for bfloat16. */
  readonly bfloat16: number;
  /** That of bfloat16 where the machine has nothing faster for int8. */
  readonly int8: number;
}

/**
 * Measures the CPU: multiply-adds that load nothing, by the instructions that the filters of each precision use, on all threads of the call at
 * once, for some 30 ms a precision. What else runs on the machine lowers it.
 */
export function peak(options: Pick<KernelOptions, 'threads' | 'signal'> = {}): Promise<Peak> {
  return runNative({ ...options, device: 'cpu' }, 0, (addon, context) => addon.peak(context));
}
