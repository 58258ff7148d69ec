import { selectRows } from '../data/gather.ts';
import { readNpy } from '../data/npy.ts';
import type { Store } from '../data/store.ts';
import type { BalanceOptions } from '../kernels/balance.ts';
import { balanceAgainst, type IncrementalResult } from '../kernels/incremental.ts';
import { CidError } from '../native/errors.ts';
import { defined, type StageSettings } from '../run/settings.ts';
import { toTheEnd } from './stage.ts';

/**
 * Balances a store against the rows of an earlier one that stayed there.
 *
 * @param keep The earlier balance's `keep.npy`; all rows when undefined.
 * @returns The result, its `duplicateOf` and `stored` counted in the earlier store's rows.
 */
export async function compareAgainst(
  store: Store,
  earlier: Store,
  keep: string | undefined,
  options: Pick<BalanceOptions, 'keep' | 'maxDiameter'> & { readonly threshold: number },
  settings: StageSettings,
): Promise<IncrementalResult & { readonly stored: number }> {
  if (earlier.dim !== store.dim) {
    throw new CidError(
      'INVALID_DATA',
      `${store.folder} has embeddings of ${store.dim} dimensions and ${earlier.folder} of ${earlier.dim}: ` +
        'they were made by different models',
    );
  }
  if (earlier.model !== undefined && store.model !== undefined && earlier.model !== store.model) {
    throw new CidError(
      'INVALID_DATA',
      `The embeddings in ${store.folder} and in ${earlier.folder} were made by different models`,
    );
  }
  const rows = keptRows(earlier, keep === undefined ? undefined : await readKeep(keep, earlier));
  const chunks = selectRows(earlier.image, rows);
  const base = chunks.length > 0 ? chunks : [{ data: new Float32Array(0), rows: 0, dim: store.dim }];
  const result = await toTheEnd(settings, 'balance', (kernel) =>
    balanceAgainst(store.image, base, {
      threshold: options.threshold,
      ...defined({ keep: options.keep, maxDiameter: options.maxDiameter }),
      ...kernel,
    }),
  );
  const duplicateOf = result.duplicateOf.map((row) => (row === -1 ? -1 : rows[row]!));
  return { ...result, duplicateOf, stored: rows.length };
}

async function readKeep(path: string, store: Store): Promise<Uint8Array> {
  const { data, shape } = await readNpy(path);
  if (!(data instanceof Uint8Array) || shape.length !== 1 || shape[0] !== store.rows) {
    throw new CidError(
      'INVALID_DATA',
      `Expected uint8 [${store.rows}], one for each embedding in ${store.folder}, in ${path}`,
    );
  }
  return data;
}

function keptRows(store: Store, keep: Uint8Array | undefined): Int32Array {
  const all = Int32Array.from({ length: store.rows }, (_, row) => row);
  return keep === undefined ? all : all.filter((row) => keep[row] === 1);
}
