import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readKept } from '../cid/items.ts';
import { gatherRows } from '../data/gather.ts';
import { readNpy } from '../data/npy.ts';
import { openStore } from '../data/store.ts';
import { unitRows } from '../eval/vectors.ts';

/** A cluster with the images nearest to its centre. */
export interface ClusterSample {
  readonly centre: number;
  readonly size: number;
  readonly members: readonly {
    readonly key: string;
    readonly image: string | undefined;
    readonly cosine: number;
  }[];
}

const CLUSTERS = 12;
const MEMBERS = 14;
/** Rows of a cluster that are looked at; a larger one is sampled evenly. */
const MOST_ROWS = 1000;

/** Clusters evenly from the largest to the smallest of a run that balanced and clustered; none where something is missing. */
export async function sampleClusters(folder: string): Promise<ClusterSample[]> {
  const path = (...parts: string[]) => join(folder, ...parts);
  const needed = [
    path('cluster', 'centroids.npy'),
    path('cluster', 'labels.npy'),
    path('balance', 'kept.jsonl'),
    path('embeddings'),
  ];
  if (!needed.every((file) => existsSync(file))) return [];
  const centroids = await readNpy(needed[0]!);
  const { data } = await readNpy(needed[1]!);
  const labels = data as Int32Array;
  const [clusters, dim] = centroids.shape as [number, number];
  const centres = unitRows({ data: centroids.data as Float32Array, rows: clusters, dim });

  const members: number[][] = Array.from({ length: clusters }, () => []);
  labels.forEach((label, i) => {
    members[label]!.push(i);
  });
  const order = members.map((_, centre) => centre).filter((centre) => members[centre]!.length > 0);
  order.sort((a, b) => members[b]!.length - members[a]!.length || a - b);
  const count = Math.min(CLUSTERS, order.length);
  const chosen = Array.from({ length: count }, (_, i) => order[Math.floor((i * order.length) / count)]!);

  const wanted = new Map<number, { row: number; key: string; image: string | undefined }>();
  for (const centre of chosen) for (const i of evenly(members[centre]!)) wanted.set(i, empty);
  let i = 0;
  for await (const { row, key, image } of readKept(needed[2]!)) {
    if (wanted.has(i)) wanted.set(i, { row, key: key ?? `row ${row}`, image });
    i++;
  }
  const store = await openStore(path('embeddings'), { verify: false });
  const samples: ClusterSample[] = [];
  for (const centre of chosen) {
    const items = evenly(members[centre]!).map((position) => wanted.get(position)!);
    const rows = Int32Array.from(items, ({ row }) => row);
    const unit = unitRows(await gatherRows(store.image, rows, (at) => items[at]!.key));
    const scored = items.map(({ key, image }, at) => {
      let cosine = 0;
      for (let d = 0; d < dim; d++) cosine += unit[at * dim + d]! * centres[centre * dim + d]!;
      return { key, image, cosine };
    });
    scored.sort((a, b) => b.cosine - a.cosine);
    samples.push({ centre, size: members[centre]!.length, members: scored.slice(0, MEMBERS) });
  }
  return samples;
}

const empty = { row: 0, key: '', image: undefined };

function evenly(rows: readonly number[]): readonly number[] {
  if (rows.length <= MOST_ROWS) return rows;
  return Array.from({ length: MOST_ROWS }, (_, i) => rows[Math.floor((i * rows.length) / MOST_ROWS)]!);
}
