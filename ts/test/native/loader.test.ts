import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { packageVersion } from '../../src/native/loader.ts';

const folder = mkdtempSync(join(tmpdir(), 'clip-cid-loader-'));
afterAll(() => rmSync(folder, { recursive: true }));
afterEach(() => vi.unstubAllEnvs());

/** A loader that has loaded nothing yet, with the override set. */
async function freshLoader(override: string) {
  vi.stubEnv('CLIP_CID_ADDON', override);
  vi.resetModules();
  return import('../../src/native/loader.ts');
}

function stub(name: string, source: string): string {
  const path = join(folder, name);
  writeFileSync(path, source);
  return path;
}

describe('loader', () => {
  it('loads what CLIP_CID_ADDON names, once', async () => {
    const path = stub('good.cjs', `module.exports = { version: '${packageVersion}', load: Math.random() };`);
    const { loadAddon, addonPath } = await freshLoader(path);
    expect(loadAddon()).toBe(loadAddon());
    expect(addonPath()).toBe(path);
  });

  it('says what it tried and what to do when the file is missing or no addon', async () => {
    for (const path of [join(folder, 'missing.node'), stub('broken.node', 'not a library')]) {
      const { loadAddon } = await freshLoader(path);
      expect(loadAddon).toThrow(
        expect.objectContaining({
          code: 'ADDON_NOT_FOUND',
          message: expect.stringMatching(/Tried .*(missing|broken)\.node[\s\S]*unset CLIP_CID_ADDON/),
        }),
      );
    }
  });

  it('refuses a binary of another version', async () => {
    const { loadAddon } = await freshLoader(
      stub('other.cjs', `module.exports = { version: '0.0.0-other' };`),
    );
    expect(loadAddon).toThrow(/version 0\.0\.0-other, and the package is version/);
  });
});
