import { expect, it } from 'vitest';
import { distill } from '../../src/cid/distill.ts';
import { pretrain } from '../../src/cid/pretrain.ts';
import { align } from '../../src/cskd/align.ts';
import { trainMutual, trainScorer } from '../../src/cskd/train.ts';
import { openDataset } from '../../src/data/dataset.ts';
import { evaluate } from '../../src/eval/evaluate.ts';
import { balance } from '../../src/kernels/balance.ts';

const rows = { data: new Float32Array(8), rows: 2, dim: 4 };

// Without types nothing else would notice, and the default would be taken.
it.each<[string, (options: never) => Promise<unknown>, string]>([
  ['balance', (options) => balance(rows, options), 'treshold (did you mean threshold?)'],
  ['distill', distill, 'temprature (did you mean temperature?)'],
  ['pretrain', pretrain, 'vocabularySize (did you mean vocabSize?)'],
  ['align', align, 'epoch (did you mean epochs?)'],
  ['trainScorer', trainScorer, 'maxDeviations (did you mean maxDeviation?)'],
  ['trainMutual', trainMutual, 'labeled (did you mean labelled?)'],
  ['evaluate', evaluate, 'label (did you mean labels?)'],
  ['openDataset', (options) => openDataset('x', options), 'captionsField (did you mean captionField?)'],
])(
  '%s names an option that it does not know, and the one that may have been meant',
  async (_name, call, text) => {
    const [key] = text.split(' ') as [string];
    const message = `received ${text.replace(key, JSON.stringify(key))}`;
    await expect(call({ [key]: 1 } as never)).rejects.toThrow(message);
  },
);
