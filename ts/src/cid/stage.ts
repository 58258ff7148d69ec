import type { ProgressEvent } from '../run/progress.ts';
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

/** Runs a kernel's work with a stage's options, and says at its end that all is done, which a kernel's own last report seldom does. */
export async function toTheEnd<T>(
  settings: StageSettings,
  label: string,
  work: (options: ReturnType<typeof kernelOptions>) => Promise<T>,
): Promise<T> {
  let last: ProgressEvent | undefined;
  const { onProgress } = settings;
  const watched = {
    ...settings,
    onProgress:
      onProgress &&
      ((event: ProgressEvent) => {
        last = event;
        onProgress(event);
      }),
  };
  const result = await work(kernelOptions(watched, label));
  if (last !== undefined && last.done < last.total) onProgress?.({ ...last, done: last.total });
  return result;
}
