import { expectOneOf } from './check.ts';

/**
 * Mainloops of the CUDA kernels that multiply: `'sm_80'` for all GPUs, `'sm_90'` for those of compute capability 9.0, which take it unless the
 * environment variable `CLIP_CID_CUDA_MAINLOOP` says `'sm_80'`. Results are the same; with both the two can be compared on one machine.
 */
const MAINLOOPS = ['sm_80', 'sm_90'] as const;

const VARIABLE = 'CLIP_CID_CUDA_MAINLOOP';

/** Refuses a name in the environment that the native core wouldn't know, and would pass over. */
export function checkMainloopVariable(): void {
  const name = process.env[VARIABLE];
  if (name !== undefined && name !== '') expectOneOf(VARIABLE, name, MAINLOOPS);
}
