import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { abortError } from '../native/errors.ts';
import { expectPrecision } from '../program/precision.ts';
import { writeReport } from '../report/report.ts';
import { openRun, type Run, type StageName } from '../run/folder.ts';
import type { Json } from '../run/hash.ts';
import { required } from '../run/schema.ts';
import type { StageSettings } from '../run/settings.ts';
import { readStage, requireStage, type StageResult } from '../run/stage.ts';
import { balanceStage } from './balance.ts';
import { clusterStage } from './cluster.ts';
import type { Config } from './config.ts';
import { embedStage } from './embed.ts';
import { evalStage } from './evaluate.ts';
import { distillStage } from './student.ts';

export interface PipelineOptions extends StageSettings {
  /** Told after each stage with its folder, in order. */
  readonly onStage?: ((folder: string, result: StageResult) => void) | undefined;
}

export interface PipelineResult {
  /** Model folder of the student. */
  readonly student: string;
  /** Model folder of the second student, when the configuration has a baseline. */
  readonly baseline?: string;
  /** The HTML report. */
  readonly report: string;
  readonly stages: Readonly<Partial<Record<StageName, StageResult>>>;
}

/**
 * CLIP-CID from images to an evaluated student, in a run folder: embed, balance, cluster, distill, the baseline when the
 * configuration has one, eval when it has data for it, report. Stages that are done with the same inputs and options are skipped
 * and one that was stopped goes on, so the call may be repeated until it ends.
 *
 * @throws CidError INVALID_CONFIG before anything is done when a field is missing, and DEVICE_UNAVAILABLE when this processor lacks a precision that
 * is still to be trained in; RUN_LOCKED, RUN_CHANGED; ABORTED after `signal`.
 */
export async function runPipeline(config: Config, options: PipelineOptions): Promise<PipelineResult> {
  const data = required(config.data, 'data', 'a data set');
  const teacher = required(config.teacher, 'teacher', 'a model folder');
  const clusters = required(config.cluster.clusters, 'cluster.clusters', 'a number of centres');
  const { seed, encoder } = config;
  const { onStage, folder, ...common } = options;
  const run = await openRun(folder);
  const stages: Partial<Record<StageName, StageResult>> = {};
  const stage = async (name: StageName, work: (settings: StageSettings) => Promise<StageResult>) => {
    if (options.signal?.aborted) throw abortError();
    const result = await work({ ...common, folder: run.stage(name) });
    stages[name] = result;
    await run.remember(config as Json, seed);
    onStage?.(run.stage(name), result);
  };
  const { baseline } = config;
  const trainings = [
    ['distill', config.distill],
    ...(baseline === undefined ? [] : [['baseline', overlay(config.distill, baseline)] as const]),
  ] as const;
  try {
    for (const [name, { precision = 'float32' }] of trainings) {
      if ((await readStage(run.stage(name)))?.status !== 'done') expectPrecision(precision, common.device);
    }
    const embeddings = run.stage('embed');
    const kept = join(run.stage('balance'), 'kept.jsonl');
    const { imageField, captionField } = config;
    await stage('embed', (settings) =>
      embedStage({ ...settings, data, model: teacher, imageField, captionField, encoder, ...config.embed }),
    );
    await stage('balance', (settings) => balanceStage({ ...settings, embeddings, seed, ...config.balance }));
    await stage('cluster', (settings) =>
      clusterStage({ ...settings, embeddings, kept, seed, ...config.cluster, clusters }),
    );
    const inputs = {
      teacher,
      embeddings,
      kept,
      cluster: run.stage('cluster'),
      encoder,
      seed,
      metrics: run.metrics,
    };
    for (const [name, training] of trainings)
      await stage(name, (settings) => distillStage({ ...settings, ...inputs, name, training }));
    const { data: measured, train, ...evaluation } = config.eval;
    if (measured !== undefined) {
      const models = await modelsOf(run, config);
      await stage('eval', (settings) =>
        evalStage({
          ...settings,
          models,
          data: measured,
          train: train ?? data,
          imageField,
          captionField,
          options: evaluation,
          encoder,
          seed,
        }),
      );
    }
    const report = await writeReport(run.folder);
    return {
      student: modelFolder(run, 'distill'),
      ...(baseline === undefined ? {} : { baseline: modelFolder(run, 'baseline') }),
      report,
      stages,
    };
  } finally {
    await run.dispose();
  }
}

/** Models of a run by the name that they have in tables: the teacher, and the students that are done. */
export async function modelsOf(run: Run, config: Config): Promise<Record<string, string>> {
  const models: Record<string, string> = {};
  if (config.teacher !== undefined) models.teacher = config.teacher;
  for (const [name, stage] of [
    ['student', 'distill'],
    ['baseline', 'baseline'],
    ['pretrained', 'pretrain'],
  ] as const) {
    if (!existsSync(run.stage(stage))) continue;
    await requireStage(run.stage(stage), stage);
    models[name] = modelFolder(run, stage);
  }
  return models;
}

function modelFolder(run: Run, stage: StageName): string {
  return join(run.stage(stage), 'model');
}

/** `changes` laid over the options of a training; weights one by one. */
function overlay(base: Config['distill'], changes: Config['distill']): Config['distill'] {
  return { ...base, ...changes, weights: { ...base.weights, ...changes.weights } };
}
