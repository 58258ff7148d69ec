import { expectOneOf } from './check.ts';

/**
 * Instruction sets of the CPU's kernels, each with what those before it have: x86-64 from `'plain'` to `'amx'`, AArch64 `'plain'`, `'neon'` and
 * `'neon-dotprod'`. `'avx2-vnni'` is AVX2 with AVX-VNNI, `'avx512-vnni'` AVX-512 with VNNI, and bfloat16 where that is fast.
 */
export const INSTRUCTIONS = [
  'plain',
  'avx2',
  'avx2-vnni',
  'avx512',
  'avx512-vnni',
  'amx',
  'neon',
  'neon-dotprod',
] as const;

/** One of {@link INSTRUCTIONS}. */
export type Instructions = (typeof INSTRUCTIONS)[number];

/** Environment variable that names a set for the process. */
const VARIABLE = 'CLIP_CID_SIMD';

/** Refuses a name in the environment that the native core wouldn't know, and would pass over. */
export function checkInstructionsVariable(): void {
  const name = process.env[VARIABLE];
  if (name !== undefined && name !== '') expectOneOf(VARIABLE, name, INSTRUCTIONS);
}
