import { Command } from 'commander';
import { expect, it } from 'vitest';
import { type Remembered, recalled, tellRemembered } from '../../src/cli/remembered.ts';

const command = new Command('distill').option('--epochs <n>').option('--batch-size <n>').option('--clip <x>');
const before = {
  data: '/images',
  seed: 3,
  distill: { epochs: 5, batchSize: 256, weights: { clip: 0.5 }, student: { base: 'micro-64' } },
  balance: { threshold: 0.9 },
};
const defaults = { seed: 0, distill: { batchSize: 256 } };

function told(given: readonly unknown[], changes: Partial<Remembered> = {}): string[] {
  let lines: readonly string[] = [];
  const tell = (options: readonly string[]) => {
    lines = options;
  };
  tellRemembered({ before, own: ['distill', 'seed'], command, tell, ...changes }, given, defaults);
  return [...lines];
}

it('names what is taken over: as flags where there are some, by field where there are none', () => {
  expect(told([])).toEqual([
    'seed 3',
    '--epochs 5',
    'distill.weights.clip 0.5',
    'distill.student.base micro-64',
  ]);
});

it('leaves out what flags or a file say, null and a whole section included, and what is as by default', () => {
  expect(told([{ distill: { epochs: null } }, { seed: 0, distill: { student: 'mini-64' } }])).toEqual([
    'distill.weights.clip 0.5',
  ]);
  expect(told([], { own: ['cluster'] })).toEqual([]);
  expect(told([], { before: undefined })).toEqual([]);
});

it('a field that is called like a flag of another meaning is no such flag', () => {
  const aligned = { align: { clip: 2 } };
  expect(told([], { before: aligned, own: ['align'] })).toEqual(['align.clip 2']);
});

it('what is to be forgotten is gone, and nothing else', () => {
  const forget = { before, own: ['distill', 'balance.threshold'], forget: true, command, tell: () => {} };
  expect(recalled(forget)).toEqual({ data: '/images', seed: 3, balance: {} });
  expect(recalled({ ...forget, forget: false })).toEqual(before);
  expect(told([], { forget: true })).toEqual([]);
});

it('names values as a shell takes them, templates one by one', () => {
  const eval_ = { eval: { templates: ['a {}', "b's, {}"] }, encoder: { providers: ['cuda', 'cpu'] } };
  expect(told([], { before: eval_, own: ['eval', 'encoder'] })).toEqual([
    "--template 'a {}' --template 'b'\\''s, {}'",
    '--providers cuda,cpu',
  ]);
});
