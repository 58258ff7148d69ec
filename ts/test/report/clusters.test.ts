import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeNpy } from '../../src/data/npy.ts';
import { sampleClusters } from '../../src/report/clusters.ts';
import { writeReport } from '../../src/report/report.ts';
import { makeRun } from './run-folder.ts';

describe('sampleClusters', () => {
  const root = mkdtempSync(join(tmpdir(), 'clusters-'));

  beforeAll(async () => {
    await makeRun(root);
    for (const folder of ['img_emb', 'metadata'])
      mkdirSync(join(root, 'embeddings', folder), { recursive: true });
    // Six rows of which the second was not kept; two centres, of which the second has the larger cluster.
    const rows = [
      [3, 0],
      [0, 0.1],
      [2, 2],
      [0, 5],
      [1, 3],
      [1, 0.1],
    ];
    await writeNpy(join(root, 'embeddings/img_emb/img_emb_0.npy'), Float32Array.from(rows.flat()), [6, 2]);
    const lines = (items: object[]) => items.map((item) => `${JSON.stringify(item)}\n`).join('');
    const items = rows.map((_, row) => ({ key: `k${row}`, image: join(root, 'images', `${row}.png`) }));
    writeFileSync(join(root, 'embeddings/metadata/metadata_0.jsonl'), lines(items));
    const kept = [0, 2, 3, 4, 5];
    writeFileSync(
      join(root, 'balance/kept.jsonl'),
      lines(kept.map((row) => ({ ...items[row]!, row, group: row, groupSize: 1 }))),
    );
    await writeNpy(join(root, 'cluster/centroids.npy'), Float32Array.of(1, 0, 0, 1), [2, 2]);
    await writeNpy(join(root, 'cluster/labels.npy'), Int32Array.of(0, 1, 1, 1, 0), [5]);
  });
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  it('gives the largest first, with the images nearest to each centre first', async () => {
    const samples = await sampleClusters(root);
    expect(samples.map(({ centre, size, members }) => [centre, size, members.map(({ key }) => key)])).toEqual(
      [
        [1, 3, ['k3', 'k4', 'k2']],
        [0, 2, ['k0', 'k5']],
      ],
    );
    expect(samples[0]!.members.map(({ cosine }) => cosine.toFixed(4))).toEqual([
      '1.0000',
      '0.9487',
      '0.7071',
    ]);
    expect(samples[0]!.members[0]!.image).toBe(join(root, 'images', '3.png'));
  });

  it('is in the report', async () => {
    const page = readFileSync(await writeReport(root), 'utf8');
    expect(page).toContain('centre 1</span>');
    expect(page).toContain('>0.949</li>');
  });

  it('has nothing to show for a run that did not cluster', async () => {
    expect(await sampleClusters(join(root, 'images'))).toEqual([]);
  });
});
