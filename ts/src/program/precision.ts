import { expectOneOf } from '../native/check.ts';
import { devices } from '../native/devices.ts';
import { CidError } from '../native/errors.ts';

/**
 * What the large products of training are computed in: 'float32', or 'bf16', operands rounded to bfloat16 as they are read and sums in
 * float32. All else is float32 either way: what is kept of the activations, norms, softmax, gradients, parameters and the optimiser, and
 * outputs that are not for training; on the CPU attention and convolutions too, whose products a GPU computes as the others.
 */
export type Precision = 'float32' | 'bf16';

/** In the order of their numbers in the native core (native/include/clipcid/ops.h). */
export const PRECISIONS: readonly Precision[] = ['float32', 'bf16'];

/** A product's sides are at least this long where 'bf16' is to pay. */
const LEAST_SIDE = 32;

/** What a product of [m, k] and [k, n] is computed in where `wanted` is asked for. */
export function precisionOf(wanted: Precision, m: number, n: number, k: number): Precision {
  return Math.min(m, n, k) >= LEAST_SIDE ? wanted : 'float32';
}

/**
 * Checks a precision, and that the device has the instructions for it, as every GPU has.
 *
 * @param device 'cpu', which is the default, or one that is chosen or asked for.
 * @throws CidError DEVICE_UNAVAILABLE where it has not.
 */
export function expectPrecision(precision: unknown, device = 'cpu'): Precision {
  const chosen = expectOneOf('precision', precision, PRECISIONS);
  const cpu = chosen === 'bf16' && !device.startsWith('cuda') ? devices().devices[0]! : undefined;
  if (cpu === undefined || cpu.bfloat16) return chosen;
  throw new CidError(
    'DEVICE_UNAVAILABLE',
    `Expected a processor with dot products of bfloat16 (AVX512_BF16 or AMX, or ARM's BFDOT) for precision 'bf16' but received ${cpu.name}, ` +
      `whose instruction set in use is '${cpu.architecture}'; precision 'float32' runs on any`,
  );
}
