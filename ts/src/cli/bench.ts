import type { Command } from 'commander';
import type { InputOptions } from '../bench/inputs.ts';
import type { Measurement } from '../bench/measure.ts';
import type { Work } from '../bench/works.ts';
import { expectInteger, expectNumber, expectOneOf } from '../native/check.ts';
import type { KernelOptions } from '../native/context.ts';
import type { Device } from '../native/devices.ts';
import { loaderBench } from './bench-loader.ts';
import {
  type CommonFlags,
  deviceMemoryOption,
  number,
  outputFlags,
  runCommand,
  type Session,
  simdFlag,
} from './common.ts';

/** Flags of every operation: where, and how often. */
interface TimingFlags extends CommonFlags {
  seed: number;
  repeat: number;
}

/** Flags of operations over rows: on what data, and how. */
interface Flags extends TimingFlags {
  dim: number;
  spectrum: string;
  filter?: string;
  prefix?: number;
  maxMemory?: number;
  maxDeviceMemory?: number;
}

export function benchCommand(program: Command): void {
  const bench = program
    .command('bench')
    .description('measure kernels, training and the loading of images on this machine, on seeded data')
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid bench dedup
  $ clip-cid bench dedup --rows 100000 --spectrum flat --filter float32 --prefix 0
  $ clip-cid bench kmeans --rows 100000 --dim 256 --clusters 1000 --json
  $ clip-cid bench nearest --queries 10000 --rows 100000 --k 10
  $ clip-cid bench loss --batch 1024 --clusters 20000 --cached
  $ clip-cid bench train --model vit-w512
  $ clip-cid bench loader --image photo --size 224

GFLOP/s are those that brute force would need for the same result in the same time, and the peak is what the threads reach with float32
multiply-adds in registers: the share is over 1 where less is computed, or in lower precision. Times are medians. On a GPU (--device cuda) the
peak is a large product of float16, measured in the same process; products as good as float32's, as in the loss, are three of those.`,
    );
  operation(bench, 'dedup', 'groups of near-duplicate rows, all pairs')
    .addOption(number('--rows <n>', 'rows').default(20_000))
    .addOption(number('--dim <d>', 'coordinates of a row').default(512))
    .addOption(number('--threshold <cosine>', 'rows over this cosine are near-duplicates').default(0.9))
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid bench dedup --rows 20000 --dim 512 --threshold 0.9
  $ clip-cid bench dedup --spectrum flat --filter float32 --prefix 0 --json    the float32 path alone`,
    )
    .action(
      action<{ rows: number; threshold: number }>(async (works, data, { rows, threshold }) =>
        works.dedupWork({
          ...data,
          rows: count('rows', rows),
          threshold: expectNumber('threshold', threshold, -1, 1),
        }),
      ),
    );
  operation(bench, 'kmeans', 'k-means from given centres')
    .addOption(number('--rows <n>', 'rows').default(100_000))
    .addOption(number('--dim <d>', 'coordinates of a row').default(256))
    .addOption(number('--clusters <k>', 'centres').default(1000))
    .addOption(number('--iterations <n>', 'iterations').default(10))
    .option('--spherical', 'compare cosines, with unit centres (default: Euclidean distances)', false)
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid bench kmeans
  $ clip-cid bench kmeans --rows 1000000 --dim 512 --clusters 10000 --iterations 5 --spherical --repeat 1`,
    )
    .action(
      action<{ rows: number; clusters: number; iterations: number; spherical: boolean }>(
        async (works, data, { rows, clusters, iterations, spherical }) =>
          works.kmeansWork({
            ...data,
            rows: count('rows', rows),
            clusters: count('clusters', clusters),
            iterations: count('iterations', iterations),
            spherical,
          }),
      ),
    );
  operation(bench, 'nearest', 'the k best rows for every query, exactly')
    .addOption(number('--queries <n>', 'queries').default(10_000))
    .addOption(number('--rows <n>', 'rows to search').default(100_000))
    .addOption(number('--dim <d>', 'coordinates of a row').default(512))
    .addOption(number('--k <n>', 'rows to find for each query').default(10))
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid bench nearest --queries 10000 --rows 100000 --dim 512 --k 10`,
    )
    .action(
      action<{ queries: number; rows: number; k: number }>(async (works, data, { queries, rows, k }) =>
        works.nearestWork({
          ...data,
          queries: count('queries', queries),
          rows: count('rows', rows),
          k: count('k', k),
        }),
      ),
    );
  operation(bench, 'loss', 'the loss of distillation with all its terms, forward and backward')
    .addOption(number('--batch <b>', 'pairs of image and caption').default(1024))
    .addOption(number('--dim <d>', 'width of the embeddings').default(512))
    .addOption(number('--clusters <k>', 'centres').default(20_000))
    .option('--cached', "with the teacher's softmax over the centres computed beforehand", false)
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid bench loss --batch 1024 --dim 512 --clusters 20000
  $ clip-cid bench loss --cached --json`,
    )
    .action(
      action<{ batch: number; clusters: number; cached: boolean }>(
        async (works, data, { batch, clusters, cached }) =>
          works.lossWork({
            ...data,
            batch: count('batch', batch),
            clusters: count('clusters', clusters),
            cached,
          }),
      ),
    );
  trainOperation(bench);
  loaderBench(bench);
}

