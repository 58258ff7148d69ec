import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AutoTokenizer, CLIPTokenizer, env } from '@huggingface/transformers';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SMALLEST_VOCABULARY, tokenizerConfig, trainTokenizer } from '../../src/encoder/bpe.ts';
import { createTokenizer, loadTokenizer } from '../../src/encoder/tokenizer.ts';

const texts = [
  'low low low low low',
  'lower lower',
  'newest newest newest newest newest newest',
  'widest widest widest',
  "It's a red   apple, isn't it? 😀 Ünïcode",
  'a photo of 12 cats',
];

function train(vocabSize = SMALLEST_VOCABULARY + 40, from: readonly string[] = texts) {
  return trainTokenizer(from, { vocabSize });
}
const made = () => createTokenizer(train(), tokenizerConfig(16));
const modelOf = (json: Record<string, unknown>) =>
  json.model as { vocab: Record<string, number>; merges: string[] };

describe('trainTokenizer', () => {
  it('merges the most frequent pair first and breaks ties by the smaller ids', () => {
    const { merges } = modelOf(train());
    // "es" and "st</w>" both occur 9 times, as does "t</w>" after "s"; 'e' has the smallest id of the left tokens.
    expect(merges.slice(0, 3)).toEqual(['e s', 'es t</w>', 'l o']);
  });

  it('gives the start and end token the last two ids', () => {
    const { vocab } = modelOf(train());
    const size = Object.keys(vocab).length;
    expect(new Set(Object.values(vocab)).size).toBe(size);
    expect(vocab['<|startoftext|>']).toBe(size - 2);
    expect(vocab['<|endoftext|>']).toBe(size - 1);
  });

  it('does not depend on the order of the texts', () => {
    expect(train(600, [...texts].reverse())).toEqual(train(600));
  });

  it('stops at the size asked for, or when no pair occurs often enough', () => {
    expect(Object.keys(modelOf(train(520)).vocab)).toHaveLength(520);
    const all = modelOf(trainTokenizer(['ab ab cd'], { vocabSize: 5000 }));
    expect(all.merges).toEqual(['a b</w>']);
    const once = modelOf(trainTokenizer(['ab ab cd'], { vocabSize: 5000, minFrequency: 1 }));
    expect(once.merges).toEqual(['a b</w>', 'c d</w>']);
  });

  it('makes one token of two ways to spell it', () => {
    const words = ['abc abc abc', 'xab xab xab xab', 'bcd bcd bcd bcd', 'zabc zabc'];
    const { vocab, merges } = modelOf(trainTokenizer(words, { vocabSize: 600, minFrequency: 1 }));
    expect(Object.keys(vocab).length).toBeLessThanOrEqual(SMALLEST_VOCABULARY + merges.length);
    expect(Math.max(...Object.values(vocab))).toBe(Object.keys(vocab).length - 1);
  });

  it('refuses a vocabulary smaller than the bytes, and texts without words', () => {
    expect(() => trainTokenizer(texts, { vocabSize: 513 })).toThrow(/at least 514|from 514/);
    expect(() => trainTokenizer(['  ', ''], { vocabSize: 600 })).toThrow(/no words/);
  });
});

describe('encode', () => {
  it('puts the tokens between start and end, and pads with the end token', () => {
    const tokenizer = made();
    const { inputIds, attentionMask, rows, length } = tokenizer.encode(['lowest', ''], 16);
    expect([rows, length]).toEqual([2, 16]);
    expect(inputIds[0]).toBe(tokenizer.startId);
    const end = inputIds.indexOf(tokenizer.endId);
    expect([...inputIds.subarray(end, 16)].every((id) => id === tokenizer.padId)).toBe(true);
    expect(attentionMask.slice(0, 16).reduce((a, b) => a + b)).toBe(end + 1);
    expect([...inputIds.subarray(16, 18)]).toEqual([tokenizer.startId, tokenizer.endId]);
    expect([...attentionMask.subarray(16, 19)]).toEqual([1, 1, 0]);
  });

  it('keeps the end token of a text that is too long', () => {
    const tokenizer = made();
    const { inputIds, attentionMask } = tokenizer.encode(['the quick brown fox jumps'], 5);
    expect(inputIds[0]).toBe(tokenizer.startId);
    expect(inputIds[4]).toBe(tokenizer.endId);
    expect(inputIds.indexOf(tokenizer.endId)).toBe(4);
    expect([...attentionMask]).toEqual([1, 1, 1, 1, 1]);
  });

  it('gives back any text, in lower case and with spaces between its parts', () => {
    const tokenizer = made();
    const letters = (text: string) => text.normalize('NFC').toLowerCase().replace(/\s/gu, '');
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 20 }), (text) => {
        const length = 300;
        const { inputIds, attentionMask } = tokenizer.encode([text], length);
        const used = attentionMask.reduce((a, b) => a + b);
        const decoded = tokenizer.decode([...inputIds.subarray(0, used)]);
        expect(letters(decoded)).toBe(letters(text));
      }),
    );
  });

  it('takes a token of padding that is not the end token', () => {
    const json = train();
    const tokenizer = createTokenizer(json, { ...tokenizerConfig(16), pad_token: '!' });
    expect(tokenizer.padId).toBe(0);
    expect(tokenizer.encode([''], 4).inputIds[3]).toBe(0);
  });
});

describe('a folder', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tokenizer-'));
    await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(train()));
    await writeFile(join(folder, 'tokenizer_config.json'), JSON.stringify(tokenizerConfig(16)));
  });
  afterAll(() => rm(folder, { recursive: true }));

  it('loads in the same way from files', async () => {
    const loaded = await loadTokenizer(folder);
    expect(loaded.contextLength).toBe(16);
    expect(loaded.vocabSize).toBe(Object.keys(modelOf(train()).vocab).length);
    expect(loaded.encode(texts, 16)).toEqual(made().encode(texts, 16));
  });

  it('gives the same ids in transformers.js', async () => {
    env.allowRemoteModels = false;
    env.localModelPath = '';
    const theirs = await AutoTokenizer.from_pretrained(folder, { local_files_only: true });
    expect(theirs).toBeInstanceOf(CLIPTokenizer);
    const { input_ids } = theirs(texts, { padding: 'max_length', max_length: 16, truncation: true });
    const ours = made().encode(texts, 16);
    const fitting = texts.map((_, row) => row).filter((row) => ours.attentionMask[row * 16 + 15] === 0);
    expect(fitting.length).toBeGreaterThan(3);
    for (const row of fitting) {
      const slice = [...(input_ids.data as BigInt64Array)].slice(row * 16, row * 16 + 16).map(Number);
      expect(slice).toEqual([...ours.inputIds.subarray(row * 16, row * 16 + 16)]);
    }
  });

  it('says what is wrong with a tokenizer', async () => {
    const json = train();
    const config = tokenizerConfig(16);
    const code = { code: 'MODEL_INVALID' };
    expect(() => createTokenizer({ ...json, post_processor: null }, config)).toThrow(
      expect.objectContaining({ ...code, message: expect.stringMatching(/start and an end token/) }),
    );
    expect(() => createTokenizer({}, config)).toThrow(expect.objectContaining(code));
    expect(() => createTokenizer(json, { ...config, pad_token: '<pad>' })).toThrow(/no token <pad>/);
    await expect(loadTokenizer(join(folder, 'nowhere'))).rejects.toMatchObject({
      ...code,
      message: expect.stringContaining('tokenizer.json'),
    });
    await writeFile(join(folder, 'tokenizer_config.json'), '[]');
    await expect(loadTokenizer(folder)).rejects.toMatchObject(code);
  });
});
