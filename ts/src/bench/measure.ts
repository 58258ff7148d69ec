import type { KernelOptions } from '../native/context.ts';
import { type Device, devices } from '../native/devices.ts';
import { type Peak, peak } from '../native/peak.ts';
import type { Work } from './works.ts';

/** One measurement, as `clip-cid bench --json` prints it. */
export interface Measurement {
  readonly op: string;
  /** `'cpu'` or `'cuda:N'`. */
  readonly device: string;
  /** Instruction set, or a GPU's compute capability. */
  readonly architecture: string;
  readonly threads: number;
  readonly shape: Readonly<Record<string, number>>;
  /** Median of the repetitions. */
  readonly seconds: number;
  readonly spread: { readonly min: number; readonly max: number };
  readonly repeat: number;
  /** Processor time of all threads, median of the repetitions: far from threads × seconds when other work has the processor too. */
  readonly cpu_seconds: number;
  /** Of the operations that brute force takes, at the median. */
  readonly gflops: number;
  /** Of training: images or captions a second, at the median. */
  readonly items_per_second: number | null;
  /** Of training on a GPU: bytes of its memory that are held from step to step. */
  readonly device_memory: number | null;
  /**
   * What the device reaches in this process: on the CPU float32 multiply-adds in registers, by as many threads; on a GPU a large product of
   * float16, as fast as one of bfloat16.
   */
  readonly peak_gflops: number;
  /** The same by precision, 10^9 operations a second, and a GPU's bandwidth, 10^9 bytes a second. */
  readonly peaks: Peak;
  /** gflops / peak_gflops: over 1 where less is computed, or in lower precision. */
  readonly share_of_peak: number;
  /** On a GPU: of its measured bandwidth, what the bytes take that have to go through memory once. Small where products are the work. */
  readonly share_of_bandwidth?: number;
  readonly plan: string | null;
}

/**
 * Runs a work once to warm up and `repeat` times by the clock.
 *
 * @param kernel With device and threads chosen.
 */
export async function measure(
  work: Work,
  kernel: KernelOptions & { readonly device: string; readonly threads: number },
  repeat: number,
  onRun: (done: number) => void = () => {},
): Promise<Measurement> {
  const { device, threads, maxDeviceMemory } = kernel;
  const asked = {
    device: device as Device,
    threads,
    ...(maxDeviceMemory === undefined ? {} : { maxDeviceMemory }),
  };
  const before = await peak(asked);
  let last = await work.run(kernel);
  const times: number[] = [];
  const busy: number[] = [];
  for (let run = 0; run < repeat; run++) {
    onRun(run);
    const usage = process.cpuUsage();
    const start = performance.now();
    last = await work.run(kernel);
    times.push((performance.now() - start) / 1000);
    const { user, system } = process.cpuUsage(usage);
    busy.push((user + system) / 1e6);
  }
  onRun(repeat);
  const after = await peak(asked);
  // Other work on the machine can only lower what is measured.
  const peaks = {
    float32: Math.max(before.float32, after.float32),
    bfloat16: Math.max(before.bfloat16, after.bfloat16),
    int8: Math.max(before.int8, after.int8),
    ...(before.bandwidth === undefined
      ? {}
      : { bandwidth: Math.max(before.bandwidth, after.bandwidth ?? 0) }),
  };
  const reached = device === 'cpu' ? peaks.float32 : peaks.bfloat16;
  const seconds = median(times);
  const gflops = last.operations / seconds / 1e9;
  return {
    op: work.op,
    device,
    architecture: devices().devices.find((info) => info.device === device)!.architecture,
    threads,
    shape: work.shape,
    seconds,
    spread: { min: Math.min(...times), max: Math.max(...times) },
    repeat,
    cpu_seconds: median(busy),
    gflops,
    items_per_second: work.items === undefined ? null : work.items / seconds,
    device_memory: last.deviceMemory ?? null,
    peak_gflops: reached,
    peaks,
    share_of_peak: gflops / reached,
    ...(last.bytes === undefined || peaks.bandwidth === undefined
      ? {}
      : { share_of_bandwidth: last.bytes / seconds / 1e9 / peaks.bandwidth }),
    plan: last.plan ?? null,
  };
}

/** Middle of the values, or the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}
