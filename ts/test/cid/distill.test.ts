import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type DistillOptions, distill } from '../../src/cid/distill.ts';
import { pretrain } from '../../src/cid/pretrain.ts';
import { type Dataset, openDataset } from '../../src/data/dataset.ts';
import { decodeImage } from '../../src/data/image.ts';
import { type Encoder, openEncoder } from '../../src/encoder/encoder.ts';
import type { Matrix } from '../../src/kernels/rows.ts';
import { CidError } from '../../src/native/errors.ts';
import { tinyStudent, writeShapes } from './shapes.ts';

let root: string;
let data: Dataset;
let teacher: Encoder;
let embeddings: { image: Matrix; text: Matrix };
let clusters: { centroids: Matrix; labels: Int32Array };
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'distill-'));
  data = await openDataset(await writeShapes(join(root, 'data')));
  const { model } = await pretrain({
    data,
    folder: join(root, 'teacher'),
    student: { ...tinyStudent, embedDim: 12 },
    vocabSize: 560,
    batchSize: 48,
    threads: 1,
    rate: 5e-3,
    augment: 'none',
    validation: 0,
    steps: 60,
  });
  teacher = await openEncoder(model, { threads: 1 });
  const items = Array.from({ length: data.length }, (_, i) => i);
  const images = await Promise.all(items.map(async (item) => decodeImage(await data.read(item))));
  const matrix = (rows: Float32Array): Matrix => ({
    data: rows,
    rows: rows.length / teacher.dim,
    dim: teacher.dim,
  });
  embeddings = {
    image: matrix(await teacher.embedImages(images)),
    text: matrix(await teacher.embedTexts(items.map((item) => data.item(item).captions[0]!))),
  };
  // Eight images a colour, in order: the colours are the clusters.
  const labels = Int32Array.from(items, (item) => Math.floor(item / 8));
  const centroids = new Float32Array(6 * teacher.dim);
  for (const item of items) {
    for (let k = 0; k < teacher.dim; k++) {
      centroids[labels[item]! * teacher.dim + k]! += embeddings.image.data[item * teacher.dim + k]! / 8;
    }
  }
  clusters = { centroids: matrix(centroids), labels };
});
afterAll(async () => {
  await teacher?.dispose();
  await data?.dispose();
  rmSync(root, { recursive: true, force: true });
});

function options(folder: string, more: Partial<DistillOptions> = {}): DistillOptions {
  return {
    data,
    folder: join(root, folder),
    teacherFolder: join(root, 'teacher/model'),
    teacher,
    embeddings,
    clusters,
    student: { ...tinyStudent, embedDim: 8 },
    batchSize: 24,
    threads: 1,
    rate: 5e-3,
    augment: { scale: [0.8, 1] },
    validation: 0,
    steps: 3,
    seed: 1,
    ...more,
  };
}

type Terms = Readonly<Record<string, number>>;

async function termsOf(settings: DistillOptions): Promise<Terms[]> {
  const terms: Terms[] = [];
  await distill({ ...settings, onStep: (step) => terms.push(step.terms) });
  return terms;
}

