import { OWN } from '../emitter.ts';
import type { GraphNode } from '../graph.ts';
import { activationOperators } from './activation.ts';
import { attentionOperators } from './attention.ts';
import { convolutionOperators } from './convolution.ts';
import { normalizationOperators } from './normalization.ts';
import { rowOperators } from './rows.ts';
import { sumOperators } from './sum.ts';
import type { FusedOperator, FusedOperators } from './types.ts';

const FUSED: FusedOperators = {
  ...activationOperators,
  ...attentionOperators,
  ...convolutionOperators,
  ...normalizationOperators,
  ...rowOperators,
  ...sumOperators,
};

/** All there is to know of a node of our own domain; undefined for others. */
export function fusedOperator({ domain, op }: Pick<GraphNode, 'domain' | 'op'>): FusedOperator | undefined {
  return domain === OWN ? FUSED[op] : undefined;
}
