import { join } from 'node:path';
import { expectRows, gatherRows, selectRows } from '../data/gather.ts';
import { writeNpy } from '../data/npy.ts';
import type { Store } from '../data/store.ts';
import { type KmeansResult, kmeans } from '../kernels/kmeans.ts';
import type { Rows } from '../kernels/rows.ts';
import { CidError } from '../native/errors.ts';
import { writeJson } from '../run/files.ts';
import { hashFile } from '../run/hash.ts';
import { defined, type StageSettings } from '../run/settings.ts';
import { runStage, type StageResult } from '../run/stage.ts';
import { identifyStore } from './inputs.ts';
import { expectItemsOf, readKept } from './items.ts';
import { kernelOptions } from './stage.ts';

export interface ClusterStageOptions extends StageSettings {
  /** Folder of an embedding store, ours or clip-retrieval's. */
  readonly embeddings: string;
  /** A `kept.jsonl`: the rows to cluster. Defaults to all. */
  readonly kept?: string | undefined;
  /** Centres, 1 to the number of rows. */
  readonly clusters: number;
  /** Most iterations. Defaults to 50. */
  readonly iterations?: number | undefined;
  /** Ends when at most this share of the rows changes its centre. Defaults to 0.001. */
  readonly tolerance?: number | undefined;
  /** Defaults to 'k-means++'. */
  readonly init?: 'k-means++' | 'k-means||' | 'random' | undefined;
  /** Starts, of which the one of smallest inertia counts. Defaults to 1. */
  readonly nInit?: number | undefined;
  /** Defaults to 0. */
  readonly seed?: number | undefined;
}

/** `report.json` of the stage. */
export interface ClusterReport {
  readonly rows: number;
  readonly dim: number;
  readonly clusters: number;
  readonly iterations: number;
  /** Σ (1 − cosine to the centre) over the rows. */
  readonly inertia: number;
  /** Mean cosine between a row and its centre. */
  readonly meanCosine: number;
  /** Rows of a centre: smallest, median, largest. */
  readonly sizes: { readonly min: number; readonly median: number; readonly max: number };
  /** Centres by number of rows, ascending: how many have how many. */
  readonly histogram: readonly { readonly size: number; readonly clusters: number }[];
}

const OUTPUTS = ['centroids.npy', 'labels.npy', 'report.json'] as const;

/**
 * Spherical k-means over the kept rows of an embedding store. Writes `centroids.npy` (float32 [K, D], unit rows), `labels.npy`
 * (int32, centre of each kept row in the order of `kept.jsonl`) and `report.json` ({@link ClusterReport}).
 */
export async function clusterStage(options: ClusterStageOptions): Promise<StageResult> {
  const { clusters, iterations = 50, tolerance = 0.001, init = 'k-means++', nInit = 1, seed = 0 } = options;
  const store = await identifyStore(options.embeddings);
  const kept = options.kept;
  let chosen: ChosenRows | undefined;
  return runStage({
    name: 'cluster',
    folder: options.folder,
    inputs: { embeddings: store.hash, ...(kept === undefined ? {} : { kept: await hashFile(kept) }) },
    options: { clusters, iterations, tolerance, init, nInit, seed },
    owns: OUTPUTS,
    ...defined({ existing: options.existing, log: options.log }),
    check: async () => {
      chosen = await chooseRows(store, kept);
      const { length } = chosen.rows;
      if (clusters > length) {
        throw new CidError(
          'INVALID_CONFIG',
          `Expected at most ${length}, the number of ${kept === undefined ? 'embeddings' : 'kept images'}, ` +
            `for cluster.clusters but received ${clusters}`,
        );
      }
    },
    work: async () => {
      const { rows, keys } = chosen!;
      const matrix = await openRows(store, rows, (row) => keys?.[row] ?? `row ${rows[row]}`, options);
      const result = await kmeans(matrix, {
        clusters,
        iterations,
        tolerance,
        init,
        nInit,
        seed,
        spherical: true,
        ...kernelOptions(options, 'cluster', 'iterations'),
      });
      const report = describe(result, rows.length);
      // It may end long before the most iterations, of which the progress was a share.
      options.onProgress?.({
        label: 'cluster',
        done: report.iterations,
        total: report.iterations,
        unit: 'iterations',
      });
      await writeNpy(join(options.folder, 'centroids.npy'), result.centroids, [clusters, result.dim]);
      await writeNpy(join(options.folder, 'labels.npy'), result.labels, [rows.length]);
      await writeJson(join(options.folder, 'report.json'), report);
      const { inertia, meanCosine } = report;
      return {
        outputs: OUTPUTS,
        summary: { rows: rows.length, clusters, iterations: report.iterations, inertia, meanCosine },
      };
    },
  });
}

/** Into memory; with a limit to it they stay in their files, where k-means reads them again and again. */
async function openRows(
  store: Store,
  rows: Int32Array,
  name: (row: number) => string,
  { maxMemory }: StageSettings,
): Promise<Rows> {
  const ascending = rows.every((row, at) => at === 0 || row > rows[at - 1]!);
  if (maxMemory === undefined || rows.length === 0 || !ascending) return gatherRows(store.image, rows, name);
  await expectRows(store.image, rows, name);
  return selectRows(store.image, rows);
}

interface ChosenRows {
  readonly rows: Int32Array;
  readonly keys?: readonly string[];
}

async function chooseRows(store: Store, kept: string | undefined): Promise<ChosenRows> {
  if (kept === undefined) return { rows: Int32Array.from({ length: store.rows }, (_, row) => row) };
  await expectItemsOf(store, kept);
  const rows: number[] = [];
  const keys: string[] = [];
  for await (const item of readKept(kept)) {
    rows.push(item.row);
    keys.push(item.key ?? `row ${item.row}`);
  }
  return { rows: Int32Array.from(rows), keys };
}

function describe(result: KmeansResult, rows: number): ClusterReport {
  const sizes = Int32Array.from(result.counts).sort();
  const histogram = new Map<number, number>();
  for (const size of sizes) histogram.set(size, (histogram.get(size) ?? 0) + 1);
  const inertia = result.inertia[0]!;
  return {
    rows,
    dim: result.dim,
    clusters: result.clusters,
    iterations: result.iterations[0]!,
    inertia,
    meanCosine: 1 - inertia / rows,
    sizes: { min: sizes[0]!, median: sizes[Math.floor((sizes.length - 1) / 2)]!, max: sizes.at(-1)! },
    histogram: [...histogram].map(([size, clusters]) => ({ size, clusters })),
  };
}
