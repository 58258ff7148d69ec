import type { ParameterGroup } from '../kernels/adamw.ts';
import { product } from './attributes.ts';
import type { Parameter } from './executor.ts';

export interface Slot {
  readonly name: string;
  readonly dims: readonly number[];
  readonly offset: number;
  readonly length: number;
}

/** Where each parameter lies in the flat buffers: one after the other, without gaps. */
export function layOut(parameters: readonly Pick<Parameter, 'name' | 'dims'>[]): Slot[] {
  let offset = 0;
  return parameters.map(({ name, dims }) => {
    const slot = { name, dims, offset, length: product(dims) };
    offset += slot.length;
    return slot;
  });
}

/** Where each parameter begins. */
export function startsOf(parameters: readonly Pick<Parameter, 'name' | 'dims'>[]): Map<string, number> {
  return new Map(layOut(parameters).map(({ name, offset }) => [name, offset]));
}

/** Runs of parameters with equal factors, in the order of the flat buffers. */
export function groupsOf(parameters: readonly Omit<Parameter, 'value'>[]): Required<ParameterGroup>[] {
  const groups: { length: number; rate: number; decay: number }[] = [];
  for (const parameter of parameters) {
    const length = product(parameter.dims);
    const rate = parameter.trainable ? (parameter.rate ?? 1) : 0;
    const decay = parameter.decay ? 1 : 0;
    const last = groups.at(-1);
    if (last && last.rate === rate && last.decay === decay) last.length += length;
    else groups.push({ length, rate, decay });
  }
  return groups;
}
