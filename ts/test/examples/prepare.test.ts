import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { captionsOf, conceptCode, type PrepareReport, prepare } from '../../../examples/emoji/prepare.mjs';

interface Line {
  key: string;
  image: string;
  captions: string[];
  concept: string;
  emoji: string;
  category: string;
  subcategory: string;
  vendor: string;
  variation: string;
}

const files = ['train.jsonl', 'heldout.jsonl', 'variations.jsonl', 'classes.json', 'prepare.json'];

function lines<T>(path: string): T[] {
  return readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as T);
}

describe('the emoji data set', () => {
  const root = mkdtempSync(join(tmpdir(), 'prepare-'));
  const out = join(root, 'a', 'data');
  let report: PrepareReport;
  let train: Line[];
  let heldout: Line[];

  beforeAll(() => {
    report = prepare({ out, seed: 3 });
    train = lines(join(out, 'train.jsonl'));
    heldout = lines(join(out, 'heldout.jsonl'));
  });
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  it('holds every drawing of both vendors once, and each file is there', () => {
    const all = [...train, ...heldout];
    expect(all.length + report.skipped.length).toBe(7572);
    expect(report.images).toEqual({ train: train.length, heldout: heldout.length });
    expect(new Set(all.map((item) => item.key)).size).toBe(all.length);
    for (const item of all) expect(existsSync(resolve(out, item.image)), item.image).toBe(true);
  });

  it('shares no concept, no emoji and no drawing between the two sides', () => {
    for (const field of ['concept', 'emoji'] as const) {
      const seen = new Set(train.map((item) => item[field]));
      expect(heldout.filter((item) => seen.has(item[field]))).toEqual([]);
    }
    const pixels = (item: Line) => readFileSync(resolve(out, item.image)).toString('base64');
    const seen = new Set(train.map(pixels));
    expect(heldout.filter((item) => seen.has(pixels(item))).map((item) => item.key)).toEqual([]);
  });

  it('names no held-out emoji in a training caption of its own', () => {
    const own = (items: Line[]) => new Set(items.map((item) => item.captions[0] as string));
    const names = own(train);
    expect([...own(heldout)].filter((name) => names.has(name))).toEqual([]);
  });

  it('holds out about a fifth of every subcategory that has three concepts, and names every class in training', () => {
    const share = report.concepts.heldout / (report.concepts.train + report.concepts.heldout);
    expect(share).toBeGreaterThan(0.17);
    expect(share).toBeLessThan(0.23);
    const trained = new Set(train.map((item) => item.subcategory));
    for (const item of heldout) expect(trained.has(item.subcategory), item.subcategory).toBe(true);
    expect(new Set(heldout.map((item) => item.category)).size).toBe(10);
    const classes = JSON.parse(readFileSync(join(out, 'classes.json'), 'utf8'));
    expect(classes.category).toHaveLength(10);
    expect(classes.subcategory).toEqual([...trained].sort());
  });

  it('lists skin tones of one emoji and vendor as variations of each other', () => {
    const byKey = new Map([...train, ...heldout].map((item) => [item.key, item]));
    const sets = lines<{ split: string; vendor: string; emoji: string; keys: string[] }>(
      join(out, 'variations.jsonl'),
    );
    expect(sets.length).toBeGreaterThan(600);
    for (const set of sets) {
      const items = set.keys.map((key) => byKey.get(key) as Line);
      expect(new Set(items.map((item) => `${item.vendor}/${item.emoji}`)).size).toBe(1);
      expect(items.filter((item) => item.variation === '')).toHaveLength(1);
      expect(new Set(items.map((item) => item.captions.join())).size).toBe(1);
    }
  });

  it('is the same for the same seed and another for another', () => {
    const again = join(root, 'b', 'data');
    prepare({ out: again, seed: 3 });
    for (const file of files)
      expect(readFileSync(join(again, file), 'utf8')).toBe(readFileSync(join(out, file), 'utf8'));
    prepare({ out: again, seed: 4 });
    expect(readFileSync(join(again, 'heldout.jsonl'), 'utf8')).not.toBe(
      readFileSync(join(out, 'heldout.jsonl'), 'utf8'),
    );
  });

  it('takes genders, skin tones and directions of an emoji as one concept', () => {
    const firefighter = conceptCode('1F9D1-200D-1F692');
    expect(conceptCode('1F468-200D-1F692')).toBe(firefighter);
    expect(conceptCode('1F469-1F3FD-200D-1F692')).toBe(firefighter);
    expect(conceptCode('1F3C3-200D-2640-FE0F-200D-27A1-FE0F')).toBe(conceptCode('1F3C3'));
    expect(conceptCode('1F468-200D-1F469-200D-1F466')).toBe(conceptCode('1F46A'));
    expect(conceptCode('1F478')).toBe(conceptCode('1F934'));
    expect(conceptCode('1F3FB')).not.toBe(conceptCode('1F3FC'));
    expect(conceptCode('1F468-200D-1F692')).not.toBe(conceptCode('1F468-200D-1F680'));
  });

  it('writes captions in plain words with the names of the classes', () => {
    const captions = captionsOf({
      name: 'FAMILY: MAN, BOY',
      short_names: ['man-boy'],
      category: 'People & Body',
      subcategory: 'family',
    });
    expect(captions).toContain('an emoji of family, man, boy');
    expect(captions).toContain('an emoji of man boy');
    expect(captions).toContain('an emoji of family');
    expect(captions).toContain('an emoji of people and body');
    for (const caption of captions) expect(caption).toMatch(/^[a-z0-9, ]+$/);
  });
});
