import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';

const source = JSON.stringify(new URL('../../../dist/native/devices.js', import.meta.url).href);

/** Loads the addon in a process of its own. */
async function load(mainloop: string): Promise<string> {
  const program = `const { devices } = await import(${source}); console.log(devices().devices[0].device)`;
  const env = { ...process.env, CLIP_CID_CUDA_MAINLOOP: mainloop };
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], {
    env,
  });
  return stdout.trim();
}

describe('mainloops', () => {
  it('are named by the environment', async () => {
    for (const name of ['', 'sm_80', 'sm_90']) expect(await load(name)).toBe('cpu');
    await expect(load('sm80')).rejects.toThrow(
      /RangeError: Expected one of 'sm_80', 'sm_90' for CLIP_CID_CUDA_MAINLOOP but received "sm80"/,
    );
  });
});