/** A subcommand with the flags that all of them have. */
function timing(bench: Command, name: string, description: string): Command {
  return outputFlags(bench.command(name))
    .description(description)
    .addOption(number('--seed <n>', 'seed of the data').default(0))
    .addOption(number('--repeat <n>', 'runs by the clock, after one to warm up').default(5))
    .option('--device <device>', "'auto', 'cpu', 'cuda' or 'cuda:N' (default: auto)")
    .addOption(number('--threads <n>', 'threads on the CPU (default: all cores)'))
    .addOption(simdFlag());
}

/** One with those of operations over rows. */
function operation(bench: Command, name: string, description: string): Command {
  return timing(bench, name, description)
    .option('--spectrum <name>', "how the rows lie: 'decaying' as embeddings do, or 'flat'", 'decaying')
    .option(
      '--filter <precision>',
      "'auto', 'float32', 'bfloat16' or 'int8' in front of the exact decision (default: auto)",
    )
    .addOption(number('--prefix <n>', 'coordinates that the filter compares, 0 for all (default: chosen)'))
    .addOption(number('--max-memory <bytes>', 'memory that a call may hold beyond inputs and results'))
    .addOption(deviceMemoryOption("most of a GPU's memory that a call may hold (default: what is free)"));
}

type Works = typeof import('../bench/works.ts');

/** What a subcommand over rows does: `prepare` makes its work from the flags, which is then measured and printed. */
function action<Sizes>(
  prepare: (works: Works, data: InputOptions, flags: Flags & Sizes) => Promise<Work>,
): (flags: Flags & Sizes) => Promise<void> {
  return (flags) =>
    runCommand(flags, async (session) => {
      const { SPECTRA } = await import('../bench/data.ts');
      const { signal, onProgress } = session;
      const spectrum = expectOneOf('spectrum', flags.spectrum, SPECTRA);
      const kernel = {
        ...(flags.filter === undefined
          ? {}
          : { filter: flags.filter as NonNullable<KernelOptions['filter']> }),
        ...(flags.prefix === undefined ? {} : { prefix: flags.prefix }),
        ...(flags.maxMemory === undefined ? {} : { maxMemory: flags.maxMemory }),
        ...(flags.maxDeviceMemory === undefined ? {} : { maxDeviceMemory: flags.maxDeviceMemory }),
      };
      const data: InputOptions = {
        dim: count('dim', flags.dim),
        spectrum,
        seed: expectInteger('seed', flags.seed),
        signal,
        onProgress: ({ done, total }) => onProgress({ label: 'data', done, total, unit: 'rows' }),
      };
      await time(flags, session, kernel, (works) => prepare(works, data, flags), { spectrum });
    });
}

/** Makes a work, measures it and prints what came out, with what else tells results apart. */
async function time(
  flags: TimingFlags,
  { signal, onProgress, print }: Session,
  kernel: KernelOptions,
  prepare: (works: Works) => Promise<Work>,
  about: Readonly<Record<string, string>>,
): Promise<void> {
  const { measure } = await import('../bench/measure.ts');
  const { chooseDevice, setInstructions, threads } = await import('../native/devices.ts');
  if (flags.simd !== undefined) setInstructions(flags.simd);
  const { device } = chooseDevice((flags.device ?? 'auto') as Device);
  const repeat = expectInteger('repeat', flags.repeat, 1, 1_000_000);
  const chosen = { ...kernel, device: device as Device, threads: flags.threads ?? threads(), signal };
  const work = await prepare(await import('../bench/works.ts'));
  try {
    const measured = await measure(work, chosen, repeat, (done) =>
      onProgress({ label: work.op, done, total: repeat, unit: 'runs' }),
    );
    print({ ...measured, ...about }, describe(measured, Object.values(about)));
  } finally {
    await work.dispose?.();
  }
}

interface TrainFlags {
  model: string;
  batch?: number;
  microBatch?: number;
  maxDeviceMemory?: number;
  executor: string;
  precision: string;
}

