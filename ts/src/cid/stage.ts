import { defined, type StageSettings } from '../run/settings.ts';

/** The kernels' common options out of a stage's. */
export function kernelOptions(settings: StageSettings, label: string, unit?: string) {
  const { device, threads, maxMemory, maxDeviceMemory, signal, onProgress } = settings;
  return defined({
    device,
    threads,
    maxMemory,
    maxDeviceMemory,
    signal,
    onProgress:
      onProgress &&
      (({ done, total }: { done: number; total: number }) =>
        onProgress({ label, done, total, ...(unit === undefined ? {} : { unit }) })),
  });
}
