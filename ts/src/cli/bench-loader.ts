import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import type { LoaderMeasurement } from '../bench/loader.ts';
import { expectInteger, expectOneOf } from '../native/check.ts';
import { type CommonFlags, number, outputFlags, runCommand } from './common.ts';

interface Flags extends CommonFlags {
  data?: string;
  image: string;
  source: string;
  images: number;
  size: number;
  batch: number;
  augment: string;
  repeat: number;
  seed: number;
}

/** All that an augmentation can do, so that every part of rendering is measured. */
const EVERYTHING = { flip: 0.5, rotation: 10, brightness: 0.3, contrast: 0.3, saturation: 0.3, hue: 0.05 };

/** `bench loader`: images a second, read, decoded, and rendered as views. */
export function loaderBench(bench: Command): void {
  outputFlags(bench.command('loader'))
    .description('images a second that the loader makes for training: read, decoded, and rendered as views')
    .option('--data <source>', 'own images: a list, a folder, or WebDataset tars, instead of made ones')
    .option(
      '--image <kind>',
      "made images: 'jpeg' (500 × 375), 'photo' (1024 × 768) or 'png' (64 × 64, transparent)",
      'jpeg',
    )
    .option('--source <kind>', "made images lie in 'files' or in a 'tar'", 'files')
    .addOption(number('--images <n>', 'made images').default(1024))
    .addOption(number('--size <pixels>', 'side of the views').default(224))
    .addOption(number('--batch <n>', 'rows of a batch').default(256))
    .option('--augment <what>', "'crop' alone, 'all' that there is, or 'none'", 'crop')
    .addOption(number('--threads <n>', 'threads (default: all cores)'))
    .addOption(number('--seed <n>', 'seed of images, order and views').default(0))
    .addOption(number('--repeat <n>', 'runs by the clock, after one to warm up').default(5))
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid bench loader
  $ clip-cid bench loader --image photo --source tar --size 64
  $ clip-cid bench loader --data 'photos/*.tar' --size 224 --augment all --json

Nothing is cached: every image is read and decoded in every run. Compare the rate with a training's "step", which its progress shows.`,
    )
    .action((flags: Flags) =>
      runCommand(flags, async ({ signal, onProgress, print }) => {
        const { PICTURE_KINDS, PICTURES, makePictures, writePictures } = await import('../bench/pictures.ts');
        const { measureLoader } = await import('../bench/loader.ts');
        const { openDataset } = await import('../data/dataset.ts');
        const { resolveAugmentation } = await import('../student/augment.ts');
        const { threads } = await import('../native/devices.ts');
        const kind = expectOneOf('image', flags.image, PICTURE_KINDS);
        const source = expectOneOf('source', flags.source, ['files', 'tar']);
        const augment = expectOneOf('augment', flags.augment, ['crop', 'all', 'none']);
        const repeat = expectInteger('repeat', flags.repeat, 1, 1_000_000);
        const settings = {
          size: expectInteger('size', flags.size, 1, 4096),
          batch: expectInteger('batch', flags.batch, 1),
          seed: expectInteger('seed', flags.seed),
          threads: expectInteger('threads', flags.threads ?? threads(), 1, 1024),
          augmentation: resolveAugmentation(
            augment === 'none' ? 'none' : augment === 'all' ? EVERYTHING : {},
          ),
          repeat,
        };
        const count = expectInteger('images', flags.images, 1, 10_000_000);
        const folder = await mkdtemp(join(tmpdir(), 'clip-cid-bench-'));
        try {
          const extension = kind === 'png' ? 'png' : 'jpg';
          const path =
            flags.data ??
            (await writePictures(folder, await makePictures(kind, settings.seed), count, source, extension));
          const data = await openDataset(path, { captions: false });
          let runs = 0;
          const measured = await measureLoader({
            ...settings,
            data,
            signal,
            onRun: () => onProgress({ label: 'loader', done: ++runs, total: 3 * (repeat + 1), unit: 'runs' }),
          });
          await data.dispose();
          const { width, height } = PICTURES[kind];
          const images = flags.data ?? `${kind} ${width}×${height}`;
          const record = { ...measured, images, source: flags.data === undefined ? source : 'own', augment };
          print(record, describe(measured, `${images}, ${record.source}, augment ${augment}`));
        } finally {
          await rm(folder, { recursive: true, force: true });
        }
      }),
    );
}

function describe(measured: LoaderMeasurement, what: string): string {
  const { architecture, threads, shape, seconds, spread, repeat, cpu_ms_per_image, broken } = measured;
  const rate = (value: number) => value.toLocaleString('en', { maximumFractionDigits: 0 });
  const line = (name: string, text: string) => `${name.padEnd(9)}${text}`;
  return [
    `loader on cpu (${architecture}, ${threads} ${threads === 1 ? 'thread' : 'threads'}): ${what}; ` +
      `images ${rate(shape.images!)}, size ${shape.size}, batch ${shape.batch}`,
    line(
      'images/s',
      `${rate(measured.images_per_second)}; read and decoded alone ${rate(measured.decode_images_per_second)}, ` +
        `rendered alone ${rate(measured.render_images_per_second)}`,
    ),
    line(
      'seconds',
      `${seconds.toPrecision(3)} (${spread.min.toPrecision(3)} to ${spread.max.toPrecision(3)}, ${repeat} runs), ` +
        `${cpu_ms_per_image.toPrecision(3)} ms of a processor an image`,
    ),
    ...(broken > 0 ? [line('broken', `${broken} images, whose place others took`)] : []),
  ].join('\n');
}
