import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { summarizeAnalysis } from '../eval/analysis-format.ts';
import { type AnalyzeOptions, analyzeModel, type ModelAnalysis, openAnalyzed } from '../eval/analyze.ts';
import { identifyModel } from '../eval/attention/source.ts';
import { type NamedAnalysis, writeAnalysisReport } from '../report/analysis.ts';
import { readJson, writeJson } from '../run/files.ts';
import type { Json } from '../run/hash.ts';
import { defined, type StageSettings } from '../run/settings.ts';
import { runStage, type StageResult } from '../run/stage.ts';
import type { Backbone } from '../student/backbone.ts';
import { exportImageModel } from '../student/image-model.ts';

/** An encoder to analyse: a model folder, an ONNX file, or one that training would start from. */
export type Analyzed = string | Backbone;

export interface AnalyzeStageOptions extends StageSettings {
  /** Encoders by the name that they have in the results, in their order: 'before' and 'after', for one. */
  readonly models: Readonly<Record<string, Analyzed>>;
  /** Images that all of them are run on. */
  readonly data: string;
  /** Everything else; see {@link AnalyzeOptions}. */
  readonly options?: Omit<AnalyzeOptions, 'model' | 'data' | 'threads' | 'signal' | 'onProgress'>;
}

const REPORT = 'report.html';

/**
 * Analyses encoders on the same images: writes `NAME.json` ({@link ModelAnalysis}) for each, and `report.html` with all of them beside each
 * other.
 */
export async function analyzeStage(stage: AnalyzeStageOptions): Promise<StageResult> {
  const { models, data, folder, options = {} } = stage;
  const names = Object.keys(models);
  const files = names.map((name) => `${name}.json`);
  const images = await openAnalyzed(data, options.imageField);
  const inputs: Record<string, string> = { data: images.hash };
  await images.dispose();
  for (const name of names) {
    const model = models[name]!;
    inputs[name] = typeof model === 'string' ? await identifyModel(model) : model.identity;
  }
  return runStage({
    name: 'analyze',
    folder,
    inputs,
    options: defined({ ...options }) as Record<string, Json>,
    owns: [...files, REPORT],
    ...defined({ existing: stage.existing, log: stage.log }),
    work: async ({ resumed }) => {
      const summary: Record<string, Json> = {};
      const analyses: NamedAnalysis[] = [];
      for (const name of names) {
        const path = join(folder, `${name}.json`);
        // A result is written whole, so what is there from an attempt that was stopped is good.
        const done = resumed && existsSync(path);
        const analysis = done ? ((await readJson(path)) as ModelAnalysis) : await analyzeNamed(name, stage);
        if (!done) await writeJson(path, analysis);
        analyses.push({ name, analysis });
        summary[name] = { ...summarizeAnalysis(analysis) };
      }
      await writeAnalysisReport(join(folder, REPORT), analyses, basename(resolve(folder)));
      return { outputs: [...files, REPORT], summary };
    },
  });
}

/** Analyses one encoder of the stage's, without writing anything. */
export async function analyzeNamed(
  name: string,
  { models, data, options, threads, signal, onProgress }: Omit<AnalyzeStageOptions, 'folder'>,
): Promise<ModelAnalysis> {
  const analyzed = models[name]!;
  const run = (model: string) =>
    analyzeModel({
      ...options,
      model,
      data,
      ...defined({ threads, signal }),
      ...(onProgress && { onProgress: (event) => onProgress({ ...event, label: `analyze ${name}` }) }),
    });
  if (typeof analyzed === 'string') return run(analyzed);
  const folder = await mkdtemp(join(tmpdir(), 'clip-cid-start-'));
  try {
    const values = new Map(analyzed.parameters.map((parameter) => [parameter.name, parameter.value]));
    await exportImageModel(folder, { graph: analyzed.graph, values, backbone: analyzed });
    return { ...(await run(folder)), model: 'where training starts' };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
