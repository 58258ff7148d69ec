import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { NativeAddon } from './addon.ts';
import { CidError } from './errors.ts';
import { checkInstructionsVariable } from './instructions.ts';
import { checkMainloopVariable } from './mainloops.ts';

/** Path of a binary of the native core to load instead of the package's own. */
const OVERRIDE = 'CLIP_CID_ADDON';

const require = createRequire(import.meta.url);

/** Root of the package: the nearest folder upward with its package.json, whether this file is source or compiled. */
export const packageRoot = findPackageRoot();

/** Version of the package, which the native core must have too. */
export const packageVersion = (
  JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string }
).version;

let loaded: { addon: NativeAddon; path: string } | undefined;

/**
 * The native core, loaded once a thread.
 *
 * Looked for where `CLIP_CID_ADDON` points, or else in the repository's `build/Release` and the package's `prebuilds`.
 *
 * @throws CidError ADDON_NOT_FOUND that lists what was tried and how to get a binary.
 * @throws RangeError when `CLIP_CID_SIMD` names no instruction set, or `CLIP_CID_CUDA_MAINLOOP` no mainloop.
 */
export function loadAddon(): NativeAddon {
  loaded ??= load(process.env[OVERRIDE]);
  return loaded.addon;
}

/** File that {@link loadAddon} loads; for diagnosis. */
export function addonPath(): string {
  loadAddon();
  return loaded!.path;
}

function load(override: string | undefined): { addon: NativeAddon; path: string } {
  checkInstructionsVariable();
  checkMainloopVariable();
  const path = override ? resolve(override) : locate();
  let addon: NativeAddon;
  try {
    addon = require(path) as NativeAddon;
  } catch (cause) {
    throw notFound(`Tried ${path}: ${firstLine(cause)}`, override !== undefined, cause);
  }
  if (addon.version !== packageVersion) {
    throw notFound(
      `Tried ${path}: it is version ${String(addon.version)}, and the package is version ${packageVersion}`,
      override !== undefined,
    );
  }
  return { addon, path };
}

function locate(): string {
  const { resolve: find } = require('node-gyp-build') as { resolve: (folder: string) => string };
  try {
    return find(packageRoot);
  } catch (cause) {
    throw notFound(
      `There is no .node file in ${join(packageRoot, 'build', 'Release')}, nor one for this platform in ${join(packageRoot, 'prebuilds')}`,
      false,
      cause,
    );
  }
}

function notFound(problem: string, overridden: boolean, cause?: unknown): CidError {
  const lines = [
    `The native core of clip-cid could not be loaded on ${process.platform}-${process.arch} (Node ${process.version}).`,
    `  ${problem}.`,
    'To mend it:',
  ];
  if (overridden) {
    lines.push(`  - unset ${OVERRIDE}, or let it name a binary of clip-cid ${packageVersion}`);
  } else if (existsSync(join(packageRoot, 'CMakeLists.txt'))) {
    lines.push(
      `  - build it (CMake and a C++20 compiler are needed): cd ${packageRoot} && npm run build:native`,
      `  - or name a binary that was built elsewhere: export ${OVERRIDE}=/path/to/clip-cid.node`,
    );
  } else {
    lines.push(
      `  - install the package again, with its binaries: npm install clip-cid@${packageVersion}`,
      '  - if this platform has no binary, build one in a clone of the repository (npm ci && npm run build:all)',
      `    and name it: export ${OVERRIDE}=/path/to/clip-cid.node`,
    );
  }
  return new CidError('ADDON_NOT_FOUND', lines.join('\n'), { cause });
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n', 1)[0]!;
}

function findPackageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json')) && dirname(folder) !== folder) folder = dirname(folder);
  return folder;
}
