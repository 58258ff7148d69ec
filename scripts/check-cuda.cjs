// Compiles the GPU's kernels, warnings being errors, and reads ptxas' report: no kernel may spill a register or keep anything on a
// stack, which is memory that every thread then waits for, and no products of a warpgroup may be made to wait. Needs no GPU.
//
//   node scripts/check-cuda.cjs           the architectures of the default build
//   node scripts/check-cuda.cjs --all     all of them
//
// CLIP_CID_CUDA_ARCHITECTURES names others. Exit codes: 0 fine, 1 not, 3 there is no CUDA compiler here.
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const root = path.resolve(__dirname, '..');
const tree = path.join(root, '.cmake', 'check-cuda');
const NO_COMPILER = 3;

function main() {
  const unknown = process.argv.slice(2).filter((argument) => argument !== '--all');
  if (unknown.length > 0) {
    console.error(`Expected no argument or --all but received ${unknown.join(' ')}`);
    return 2;
  }
  const architectures = process.argv.includes('--all')
    ? 'all'
    : process.env.CLIP_CID_CUDA_ARCHITECTURES || 'default';
  const begun = Date.now();
  const generator = spawnSync('ninja', ['--version'], { stdio: 'ignore' }).status === 0;
  // From nothing: a report is only made by what is compiled.
  fs.rmSync(tree, { recursive: true, force: true });
  const configured = run('cmake', [
    '-S',
    root,
    '-B',
    tree,
    '-G',
    generator ? 'Ninja' : 'Unix Makefiles',
    `-DNODE_EXECUTABLE=${process.execPath}`,
    `-DCLIPCID_CUDA_ARCHITECTURES=${architectures}`,
    '-DCLIPCID_PTXAS_REPORT=ON',
  ]);
  if (configured.status !== 0) return fail(configured);
  const compiled = configured.stdout.match(/CUDA (\S+): compiled in, for (.*)/);
  if (compiled === null) {
    console.error(
      'check:cuda: there is no CUDA compiler here (nvcc of CUDA 12.4 or newer), so nothing was checked',
    );
    return NO_COMPILER;
  }
  // make mixes what jobs say, unless it is told not to.
  const build = ['--build', tree, '--target', 'clipcid_kernels', '--parallel'];
  const built = run('cmake', generator ? build : [...build, '--', '--output-sync=target']);
  if (built.status !== 0) return fail(built);

  const kernels = readReport(`${built.stdout}\n${built.stderr}`);
  if (kernels.length === 0) {
    console.error("check:cuda: ptxas' report names no kernel; is its format another in this version?");
    return 1;
  }
  const bad = kernels.filter(({ stack, stores, loads }) => stack + stores + loads > 0);
  for (const { name, architecture, stack, stores, loads } of bad) {
    console.error(
      `${architecture} ${name}: ${stack} bytes of stack, ${stores} of spill stores, ${loads} of spill loads`,
    );
  }
  // Products of a warpgroup that ptxas makes wait for each other: the compiler moved a register over a wait, or a branch into it.
  const serialised = [...`${built.stdout}\n${built.stderr}`.matchAll(/\(C75\d\d\)(.*)/g)];
  for (const [, text] of serialised) console.error(`wgmma:${text}`);
  const most = kernels.reduce((a, b) => (b.registers > a.registers ? b : a));
  const seconds = Math.round((Date.now() - begun) / 1000);
  console.log(
    `check:cuda: ${kernels.length} kernels by CUDA ${compiled[1]} for ${compiled[2].replaceAll(';', ', ')} in ${seconds} s, ` +
      `${bad.length} with spills or a stack; at most ${most.registers} registers`,
  );
  return bad.length + serialised.length === 0 ? 0 : 1;
}

/** What `ptxas -v` says of every kernel. */
function readReport(text) {
  const kernels = [];
  let kernel;
  for (const line of text.split('\n')) {
    const entry = line.match(/Compiling entry function '(.+)' for '(.+)'/);
    if (entry !== null) {
      kernel = { name: entry[1], architecture: entry[2], stack: 0, stores: 0, loads: 0, registers: 0 };
      kernels.push(kernel);
      continue;
    }
    const spills = line.match(/(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/);
    if (spills !== null && kernel !== undefined) {
      // Of functions that were not inlined too: theirs count for the kernel above.
      kernel.stack += Number(spills[1]);
      kernel.stores += Number(spills[2]);
      kernel.loads += Number(spills[3]);
    }
    const used = line.match(/Used (\d+) registers/);
    if (used !== null && kernel !== undefined) kernel.registers = Number(used[1]);
  }
  const names = spawnSync('c++filt', { input: kernels.map(({ name }) => name).join('\n'), encoding: 'utf8' });
  if (names.status === 0) {
    names.stdout.split('\n').forEach((name, at) => {
      if (kernels[at] !== undefined) kernels[at].name = name;
    });
  }
  return kernels;
}

function run(command, args) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 30 });
  if (result.error) {
    console.error(`${command} could not be started (${result.error.message})`);
    process.exit(1);
  }
  return result;
}

function fail({ stdout, stderr, status }) {
  process.stderr.write(stdout + stderr);
  return status ?? 1;
}

process.exitCode = main();
