// Builds the addon with CMake: node scripts/cmake-build.cjs [output folder] [Release|Debug]
// or builds and runs the native test programs: node scripts/cmake-build.cjs --test
//
// CLIP_CID_CUDA=off leaves CUDA out. The trees are in .cmake/, not build/, because node-gyp deletes build/; so rebuilds are incremental.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const root = path.resolve(__dirname, '..');
const testing = process.argv[2] === '--test';
const output = path.resolve(root, process.argv[2] ?? 'build/Release');
const configuration = testing ? 'Release' : (process.argv[3] ?? 'Release');
const tree = path.join(root, '.cmake', testing ? 'test' : configuration);
const cache = path.join(tree, 'CMakeCache.txt');

const environment = { ...process.env };
// Inside node-gyp an outer make is running; its flags and job server are not for ours.
for (const name of ['MAKEFLAGS', 'MFLAGS', 'MAKELEVEL', 'GNUMAKEFLAGS']) delete environment[name];

function has(tool) {
  return spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0;
}

function run(command, args) {
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit', env: environment });
  if (result.error) {
    console.error(
      `${command} could not be started (${result.error.message}). Install CMake 3.22 or newer and a C++20 compiler.`,
    );
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

run('cmake', [
  '-S',
  root,
  '-B',
  tree,
  '-G',
  generator,
  `-DCMAKE_BUILD_TYPE=${configuration}`,
  `-DNODE_EXECUTABLE=${process.execPath}`,
  `-DCLIPCID_CUDA=${/^(off|0|no|false)$/i.test(process.env.CLIP_CID_CUDA ?? '') ? 'OFF' : 'ON'}`,
  `-DCLIPCID_TESTS=${testing ? 'ON' : 'OFF'}`,
]);
const parallel = String(os.availableParallelism());
run('cmake', ['--build', tree, '--target', testing ? 'native_tests' : 'clip_cid', '--parallel', parallel]);
if (testing) {
  run('ctest', ['--test-dir', tree, '--output-on-failure', '--no-tests=error']);
  process.exit(0);
}

// By rename, so that a process which has the old binary open keeps it whole.
fs.mkdirSync(output, { recursive: true });
const target = path.join(output, 'clip_cid.node');
const temporary = `${target}.${process.pid}.tmp`;
fs.copyFileSync(path.join(tree, 'clip_cid.node'), temporary);
fs.renameSync(temporary, target);
