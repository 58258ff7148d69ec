import { CidError } from '../native/errors.ts';

/** A batch of one has no unbiased variance. */
export function unbiasedFactor(count: number): number {
  if (count < 2)
    throw new CidError('INVALID_DATA', 'Batch normalisation needs more than one value a channel to train');
  return count / (count - 1);
}
