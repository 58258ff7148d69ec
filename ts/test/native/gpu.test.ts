import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { devices } from '../../src/native/devices.ts';

const script = fileURLToPath(new URL('../../../scripts/test-gpu.mjs', import.meta.url));

function testGpu(...args: string[]) {
  const env = { ...process.env, CLIP_CID_ADDON: addonFile };
  return spawnSync(process.execPath, [script, ...args], { encoding: 'utf8', env });
}
const addonFile = devices().addon;
const found = devices().devices.filter(({ device }) => device.startsWith('cuda'));

describe('test:gpu', () => {
  it('names what it was told wrongly', () => {
    for (const args of [['shapes'], ['--rows', '7'], ['--rows', 'many'], ['--sizes', '3']]) {
      const { status, stderr } = testGpu(...args);
      expect(status).toBe(2);
      expect(stderr).toContain(args.at(-1) === 'shapes' ? 'but received shapes' : '--');
    }
  });

  it.runIf(found.every(({ usable }) => !usable))('says that there is no device, and ends with 3', () => {
    const { status, stderr } = testGpu();
    expect(status).toBe(3);
    expect(stderr).toContain('nothing was tested');
    expect(stderr).toContain(found[0]?.reason ?? devices().cuda!);
  });
});
