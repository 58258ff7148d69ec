import { join, resolve } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { setThreads } from '../../native/devices.ts';
import type { NamedAnalysis } from '../../report/analysis.ts';
import { required } from '../../run/schema.ts';
import { defined } from '../../run/settings.ts';
import type { StageResult } from '../../run/stage.ts';
import {
  type CommonFlags,
  list,
  number,
  outputFlags,
  runCommand,
  type Session,
  UsageError,
} from '../common.ts';
import { openAesthetics } from './place.ts';

interface Flags extends CommonFlags {
  model?: string;
  before?: string;
  data?: string;
  images?: number;
  imageField?: string;
  output?: string;
  file?: string;
  imageSize?: number;
  grid?: [number, number];
  classTokens?: number;
  heads?: number;
  windowed?: boolean;
  renormalize?: boolean;
  entropyOf?: 'all' | 'patches';
  providers?: string[];
}

export function analyzeCommand(group: Command): void {
  const command = group
    .command('analyze')
    .description('look into image encoders: attention distance and entropy, effective rank of embeddings');
  outputFlags(command)
    .option(
      '--run <dir>',
      'run folder, whose aligned encoders are looked into; results go to its folder analysis/',
    )
    .option('--out <dir>', 'folder for the results; only printed when not given')
    .option(
      '--model <path>',
      'model folder, or ONNX file, of any image encoder (with --run: the encoders of the run, before and after alignment)',
    )
    .option('--before <path>', 'a second one to compare with, such as the encoder before it was aligned')
    .option(
      '--data <source>',
      'images: a folder, a list, WebDataset tars, or the folder of AVA, AADB or PARA (with --run: the first it was aligned on)',
    )
    .addOption(number('--images <n>', 'images to look at, drawn by seed (default: 1000)'))
    .option(
      '--image-field <name>',
      "field of a list that names the image (default: the first there is of 'image', 'path', 'file', …)",
    )
    .option('--output <name>', 'output with the embeddings (default: image_embeds, else pooler_output)')
    .option('--file <name>', 'ONNX file within the model folder (default: onnx/vision_model.onnx)')
    .addOption(number('--image-size <px>', 'side of the images, where the model leaves it open'))
    .addOption(
      new Option(
        '--grid <rowsxcolumns>',
        "patches of the image, such as '14x14' (default: derived)",
      ).argParser(grid),
    )
    .addOption(number('--class-tokens <n>', 'tokens before the patches that are no place (default: derived)'))
    .addOption(number('--heads <n>', 'heads, where the graph does not show them'))
    .option('--windowed', 'measure attention within windows too, as in Swin')
    .option('--renormalize', 'distances among patches alone, without what goes to class tokens')
    .addOption(
      new Option(
        '--entropy-of <tokens>',
        "entropy of attention to 'all' tokens or to 'patches' (default: all)",
      ).choices(['all', 'patches']),
    )
    .addOption(
      list('--providers <names>', "execution providers of ONNX Runtime, such as 'cuda,cpu' (default: cpu)"),
    )
    .addOption(number('--threads <n>', 'threads for inference and decoding (default: all cores)'))
    .addOption(number('--seed <n>', 'seed of which images are looked at (default: 0)'))
    .option('--force', 'replace results that are there')
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid aesthetics analyze --model models/vit --data photos/
  $ clip-cid aesthetics analyze --run runs/rate
  $ clip-cid aesthetics analyze --before models/vit --model aligned/model --data photos/ --out analysis/
  $ clip-cid aesthetics analyze --model swin.onnx --windowed --data photos/ --json

Attention has to be unfused in the graph: attn_implementation='eager' in transformers, timm.layers.set_fused_attn(False) in timm.
With --out there is NAME.json for each model and report.html with plots; with --run they are in the run's folder analysis/ and in its report.`,
    )
    .action((flags: Flags, command: Command) =>
      runCommand(flags, async (session) => {
        const both = (name: string) => new UsageError(`Expected ${name} or --run but received both`);
        if (flags.run !== undefined && flags.out !== undefined) throw both('--out');
        if (flags.run !== undefined && (flags.model ?? flags.before) !== undefined) throw both('--model');
        if (flags.threads !== undefined) setThreads(flags.threads);
        const analyses = await (flags.run === undefined
          ? analyzeModels(flags, session)
          : analyzeRun(flags, flags.run, session, command));
        const { formatAnalysis, formatChange } = await import('../../eval/analysis-format.ts');
        for (const { name, analysis } of analyses) {
          session.print({ name, ...analysis }, `${name}: ${formatAnalysis(analysis)}`);
        }
        if (flags.json) return;
        for (const { name, analysis } of analyses) {
          if (!name.startsWith('before')) continue;
          const after = analyses.find((other) => other.name === name.replace('before', 'after'));
          if (after) session.print({}, formatChange(analysis, after.analysis, `${name} → ${after.name}`));
        }
      }),
    );
}

/** One encoder, or two; into a folder where one is named. */
async function analyzeModels(flags: Flags, session: Session): Promise<NamedAnalysis[]> {
  const { analyzeNamed, analyzeStage } = await import('../../cskd/analyze.ts');
  const model = required(flags.model, '--model', 'a model folder or an ONNX file');
  const named = {
    models: flags.before === undefined ? { model } : { before: flags.before, after: model },
    data: required(flags.data, '--data', 'images'),
    options: optionsOf(flags),
    threads: flags.threads,
    ...session,
  };
  if (flags.out === undefined) {
    const analyses: NamedAnalysis[] = [];
    for (const name of Object.keys(named.models)) {
      analyses.push({ name, analysis: await analyzeNamed(name, named) });
    }
    return analyses;
  }
  const folder = resolve(flags.out);
  const result = await analyzeStage({ ...named, folder });
  return analysesOf(session, folder, result);
}

/** The encoders of a run, before and after alignment. */
async function analyzeRun(
  flags: Flags,
  run: string,
  session: Session,
  command: Command,
): Promise<NamedAnalysis[]> {
  const { ANALYSIS_FOLDER, runAnalysis } = await import('../../cskd/run.ts');
  // A seed of which images are looked at is not the run's.
  const place = { ...defined({ threads: flags.threads }), run };
  const { config, settings } = await openAesthetics(session, command, {}, place);
  const result = await runAnalysis(config, {
    ...settings,
    data: flags.data,
    analysis: optionsOf(flags),
    onStage: undefined,
  });
  return analysesOf(session, join(settings.folder, ANALYSIS_FOLDER), result);
}

/** What a stage wrote. */
async function analysesOf(
  session: Session,
  folder: string,
  { skipped }: StageResult,
): Promise<NamedAnalysis[]> {
  const { readAnalyses } = await import('../../report/read.ts');
  if (skipped) session.log(`analyze: was done already, in ${folder}`);
  session.log(`Plots are in ${join(folder, 'report.html')}`);
  return readAnalyses(folder);
}

function optionsOf(flags: Flags) {
  const { images, seed, imageField, output, file, imageSize, grid, classTokens, heads } = flags;
  const { windowed, renormalize, entropyOf, providers } = flags;
  return defined({
    ...{ images, seed, imageField, output, file, imageSize, grid, classTokens, heads },
    ...{ windowed, renormalize, entropyOf, providers },
  });
}

/** '14x14' as [14, 14]. */
function grid(text: string): [number, number] {
  const [, rows, columns] = /^(\d+)[x×](\d+)$/i.exec(text.trim()) ?? [];
  if (rows === undefined) throw new InvalidArgumentError("Expected rows and columns, such as '14x14'.");
  return [Number(rows), Number(columns)];
}
