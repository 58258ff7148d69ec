// Builds the addon with CMake: node scripts/cmake-build.cjs [output folder] [Release|Debug]
// or builds and runs the native test programs: node scripts/cmake-build.cjs --test
// or builds the native test program for GPUs as build/gpu/test_device (scripts/test-gpu.mjs): node scripts/cmake-build.cjs --gpu-test
// or builds the addon in which CUDA devices are emulated, into build/emulated: node scripts/cmake-build.cjs --emulated
//
// CLIP_CID_CUDA=off leaves CUDA out; CLIP_CID_CUDA_ARCHITECTURES names GPUs to compile for ('all', or a list such as '80;90a'). The trees are in .cmake/, not build/, because node-gyp deletes build/; so rebuilds are incremental.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const root = path.resolve(__dirname, '..');
const testing = process.argv[2] === '--test';
const emulated = process.argv[2] === '--emulated';
const forGpu = process.argv[2] === '--gpu-test';
const ofTests = testing || emulated || forGpu;
const output = path.resolve(
  root,
  emulated ? 'build/emulated' : forGpu ? 'build/gpu' : (process.argv[2] ?? 'build/Release'),
);
const configuration = ofTests ? 'Release' : (process.argv[3] ?? 'Release');
const tree = path.join(root, '.cmake', forGpu ? 'gpu-test' : ofTests ? 'test' : configuration);
// Tests on this machine emulate the GPU: compiling its kernels for real ones once more would be minutes for nothing.
const withoutCuda = (ofTests && !forGpu) || /^(off|0|no|false)$/i.test(process.env.CLIP_CID_CUDA ?? '');
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
  `-DCLIPCID_CUDA=${withoutCuda ? 'OFF' : 'ON'}`,
  `-DCLIPCID_CUDA_ARCHITECTURES=${process.env.CLIP_CID_CUDA_ARCHITECTURES || 'default'}`,
  `-DCLIPCID_TESTS=${ofTests ? 'ON' : 'OFF'}`,
  `-DCLIPCID_EMULATED=${ofTests ? 'ON' : 'OFF'}`,
]);
const parallel = String(os.availableParallelism());
const built = testing
  ? 'native_tests'
  : emulated
    ? 'clip_cid_emulated'
    : forGpu
      ? 'gpu_test_device'
      : 'clip_cid';
run('cmake', ['--build', tree, '--target', built, '--parallel', parallel]);
if (testing) {
  run('ctest', ['--test-dir', tree, '--output-on-failure', '--no-tests=error']);
  process.exit(0);
}

// By rename, so that a process which has the old binary open keeps it whole.
fs.mkdirSync(output, { recursive: true });
const target = path.join(output, forGpu ? 'test_device' : 'clip_cid.node');
const temporary = `${target}.${process.pid}.tmp`;
fs.copyFileSync(path.join(tree, forGpu ? built : `${built}.node`), temporary);
fs.renameSync(temporary, target);
