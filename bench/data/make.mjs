// Writes a benchmark's rows as an embedding store that every stage opens: img_emb/img_emb_N.npy, float32. See RowSource in ts/src/bench/data.ts.
//
//   npm run build:all && node bench/data/make.mjs --rows 1000000 --dim 512 --out /tmp/million
//   npx clip-cid balance --embeddings /tmp/million --threshold 0.9 --out /tmp/million-balance
import { parseArgs } from 'node:util';
import { RowSource, writeRows } from '../../dist/bench/data.js';
import { showProgress } from '../../dist/run/progress.js';

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '100000' },
    dim: { type: 'string', default: '512' },
    spectrum: { type: 'string', default: 'decaying' },
    seed: { type: 'string', default: '0' },
    'shard-size': { type: 'string', default: '100000' },
    out: { type: 'string' },
  },
});
if (values.out === undefined) {
  process.stderr.write('error: Expected a folder for --out but received nothing\n');
  process.exitCode = 2;
} else {
  const source = new RowSource({
    dim: Number(values.dim),
    spectrum: values.spectrum,
    seed: Number(values.seed),
  });
  const display = showProgress();
  await writeRows(values.out, source, Number(values.rows), {
    shardSize: Number(values['shard-size']),
    onProgress: ({ done, total }) => display.update({ label: 'data', done, total, unit: 'rows' }),
  });
  display.end();
}
