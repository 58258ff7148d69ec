// Builds the addon with CMake: node scripts/cmake-build.cjs [output folder] [Release|Debug]
//
// CLIP_CID_CUDA=off leaves CUDA out. The tree is .cmake/, not build/, because node-gyp deletes build/; so rebuilds are incremental.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const root = path.resolve(__dirname, '..');
const output = path.resolve(root, process.argv[2] ?? 'build/Release');
const configuration = process.argv[3] ?? 'Release';
const tree = path.join(root, '.cmake', configuration);
const cache = path.join(tree, 'CMakeCache.txt');

const environment = { ...process.env };
// Inside node-gyp an outer make is running; its flags and job server are not for ours.
for (const name of ['MAKEFLAGS', 'MFLAGS', 'MAKELEVEL', 'GNUMAKEFLAGS']) delete environment[name];

function has(tool) {
  return spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0;
}

function run(args) {
  const result = spawnSync('cmake', args, { cwd: root, stdio: 'inherit', env: environment });
  if (result.error) {
    console.error(`CMake could not be started (${result.error.message}). Install CMake 3.22 or newer and a C++20 compiler.`);
    process.exit(1);
  }
  if (result.status !== 0) process.exit(result.status ?? 1);
}

const generator = has('ninja') ? 'Ninja' : 'Unix Makefiles';
if (fs.existsSync(cache)) {
  // A tree configured in another folder (a copied checkout) or for another generator cannot be used again.
  const text = fs.readFileSync(cache, 'utf8');
  const entry = (name) => text.match(new RegExp(`^${name}:\\w+=(.*)$`, 'm'))?.[1];
  if (entry('CMAKE_HOME_DIRECTORY') !== root || entry('CMAKE_GENERATOR') !== generator) {
    fs.rmSync(tree, { recursive: true, force: true });
  }
}

run([
  '-S',
  root,
  '-B',
  tree,
  '-G',
  generator,
  `-DCMAKE_BUILD_TYPE=${configuration}`,
  `-DNODE_EXECUTABLE=${process.execPath}`,
  `-DCLIPCID_CUDA=${/^(off|0|no|false)$/i.test(process.env.CLIP_CID_CUDA ?? '') ? 'OFF' : 'ON'}`,
]);
run(['--build', tree, '--target', 'clip_cid', '--parallel', String(require('node:os').availableParallelism())]);

// By rename, so that a process which has the old binary open keeps it whole.
fs.mkdirSync(output, { recursive: true });
const target = path.join(output, 'clip_cid.node');
const temporary = `${target}.${process.pid}.tmp`;
fs.copyFileSync(path.join(tree, 'clip_cid.node'), temporary);
fs.renameSync(temporary, target);