describe('distill', () => {
  it("lowers all three terms, and writes a student with the teacher's tokenizer", async () => {
    const terms = await termsOf(options('all', { steps: 80 }));
    const mean = (name: string, from: number) =>
      terms.slice(from, from + 5).reduce((sum, step) => sum + step[name]!, 0) / 5;
    for (const name of ['clip', 'clusterCe', 'clusterKl', 'instance']) {
      expect([name, mean(name, 75) < mean(name, 0) * 0.7]).toEqual([name, true]);
    }
    const last = terms.at(-1)!;
    expect(last.total).toBeCloseTo(last.clip! + last.clusterCe! + last.clusterKl! + last.instance!, 4);
    const tokenizer = (folder: string) =>
      JSON.parse(readFileSync(join(root, folder, 'model/tokenizer.json'), 'utf8'));
    expect(tokenizer('all')).toEqual(tokenizer('teacher'));
    const student = await openEncoder(join(root, 'all/model'), { threads: 1 });
    expect(student.dim).toBe(8);
    await student.dispose();
  });

  it('is CLIP alone without anything of the teacher but its tokenizer when only that term has weight', async () => {
    const weights = { clusterCe: 0, clusterKl: 0, instance: 0 };
    const { embeddings: _, clusters: __, teacher: ___, ...alone } = options('clip-only', { weights });
    const terms = await termsOf(alone);
    expect(Object.keys(terms[0]!).sort()).toEqual(['clip', 'total']);
    // The same student on the same batches: before its first update the CLIP term is that of the distilled one.
    const guided = await termsOf(options('guided', { steps: 1 }));
    expect(terms[0]!.clip).toBe(guided[0]!.clip);
  });

  it('compares cached soft targets and a pass over the centres alike', async () => {
    // Without augmentation the teacher, run on the views, gives what was cached, but for the rounding to 8 bits.
    const cached = await termsOf(options('cached', { augment: 'none', captions: 'first' }));
    const online = await termsOf(
      options('online', { augment: 'none', captions: 'first', targets: 'online' }),
    );
    for (const name of ['clip', 'clusterCe', 'clusterKl', 'instance']) {
      expect(online[0]![name]).toBeCloseTo(cached[0]![name]!, 3);
    }
    const sampled = await termsOf(
      options('sampled', { augment: 'none', captions: 'first', sampleRate: 0.99 }),
    );
    expect(sampled[0]!.clusterKl).toBeCloseTo(cached[0]!.clusterKl!, 4);
  });

  it('runs the teacher on the views that the student sees', async () => {
    const augment = { scale: [0.3, 0.5] } as const;
    const cached = await termsOf(options('cached-views', { augment }));
    const online = await termsOf(options('online-views', { augment, targets: 'online' }));
    expect(online[0]!.clip).toBe(cached[0]!.clip);
    expect(Math.abs(online[0]!.clusterKl! - cached[0]!.clusterKl!)).toBeGreaterThan(1e-3);
  });

  it('asks the teacher once for each batch, ahead of the step', async () => {
    const asked: number[] = [];
    const as = (embedImages: Encoder['embedImages']): Encoder =>
      new Proxy(teacher, {
        get(target, name) {
          if (name === 'embedImages') return embedImages;
          const value: unknown = Reflect.get(target, name, target);
          return typeof value === 'function' ? value.bind(target) : value;
        },
      });
    const watched = as((images, signal) => {
      asked.push(images.length);
      expect(signal).toBeInstanceOf(AbortSignal);
      return teacher.embedImages(images, signal);
    });
    await distill({ ...options('asked', { targets: 'online', steps: 3 }), teacher: watched });
    expect(asked).toEqual(Array(3).fill(asked[0]));
    // A teacher that fails ends the training with its error, and leaves nothing at work.
    const failing = as(async () => Promise.reject(new CidError('INTERNAL', 'no teacher')));
    const failed = distill({ ...options('failed', { targets: 'online', steps: 3 }), teacher: failing });
    await expect(failed).rejects.toThrow('no teacher');
  });

  it('takes some items alone, with rows of the teacher in their order', async () => {
    const items = Int32Array.from({ length: 30 }, (_, i) => 47 - i);
    const rows = (matrix: Matrix): Matrix => {
      const picked = new Float32Array(items.length * matrix.dim);
      for (const [i, item] of items.entries()) {
        picked.set(matrix.data.subarray(item * matrix.dim, (item + 1) * matrix.dim), i * matrix.dim);
      }
      return { data: picked, rows: items.length, dim: matrix.dim };
    };
    const some = {
      items,
      embeddings: { image: rows(embeddings.image), text: rows(embeddings.text) },
      clusters: { ...clusters, labels: Int32Array.from(items, (item) => clusters.labels[item]!) },
      augment: 'none',
      captions: 'first',
      validation: 0.2,
    } as const;
    const cached = await termsOf(options('some-cached', some));
    const online = await termsOf(options('some-online', { ...some, targets: 'online' }));
    // Rows out of order would set the cached targets far from those of the teacher itself.
    expect(online[0]!.instance).toBeCloseTo(cached[0]!.instance!, 3);
    expect(online[0]!.clusterKl).toBeCloseTo(cached[0]!.clusterKl!, 3);
  });

  it('moves learned centres', async () => {
    await distill(options('learned', { learnedCentres: true }));
    const file = readFileSync(join(root, 'learned/last.safetensors'));
    const length = Number(file.readBigUInt64LE());
    const header = JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<
      string,
      { data_offsets: [number, number] }
    >;
    const [from, to] = header['model.heads.centroids']!.data_offsets;
    const bytes = file.subarray(8 + length + from, 8 + length + to);
    const learned = new Float32Array(new Uint8Array(bytes).buffer);
    expect(learned).toHaveLength(clusters.centroids.data.length);
    const moved = learned.map((value, i) => Math.abs(value - clusters.centroids.data[i]!));
    expect(Math.max(...moved)).toBeGreaterThan(1e-3);
    expect(Math.max(...moved)).toBeLessThan(0.1);
  });

  it('names what is missing or does not belong together', async () => {
    const without = (name: keyof DistillOptions) => {
      const { [name]: _, ...rest } = options('wrong');
      return distill(rest as DistillOptions);
    };
    await expect(without('embeddings')).rejects.toThrow(/for embeddings but received undefined/);
    await expect(without('clusters')).rejects.toThrow(/for clusters but received undefined/);
    await expect(without('teacher')).rejects.toThrow(/several captions.* for teacher/);
    const wrong = (more: Partial<DistillOptions>) => distill(options('wrong', more));
    await expect(wrong({ items: [0, 1, 2], batchSize: 2 })).rejects.toThrow(
      /Expected 3 rows, one an item, for embeddings.image but received 48/,
    );
    await expect(
      wrong({ clusters: { ...clusters, labels: clusters.labels.map((x) => x + 1) } }),
    ).rejects.toThrow(/Expected a centre from 0 to 5 for clusters.labels\[40\] but received 6/);
    await expect(wrong({ weights: { clip: 0, clusterCe: 0, clusterKl: 0, instance: 0 } })).rejects.toThrow(
      /weights/,
    );
    await expect(wrong({ sampleRate: 2 })).rejects.toThrow(/sampleRate/);
    await expect(wrong({ teacherFolder: root })).rejects.toMatchObject({ code: 'MODEL_INVALID' });
  });
});
