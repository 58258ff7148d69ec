import { join, resolve } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { setThreads } from '../../native/devices.ts';
import { openRun } from '../../run/folder.ts';
import { required } from '../../run/schema.ts';
import { defined } from '../../run/settings.ts';
import {
  type CommonFlags,
  list,
  number,
  outputFlags,
  placeFlags,
  runCommand,
  UsageError,
} from '../common.ts';

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
  outputFlags(placeFlags(command, 'folder for the results; only printed when not given'))
    .option('--model <path>', 'model folder, or ONNX file, of any image encoder')
    .option('--before <path>', 'a second one to compare with, such as the encoder before it was aligned')
    .option(
      '--data <source>',
      'images: a folder, a list, WebDataset tars, or the folder of AVA, AADB or PARA',
    )
    .addOption(number('--images <n>', 'images to look at, drawn by seed (default: 1000)'))
    .option(
      '--image-field <name>',
      'field of a list that names the image (default: found by its usual names)',
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
  $ clip-cid aesthetics analyze --before models/vit --model aligned/model --data photos/ --out analysis/
  $ clip-cid aesthetics analyze --model swin.onnx --windowed --data photos/ --json

Attention has to be unfused in the graph: attn_implementation='eager' in transformers, timm.layers.set_fused_attn(False) in timm.
With --out there is NAME.json for each model and report.html with plots; with --run they are in the run's folder and in its report.`,
    )
    .action((flags: Flags) =>
      runCommand(flags, async (session) => {
        const { analyzeNamed, analyzeStage } = await import('../../cskd/analyze.ts');
        const { formatAnalysis, formatChange } = await import('../../eval/analysis-format.ts');
        const { readAnalyses } = await import('../../report/read.ts');
        if (flags.run !== undefined && flags.out !== undefined) {
          throw new UsageError('Expected --run or --out but received both');
        }
        const { threads } = flags;
        if (threads !== undefined) setThreads(threads);
        const model = required(flags.model, '--model', 'a model folder or an ONNX file');
        const named = {
          models: flags.before === undefined ? { model } : { before: flags.before, after: model },
          data: required(flags.data, '--data', 'images'),
          options: defined({
            images: flags.images,
            seed: flags.seed,
            imageField: flags.imageField,
            output: flags.output,
            file: flags.file,
            imageSize: flags.imageSize,
            grid: flags.grid,
            classTokens: flags.classTokens,
            heads: flags.heads,
            windowed: flags.windowed,
            renormalize: flags.renormalize,
            entropyOf: flags.entropyOf,
            providers: flags.providers,
          }),
          threads,
          ...session,
        };
        const names = Object.keys(named.models);
        const analyses = [];
        if (flags.run === undefined && flags.out === undefined) {
          for (const name of names) analyses.push({ name, analysis: await analyzeNamed(name, named) });
        } else {
          const run = flags.run === undefined ? undefined : await openRun(flags.run);
          try {
            const folder = run ? run.stage('analyze') : resolve(flags.out!);
            const { skipped } = await analyzeStage({ ...named, folder });
            if (skipped) session.log(`analyze: was done already, in ${folder}`);
            session.log(`Plots are in ${join(folder, 'report.html')}`);
            analyses.push(...(await readAnalyses(folder)).filter(({ name }) => names.includes(name)));
          } finally {
            await run?.dispose();
          }
        }
        for (const { name, analysis } of analyses) {
          session.print({ name, ...analysis }, `${name}: ${formatAnalysis(analysis)}`);
        }
        const [before, after] = analyses;
        if (before && after && !flags.json) session.print({}, formatChange(before.analysis, after.analysis));
      }),
    );
}

/** '14x14' as [14, 14]. */
function grid(text: string): [number, number] {
  const [, rows, columns] = /^(\d+)[x×](\d+)$/i.exec(text.trim()) ?? [];
  if (rows === undefined) throw new InvalidArgumentError("Expected rows and columns, such as '14x14'.");
  return [Number(rows), Number(columns)];
}
