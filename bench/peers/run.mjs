// Our kernels and our training beside their peers on the same data, on the CPU: torch, faiss and scikit-learn, tuned. What each side does: bench/README.md.
//
//   npm run build:all && node bench/peers/run.mjs all
//
// A process a side stays for a work; its sides take turns, so that all see the same machine, and medians are compared.
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
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

class Misuse extends Error {}

function readArguments() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        json: { type: 'boolean', default: false },
        markdown: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
        work: { type: 'string' },
        spectrum: { type: 'string' },
        rounds: { type: 'string' },
        threads: { type: 'string', default: '2' },
        seed: { type: 'string', default: '0' },
        cache: { type: 'string', default: join(tmpdir(), 'clip-cid-bench') },
        python: { type: 'string', default: '/usr/bin/python3' },
      },
    });
    if (values.help) {
      process.stdout.write(USAGE);
      return undefined;
    }
    const [op] = positionals;
    if (positionals.length !== 1 || ![...OPS, 'all'].includes(op)) {
      throw new Misuse(
        `Expected one of ${OPS.join(', ')}, all but received ${positionals.join(' ') || 'nothing'}`,
      );
    }
    if (values.json && values.markdown) throw new Misuse('Expected --json or --markdown but received both');
    const number = (name, least, most) => {
      const value = Number(values[name]);
      if (!/^\d+$/.test(values[name]) || value < least || value > most) {
        throw new Misuse(
          `Expected a whole number from ${least} to ${most} for --${name} but received ${values[name]}`,
        );
      }
      return value;
    };
    return {
      ...values,
      op,
      rounds: values.rounds === undefined ? undefined : number('rounds', 1, 1000),
      threads: number('threads', 1, 1024),
      seed: number('seed', 0, Number.MAX_SAFE_INTEGER),
    };
  } catch (error) {
    if (!(error instanceof Misuse) && !error.code?.startsWith('ERR_PARSE_ARGS')) throw error;
    process.stderr.write(`error: ${error.message}\n(--help shows the usage)\n`);
    process.exitCode = 2;
    return undefined;
  }
}

async function main({ op, work: only, spectrum, cache, ...options }) {
  const { WORKS } = await import('./works.mjs');
  const works = WORKS.filter((work) => (op === 'all' || work.op === op) && (only ?? work.name) === work.name);
  if (works.length === 0) return misuse(`Expected a work of ${op} for --work but received ${only}`);
  const pairs = works.flatMap((work) =>
    work.spectra.filter((name) => (spectrum ?? name) === name).map((name) => ({ work, spectrum: name })),
  );
  if (pairs.length === 0) return misuse(`Expected data of this work for --spectrum but received ${spectrum}`);

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

function misuse(message) {
  process.stderr.write(`error: ${message}\n(--help shows the usage)\n`);
  return 2;
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
const settings = readArguments();
if (settings !== undefined) process.exitCode = await main(settings);
