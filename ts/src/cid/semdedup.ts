import type { Store } from '../data/store.ts';
import type { BalanceResult } from '../kernels/balance.ts';
import { semdedup } from '../kernels/semdedup.ts';
import { CidError } from '../native/errors.ts';
import type { StageSettings } from '../run/settings.ts';
import { toTheEnd } from './stage.ts';

export interface SemdedupStageOptions {
  /** Cosine. */
  readonly threshold: number;
  readonly clusters: number;
  readonly order: 'hard' | 'easy' | 'random';
  readonly seed: number;
}

/** Fails with INVALID_CONFIG for more clusters than a store has rows. */
export function expectClusters(store: Store, clusters: number): void {
  if (clusters > store.rows) {
    throw new CidError(
      'INVALID_CONFIG',
      `Expected at most ${store.rows}, the number of embeddings, for balance.semdedup but received ${clusters}`,
    );
  }
}

/**
 * SemDeDup over a store, as the result of a balance: a group is an image that stays and those that were dropped for it, directly
 * or over others that were dropped too; `centrality` is the cosine of an image to the one it was dropped for.
 */
export async function compareWithinClusters(
  store: Store,
  options: SemdedupStageOptions,
  settings: StageSettings,
): Promise<BalanceResult> {
  const found = await toTheEnd(settings, 'semdedup', (kernel) =>
    semdedup(store.image, { ...options, ...kernel }),
  );
  const { keep, duplicateOf, similarity } = found;
  return {
    labels: groupsOf(duplicateOf),
    keep,
    centrality: similarity.map((cosine, row) => (keep[row] === 1 ? 1 : cosine)),
    groups: found.kept,
    edges: found.pairs,
    faults: new Int32Array(0),
    threshold: found.threshold,
    plan: '',
  };
}

/** Smallest row of each tree that the rows make with those they were dropped for. */
function groupsOf(duplicateOf: Int32Array): Int32Array {
  const next = duplicateOf.slice();
  const top = (row: number): number => {
    let root = row;
    while (next[root] !== -1) root = next[root]!;
    // Chains may be long: those that come later find the top at once.
    for (let at = row; at !== root; ) {
      const above = next[at]!;
      next[at] = root;
      at = above;
    }
    return root;
  };
  const smallest = new Map<number, number>();
  return duplicateOf.map((_, row) => {
    const root = top(row);
    // Rows come in ascending order.
    if (!smallest.has(root)) smallest.set(root, row);
    return smallest.get(root)!;
  });
}