function trainOperation(bench: Command): void {
  timing(bench, 'train', "one step of training: forward, CLIP's loss, backward and AdamW")
    .option(
      '--model <name>',
      'vit-w192, vit-w512, text-w512, resnet18, mobilenetv3-small, clip-w192 or clip-b-32',
      'vit-w192',
    )
    .addOption(number('--batch <b>', "pairs in the batch (default: the model's, 32 to 4,096)"))
    .addOption(number('--micro-batch <b>', 'rows that run through a tower at once (default: the batch)'))
    .addOption(deviceMemoryOption("most of a GPU's memory that training may hold (default: what is free)"))
    .option('--executor <name>', "what runs it: 'auto', 'native' or 'onnxruntime'", 'auto')
    .option('--precision <name>', "of large products: 'float32' or 'bf16'", 'float32')
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid bench train
  $ clip-cid bench train --model resnet18 --batch 64
  $ clip-cid bench train --model vit-w512 --precision bf16
  $ clip-cid bench train --model vit-w512 --precision bf16 --batch 256 --device cuda
  $ clip-cid bench train --model clip-b-32 --micro-batch 1024 --precision bf16 --device cuda
  $ clip-cid bench train --model text-w512 --executor onnxruntime --json

GFLOP/s count the products of the forward pass three times. Memory is what a GPU holds from step to step.`,
    )
    .action((flags: TimingFlags & TrainFlags) =>
      runCommand(flags, async (session) => {
        const { EXECUTORS } = await import('../program/create.ts');
        const { model, batch, microBatch, maxDeviceMemory, seed } = flags;
        const executor = expectOneOf('executor', flags.executor, EXECUTORS);
        const { PRECISIONS } = await import('../program/precision.ts');
        const precision = expectOneOf('precision', flags.precision, PRECISIONS);
        const prepare = async (works: Works) =>
          works.trainWork({
            ...{ model, batch, microBatch, executor, precision },
            seed: expectInteger('seed', seed),
          });
        const kernel = maxDeviceMemory === undefined ? {} : { maxDeviceMemory };
        await time({ ...flags, device: flags.device ?? 'cpu' }, session, kernel, prepare, {
          model,
          precision,
        });
      }),
    );
}

function count(name: string, value: number): number {
  return expectInteger(name, value, 1, 2 ** 31 - 1);
}

function describe(measured: Measurement, about: readonly string[]): string {
  const { op, device, architecture, threads, shape, seconds, spread, repeat } = measured;
  const { items_per_second: items, device_memory: memory } = measured;
  const sizes = Object.entries(shape).map(([name, value]) => `${name} ${value.toLocaleString('en')}`);
  const line = (name: string, text: string) => `${name.padEnd(10)}${text}`;
  return [
    `${op} on ${device} (${architecture}, ${threads} ${threads === 1 ? 'thread' : 'threads'}): ${[...sizes, ...about].join(', ')}`,
    line('seconds', `${digits(seconds)} (${digits(spread.min)} to ${digits(spread.max)}, ${repeat} runs)`),
    ...speed(measured, line),
    ...(items === null ? [] : [line('items/s', whole(items))]),
    ...(memory === null ? [] : [line('memory', `${whole(memory / 2 ** 20)} MiB of the device`)]),
    ...(measured.plan === null ? [] : [line('plan', measured.plan)]),
  ].join('\n');
}

function speed(measured: Measurement, line: (name: string, text: string) => string): string[] {
  const { device, gflops, peak_gflops, peaks, share_of_bandwidth: moved } = measured;
  const share = `share ${measured.share_of_peak.toFixed(2)}`;
  if (device === 'cpu')
    return [line('GFLOP/s', `${whole(gflops)} of brute force; float32 peak ${whole(peak_gflops)}, ${share}`)];
  const tera = (value: number) => (value / 1000).toPrecision(3);
  return [
    line(
      'TFLOP/s',
      `${tera(gflops)} of brute force; a large product of float16 ${tera(peak_gflops)}, ${share}; of int8 ${tera(peaks.int8)}, ` +
        `of float32 ${tera(peaks.float32)}`,
    ),
    line(
      'bandwidth',
      `${whole(peaks.bandwidth ?? 0)} GB/s of a copy${moved === undefined ? '' : `, share ${moved.toPrecision(2)} for rows and results once`}`,
    ),
  ];
}

function whole(value: number): string {
  return value.toLocaleString('en', { maximumFractionDigits: 0 });
}

function digits(seconds: number): string {
  return seconds.toPrecision(3);
}
