// Our kernels and our training beside their peers on the same data, on the CPU: torch, faiss and scikit-learn, tuned. What each side does: bench/README.md.
//
//   npm run build:all && node bench/peers/run.mjs all
//
// A process a side stays for a work; its sides take turns, so that all see the same machine, and medians are compared.
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { chooseWorks, start } from './arguments.mjs';
import { printerFor } from './print.mjs';
import { compareSides } from './sides.mjs';

const OPS = ['dedup', 'kmeans', 'nearest', 'loss', 'train'];
const USAGE = `Usage: node bench/peers/run.mjs dedup|kmeans|nearest|loss|train|all [options]

  --json            one JSON object a line, as soon as it is known
  --markdown        tables, for bench/results.md
  --work NAME       only this work: dedup-20k, dedup-100k, kmeans-100k, nearest-10k-100k, loss-1024x20k,
                    vit-w192, vit-w512, text-w512, resnet18, mobilenetv3-small
  --spectrum NAME   only this data: decaying, flat
  --rounds N        rounds of each work (default: 2 to 25, by work)
  --threads N       threads of every side (default: 2)
  --seed N          seed of the data (default: 0)
  --cache DIR       where data are kept (default: clip-cid-bench in the system's folder for temporary files)
  --python FILE     Python with the peers (default: /usr/bin/python3)
  --help

Examples:
  node bench/peers/run.mjs dedup --work dedup-20k
  node bench/peers/run.mjs train --work vit-w192
  node bench/peers/run.mjs all --json > results.jsonl
  node bench/peers/run.mjs all --markdown > bench/results.md

The peers are Debian's packages: apt-get install python3-torch python3-torchvision libopenblas0-openmp python3-faiss python3-sklearn
`;
const MODULES = {
  torch: 'torch',
  'torch-bf16': 'torch',
  'torch-channels-last': 'torch',
  faiss: 'faiss',
  'scikit-learn': 'sklearn',
};

async function main({ cache, ...options }) {
  const { WORKS } = await import('./works.mjs');
  const { works, pairs } = chooseWorks(WORKS, options);
  const absent = absentModules(options.python, works);
  let complete = absent.size === 0;
  mkdirSync(cache, { recursive: true });
  const printer = printerFor(options, about(options));
  for (const { work, spectrum: name } of pairs) {
    const peers = work.peers.filter((peer) => !modulesOf(work, peer).some((name) => absent.has(name)));
    if (peers.length === 0) continue;
    try {
      const lines = await compareSides(work, name, peers, { ...options, cache, peer: cpuPeer });
      for (const line of lines) printer.line(line);
    } catch (error) {
      process.stderr.write(`error: ${work.name}, ${name}: ${error.message}\n`);
      complete = false;
    }
  }
  printer.end();
  return complete ? 0 : 1;
}

const modulesOf = (work, peer) => [MODULES[peer], ...(work.modules ?? [])];

/** What peers need and is not there, told on standard error with what to do about it. */
function absentModules(python, works) {
  const modules = [...new Set(works.flatMap((work) => work.peers.flatMap((peer) => modulesOf(work, peer))))];
  const look =
    'import importlib.util, sys; print(" ".join(m for m in sys.argv[1:] if importlib.util.find_spec(m)))';
  const { stdout, error } = spawnSync(python, ['-c', look, ...modules], { encoding: 'utf8' });
  if (error) process.stderr.write(`${python} does not run: ${error.message}\n`);
  const found = new Set((stdout ?? '').trim().split(' '));
  const absent = modules.filter((name) => !found.has(name));
  if (absent.length > 0) {
    const names = absent.map((name) => `python3-${name}`).join(' ');
    process.stderr.write(
      `Not found by ${python}: ${absent.join(', ')}. The peers that need them are left out. To install them on Debian:\n` +
        `  apt-get install ${names}\n`,
    );
  }
  return new Set(absent);
}

/** How a peer's process is started. */
function cpuPeer(job, work) {
  const threads = String(job.threads);
  return {
    script: fileURLToPath(new URL('./peers.py', import.meta.url)),
    environment: {
      OMP_NUM_THREADS: threads,
      OPENBLAS_NUM_THREADS: threads,
      MKL_NUM_THREADS: threads,
      // OpenBLAS takes this processor for one that it knows no better than a slower one.
      OPENBLAS_CORETYPE: 'SkylakeX',
      ...work.environment,
    },
  };
}

/** What stands above a table. */
const about = ({ threads, seed }) => ({
  title: 'Beside the peers',
  command: 'node bench/peers/run.mjs all --markdown',
  where: `${cpus()[0].model}, ${availableParallelism()} cores, ${threads} threads a side, seed ${seed}`,
  memory: 'memory is the peak over what was resident before the call, without the result',
});

// Last, when everything above is there.
await start({ usage: USAGE, ops: OPS, defaults: { threads: '2', python: '/usr/bin/python3' }, main });
