import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Worker, type WorkerOptions } from 'node:worker_threads';
import { CidError } from '../native/errors.ts';

/**
 * Starts a worker thread from `new URL('./x.worker.ts', import.meta.url)`. Node runs JavaScript only, so it is always the
 * compiled file that starts: the sibling `.js` in `dist`, or `dist`'s copy of the same file when called from the sources
 * (as tests do).
 *
 * The worker gets a copy of this process's environment in which ONNX Runtime's telemetry is off: the runtime reads the
 * variable when it is first loaded, in whichever thread that happens.
 */
export function startWorker(url: URL, options: WorkerOptions = {}): Worker {
  const compiled = compiledUrl(url);
  if (!existsSync(compiled)) {
    throw new CidError(
      'INTERNAL',
      `Worker ${fileURLToPath(compiled)} is not there. Build the package first: npm run build:ts`,
    );
  }
  process.env.ORT_DISABLE_TELEMETRY = '1';
  const env = options.env && typeof options.env === 'object' ? options.env : process.env;
  // Flags of the main thread, `--input-type` for one, may be none that a worker takes.
  return new Worker(compiled, { execArgv: [], ...options, env: { ...env, ORT_DISABLE_TELEMETRY: '1' } });
}

function compiledUrl(url: URL): URL {
  if (!url.pathname.endsWith('.ts')) return url;
  const path = url.href.replace(/\.ts$/, '.js');
  // From dist/**, the source's `.ts` only needs its new extension.
  if (import.meta.url.endsWith('.js')) return new URL(path);
  const sources = new URL('..', import.meta.url).href;
  const dist = new URL('../../../dist/', import.meta.url).href;
  return new URL(path.startsWith(sources) ? dist + path.slice(sources.length) : path);
}
