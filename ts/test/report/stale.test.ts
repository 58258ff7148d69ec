import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { hashModel } from '../../src/encoder/identity.ts';
import { writeReport } from '../../src/report/report.ts';
import { describeStale, staleStages } from '../../src/report/stale.ts';

let run: string;
beforeEach(() => {
  run = mkdtempSync(join(tmpdir(), 'clip-cid-stale-'));
});
afterEach(() => rmSync(run, { recursive: true, force: true }));

interface Record {
  readonly inputs?: object;
  readonly outputs?: Readonly<globalThis.Record<string, string>>;
  readonly status?: 'done' | 'running';
}

function stage(folder: string, { inputs = {}, outputs = {}, status = 'done' }: Record): void {
  mkdirSync(join(run, folder), { recursive: true });
  writeFileSync(
    join(run, folder, 'manifest.json'),
    JSON.stringify({
      version: 1,
      package: '0.1.0',
      stage: folder,
      status,
      inputs,
      options: {},
      started: '2026-01-01T10:00:00.000Z',
      outputs: Object.entries(outputs).map(([path, hash]) => ({ path, hash, bytes: 1, modified: 1 })),
      summary: {},
    }),
  );
}

async function model(folder: string, text: string): Promise<string> {
  mkdirSync(join(run, folder, 'onnx'), { recursive: true });
  writeFileSync(join(run, folder, 'onnx', 'vision_model.onnx'), text);
  return hashModel(join(run, folder));
}

async function cid(): Promise<{ student: string; teacher: string }> {
  const teacher = await model('models/teacher', 'teacher');
  writeFileSync(
    join(run, 'run.json'),
    JSON.stringify({
      ...{ version: 1, package: '0.1.0', seed: 0, environment: {}, started: '', updated: '' },
      config: { teacher: join(run, 'models', 'teacher') },
    }),
  );
  const student = await model('student/model', 'student');
  stage('balance', { outputs: { 'kept.jsonl': 'k' } });
  stage('cluster', { inputs: { kept: 'k' }, outputs: { 'centroids.npy': 'c', 'labels.npy': 'l' } });
  stage('student', { inputs: { teacher, kept: 'k', centroids: 'c', labels: 'l', data: 'elsewhere' } });
  stage('eval', { inputs: { data: 'd', teacher, student } });
  return { student, teacher };
}

const folders = async () => (await staleStages(run)).map(({ folder }) => folder);

describe('staleStages', () => {
  it('finds none where every input is what the stage before now has', async () => {
    await cid();
    expect(await staleStages(run)).toEqual([]);
  });

  it('finds what was made of an earlier balance, and what was made of that, with the commands that help', async () => {
    await cid();
    stage('balance', { outputs: { 'kept.jsonl': 'another' } });
    const stale = await staleStages(run);
    expect(stale).toEqual([
      {
        folder: 'cluster',
        reasons: ['balance was made anew since'],
        command: `clip-cid cluster --run ${run} --force`,
      },
      {
        folder: 'student',
        reasons: ['balance was made anew since', 'cluster is out of date itself'],
        command: `clip-cid distill --run ${run} --force`,
      },
      {
        folder: 'eval',
        reasons: ['student is out of date itself'],
        command: `clip-cid eval --run ${run} --force`,
      },
    ]);
    expect(describeStale(stale[0]!)).toBe(
      `cluster is out of date: balance was made anew since. To make it anew: clip-cid cluster --run ${run} --force`,
    );
  });

  it('tells an earlier clustering, an unfinished one, a student that is another now and a teacher that was changed', async () => {
    await cid();
    stage('cluster', { inputs: { kept: 'k' }, outputs: { 'centroids.npy': 'c2', 'labels.npy': 'l' } });
    expect(await folders()).toEqual(['student', 'eval']);
    stage('cluster', { status: 'running' });
    expect((await staleStages(run))[0]!.reasons).toEqual(['cluster is being made anew, and unfinished']);
    await cid();
    await model('student/model', 'trained again');
    expect(await staleStages(run)).toMatchObject([
      { folder: 'eval', reasons: ['student was made anew since'] },
    ]);
    await cid();
    await model('models/teacher', 'another');
    expect((await staleStages(run))[0]).toMatchObject({
      folder: 'student',
      reasons: ['the teacher is another one now, or was changed'],
    });
  });

  it('says nothing where what a stage was made of is gone, or lies elsewhere', async () => {
    await cid();
    rmSync(join(run, 'balance'), { recursive: true });
    rmSync(join(run, 'models'), { recursive: true });
    expect(await staleStages(run)).toEqual([]);
  });

  it('knows the stages of aesthetics, where a teacher may lie beside its student', async () => {
    const encoder = 'model/onnx/vision_model.onnx';
    stage('align-student', { outputs: { [encoder]: 'a' } });
    const [student, teacher] = [
      await model('scorer-student/model', 's'),
      await model('scorer-student/teacher-model', 't'),
    ];
    stage('scorer-student', { inputs: { init: 'a', labels: 'ratings' } });
    stage('scorer-supervised', { inputs: { init: 'of its own', labels: 'ratings' } });
    stage('scores', { inputs: { labels: 'ratings', student, teacher } });
    expect(await staleStages(run)).toEqual([]);
    await model('scorer-student/teacher-model', 't2');
    expect(await staleStages(run)).toEqual([
      {
        folder: 'scores',
        reasons: ['scorer-student was made anew since'],
        command: `clip-cid aesthetics eval --run ${run} --force`,
      },
    ]);
    stage('align-student', { outputs: { [encoder]: 'b' } });
    expect(await folders()).toEqual(['scorer-student', 'scores']);
  });
});

it('the report begins with what is out of date, and marks it where it is shown', async () => {
  await cid();
  const fresh = readFileSync(await writeReport(run), 'utf8');
  expect(fresh).not.toMatch(/out of date/i);
  stage('balance', { outputs: { 'kept.jsonl': 'another' } });
  const page = readFileSync(await writeReport(run), 'utf8');
  expect(page).toMatch(/<main>\s*<section id="stale"><h2>Out of date<\/h2>/);
  expect(page).toContain(`<code>clip-cid distill --run ${run} --force</code>`);
  expect(page.match(/<b>out of date<\/b>/g)).toHaveLength(3);
});
