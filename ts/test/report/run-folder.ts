import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';

const hostile = '<script>alert("x")</script> & Söhne';

/** A run folder as the stages leave it, with a name that must be escaped wherever it is shown. */
export async function makeRun(folder: string): Promise<void> {
  const write = (path: string, value: unknown) => {
    mkdirSync(join(folder, path, '..'), { recursive: true });
    writeFileSync(join(folder, path), typeof value === 'string' ? value : JSON.stringify(value));
  };
  const images: string[] = [];
  for (let i = 0; i < 6; i++) {
    const path = join(folder, 'images', `${i}.png`);
    mkdirSync(join(folder, 'images'), { recursive: true });
    await sharp({
      create: { width: 20, height: 12, channels: 3, background: { r: 40 * i, g: 200 - 30 * i, b: 90 } },
    })
      .png()
      .toFile(path);
    images.push(path);
  }
  write('run.json', {
    version: 1,
    package: '0.1.0',
    config: { teacher: 'models/big', note: hostile },
    seed: 7,
    environment: {
      node: 'v20.19.0',
      platform: 'linux',
      release: '6.1',
      arch: 'x64',
      cpu: 'A <fine> CPU',
      cores: 2,
    },
    started: '2026-01-01T10:00:00.000Z',
    updated: '2026-01-01T10:05:00.000Z',
  });
  const stage = (name: string, summary: object, status = 'done') => ({
    version: 1,
    package: '0.1.0',
    stage: name,
    status,
    inputs: {},
    options: { seed: 7 },
    started: '2026-01-01T10:00:00.000Z',
    ...(status === 'done' ? { finished: '2026-01-01T10:01:05.000Z' } : {}),
    outputs: [],
    summary,
  });
  write('balance/manifest.json', stage('balance', { rows: 6000, kept: 3378 }));
  write('student/manifest.json', stage('distill', {}, 'running'));
  write('balance/report.json', {
    rows: 6000,
    kept: 3378,
    keepRatio: 0.563,
    groups: 3378,
    edges: 12345,
    faults: 0,
    rule: {
      kind: 'keep-ratio',
      threshold: 0.987654321,
      text: 'The cosine was searched for so that 0.563 stays.',
    },
    funnel: [
      { step: 'embedded', items: 6000 },
      { step: 'kept', items: 3378 },
    ],
    faultyRows: [],
    largestGroups: [
      {
        label: 3,
        size: 40,
        members: images.map((image, i) => ({
          row: i,
          kept: i === 0,
          centrality: 1 - i / 100,
          key: `item ${i}`,
          caption: hostile,
          image: i === 5 ? join(folder, 'images', 'gone.png') : image,
        })),
      },
    ],
  });
  write('cluster/report.json', {
    rows: 3378,
    dim: 64,
    clusters: 256,
    iterations: 12,
    inertia: 300.5,
    meanCosine: 0.911,
    sizes: { min: 1, median: 11, max: 60 },
    histogram: [{ size: 11, clusters: 256 }],
  });
  const metrics: object[] = [];
  for (const name of ['distill', 'baseline']) {
    for (let step = 1; step <= 300; step++) {
      metrics.push({
        stage: name,
        step,
        epoch: 0,
        rate: 1e-3 * Math.min(1, step / 30) * (0.5 + 0.5 * Math.cos((Math.PI * step) / 300)),
        gradientNorm: 1 + 3 / step,
        'loss/total': 3 + 6 * Math.exp(-step / 80),
        'loss/clip': 2 + 3 * Math.exp(-step / 80),
        ...(name === 'distill' ? { 'loss/instance': 1 + 3 * Math.exp(-step / 90) } : {}),
        'speed/items': 900,
        'speed/step': name === 'distill' ? 1800 : 920,
        'speed/loader': 1000,
        'speed/waited': 0.1,
      });
      if (step % 50 === 0) {
        metrics.push({
          stage: name,
          step,
          'validation/loss': 4 - step / 200,
          'validation/imageToText': step / 600,
        });
      }
    }
  }
  write('metrics.jsonl', metrics.map((record) => `${JSON.stringify(record)}\n`).join(''));
  const recall = (at1: number) => ({
    queries: 100,
    candidates: 200,
    recall: { '1': at1, '5': at1 + 0.1, '10': at1 + 0.2 },
    chance: { '1': 0.01, '5': 0.05, '10': 0.1 },
  });
  const result = (parameters: number, top1: number) => ({
    model: {
      folder: 'm',
      hash: 'h',
      dim: 64,
      imageSize: 64,
      parameters,
      imageParameters: parameters / 2,
      bytes: 4 * parameters,
    },
    data: { source: '/data/heldout.jsonl', images: 1590, skipped: 0 },
    train: { source: '/data/train.jsonl', images: 5982, skipped: 0 },
    zeroShot: {
      category: {
        images: 1590,
        classes: 10,
        top1,
        top5: top1 + 0.2,
        meanPerClass: top1 - 0.1,
        chance: 0.1,
        perClass: [],
      },
    },
    imageText: {
      train: { imageToText: recall(0.4), textToImage: recall(0.5) },
      data: { imageToText: recall(0.02), textToImage: recall(0.03), note: 'Names are near chance.' },
    },
    imageImage: { ...recall(0.6), meanAveragePrecision: 0.44, recall1PerConcept: 0.58, concepts: 333 },
    linearProbe: {
      category: {
        images: 1590,
        trainImages: 5982,
        classes: 10,
        top1: 0.7,
        meanPerClass: 0.65,
        l2: 1e-3,
        validation: [],
        iterations: 50,
        converged: true,
      },
    },
    seconds: 3,
  });
  write('eval/student.json', result(500_000, 0.61));
  write('eval/baseline.json', result(500_000, 0.52));
  write('eval/teacher.json', result(2_600_000, 0.7));
  write('eval/manifest.json', stage('eval', {}));
  write('eval/grouping.json', {
    title: 'Against lists of variations.',
    rows: [
      { against: 'variations', precision: 0.8, recall: 0.9, f1: 0.847, grouped: 100, true: 90, both: 80 },
    ],
  });
}
