import type { Graph } from '../graph.ts';
import { startsOf } from '../parameters.ts';
import type { InputDims } from '../static.ts';
import type { Draft } from './draft.ts';
import type { PhaseDraft } from './memory.ts';
import { type DeviceTraits, planProgram } from './program.ts';

/** For plans that are only looked at. */
export const NO_DEVICE: DeviceTraits = {
  operations: [],
  threads: 1,
  parts: true,
  mostLines: Number.POSITIVE_INFINITY,
  packedFloats: (n, k, precision) => (precision === 'bf16' ? Math.ceil((n * k) / 2) : n * k),
};

/** Floating-point operations of a draft: two a product of elements, and about one an element of an elementwise step. */
export function operationsOf(draft: Draft): number {
  return draft.kind === 'fixed' ? draft.flops : productsOf(draft) + draft.count * draft.nodes.length;
}

/** Of products of matrices, convolutions and attention alone: what a model's cost is told in. */
export function productsOf(draft: Draft): number {
  if (draft.kind === 'fixed') return /^(conv|attention)/.test(draft.op) ? draft.flops : 0;
  const { head } = draft;
  return head ? 2 * head.batches[0] * head.batches[1] * head.m * head.n * head.k : 0;
}

/** Over all drafts, in all parts. */
export function total(phases: readonly PhaseDraft[], of: (draft: Draft) => number): number {
  return phases.reduce((sum, { drafts, parts }) => sum + parts * drafts.reduce((a, b) => a + of(b), 0), 0);
}

/** Floating-point operations of the products of a forward pass. Training takes three times as many. */
export function forwardProducts(graph: Graph, dims: InputDims): number {
  const starts = startsOf(graph.parameters);
  return total(planProgram(graph, { dims, training: false, starts, traits: NO_DEVICE }).phases, productsOf);
}
