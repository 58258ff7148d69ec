import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { packageRoot } from '../../src/native/loader.ts';

const module = join(packageRoot, 'dist', 'run', 'interrupt.js');

/** A process that says 'ready', then waits; on the first signal it says 'stopping' and does `onAbort`. */
function start(onAbort: string) {
  const script = `
    import { catchInterrupt, INTERRUPTED } from ${JSON.stringify(module)};
    const timer = setInterval(() => {}, 1000);
    const interrupt = catchInterrupt(() => console.log('stopping'));
    interrupt.signal.addEventListener('abort', () => { ${onAbort} });
    console.log('ready');`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  const waiting: { what: string; resolve: () => void }[] = [];
  child.stdout.on('data', (chunk) => {
    text += chunk;
    for (const { what, resolve } of waiting) if (text.includes(what)) resolve();
  });
  const said = (what: string) =>
    text.includes(what) ? Promise.resolve() : new Promise<void>((resolve) => waiting.push({ what, resolve }));
  return { child, said };
}

test.each(['SIGINT', 'SIGTERM'] as const)('the first %s lets the work end cleanly', async (name) => {
  const { child, said } = start('process.exitCode = INTERRUPTED; clearInterval(timer); interrupt.dispose();');
  await said('ready');
  child.kill(name);
  const [code, signal] = await once(child, 'exit');
  expect([code, signal]).toEqual([130, null]);
});

test('the second ends the process at once, as the signal does', async () => {
  const { child, said } = start('');
  await said('ready');
  child.kill('SIGINT');
  await said('stopping');
  child.kill('SIGINT');
  const [code, signal] = await once(child, 'exit');
  expect([code, signal]).toEqual([null, 'SIGINT']);
});
