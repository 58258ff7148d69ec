// Our kernels and our training beside their peers on the same data, on the CPU: torch, faiss and scikit-learn, tuned. What each side does: bench/README.md.
//
//   npm run build:all && node bench/peers/run.mjs all
//
// A process a side stays for a work; its sides take turns, so that all see the same machine, and medians are compared.
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

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
/** Lets the threads of the side before fall asleep: OpenMP's and OpenBLAS's spin for a while. */
const PAUSE = 100;

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
  const printer = options.json ? jsonPrinter() : options.markdown ? markdownPrinter(options) : linePrinter();
  for (const { work, spectrum: name } of pairs) {
    const peers = work.peers.filter((peer) => !modulesOf(work, peer).some((name) => absent.has(name)));
    if (peers.length === 0) continue;
    try {
      for (const line of await compareSides(work, name, peers, { ...options, cache })) printer.line(line);
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

/** One work on one kind of data: the lines of its table, one for each pair of a variant of ours and a peer. */
async function compareSides(work, spectrum, peers, { seed, threads, python, cache, rounds = work.rounds }) {
  const files = await work.files(cache, spectrum, seed);
  const job = { ...work.job, op: work.op, files, threads, seed };
  const scratch = mkdtempSync(join(tmpdir(), 'clip-cid-peers-'));
  const sides = [];
  try {
    for (const variant of work.ours) {
      sides.push(startOurs({ ...job, cached: variant.teacher === 'cached' }, { variant }));
    }
    for (const peer of peers) sides.push(startPeer(python, { ...job, peer }, work.environment, { peer }));
    for (const side of sides) {
      await side.next();
      await side.ask('warm');
    }
    for (let round = 0; round < rounds; round++) {
      for (const side of sides) {
        await setTimeout(PAUSE);
        side.runs.push(await side.ask('run'));
      }
    }
    const folders = new Map();
    for (const [index, side] of sides.entries()) {
      const folder = join(scratch, String(index));
      mkdirSync(folder);
      await side.ask(`save ${folder}`);
      folders.set(side, folder);
    }
    const others = sides.filter((side) => side.peer !== undefined);
    const lines = [];
    for (const own of sides.filter((side) => side.variant !== undefined)) {
      const report = await work.compare({
        ours: folders.get(own),
        peers: Object.fromEntries(others.map((side) => [side.peer, folders.get(side)])),
        files,
        job,
      });
      for (const other of others) lines.push(compareLine(work, spectrum, own, other, report[other.peer]));
    }
    return lines;
  } finally {
    for (const side of sides) side.stop();
    rmSync(scratch, { recursive: true, force: true });
  }
}

function compareLine(work, spectrum, own, other, report) {
  const seconds = (side) => side.runs.map((run) => run.seconds);
  const busy = (side) => median(side.runs.map((run) => run.cpu_s));
  const [ours, peer] = [median(seconds(own)), median(seconds(other))];
  return {
    work: work.name,
    ...own.variant,
    peer: other.peer,
    spectrum,
    ours_s: ours,
    peer_s: peer,
    ratio: peer / ours,
    // Of the first run: later ones find the pages that it left.
    ours_extra_mb: own.runs[0].extra_mb,
    peer_extra_mb: other.runs[0].extra_mb,
    ours_spread: [Math.min(...seconds(own)), Math.max(...seconds(own))],
    peer_spread: [Math.min(...seconds(other)), Math.max(...seconds(other))],
    // Over all threads, spinning included. With one thread it says more than the clock while other work is on the machine.
    ours_cpu_s: busy(own),
    peer_cpu_s: busy(other),
    rounds: own.runs.length,
    ...(own.runs[0].plan === undefined ? {} : { plan: own.runs[0].plan }),
    ...report,
  };
}

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

function startOurs(job, about) {
  const script = fileURLToPath(new URL('./ours.mjs', import.meta.url));
  return startSide('ours', process.execPath, ['--expose-gc', script, JSON.stringify(job)], {}, about);
}

function startPeer(python, job, tuned, about) {
  const script = fileURLToPath(new URL('./peers.py', import.meta.url));
  const threads = String(job.threads);
  const environment = {
    OMP_NUM_THREADS: threads,
    OPENBLAS_NUM_THREADS: threads,
    MKL_NUM_THREADS: threads,
    // OpenBLAS takes this processor for one that it knows no better than a slower one.
    OPENBLAS_CORETYPE: 'SkylakeX',
    ...tuned,
  };
  return startSide(about.peer, python, [script, JSON.stringify(job)], environment, about);
}

function startSide(name, command, args, environment, about) {
  // A side is tuned here alone: a library's settings that happen to be in this shell would slow it down unseen.
  const inherited = Object.entries(process.env).filter(([key]) => !/^(OPENBLAS|OMP|GOMP|MKL)_/.test(key));
  const child = spawn(command, args, {
    env: { ...Object.fromEntries(inherited), ...environment },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  // A process that has ended is noticed where its answer is missing.
  child.on('error', () => {});
  child.stdin.on('error', () => {});
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`the process of ${name} ended without an answer`);
    return JSON.parse(value);
  };
  const ask = (what) => {
    child.stdin.write(`${what}\n`);
    return next();
  };
  return { ...about, runs: [], next, ask, stop: () => child.stdin.end() };
}

function jsonPrinter() {
  return { line: (line) => process.stdout.write(`${JSON.stringify(line)}\n`), end: () => {} };
}

function cells(line) {
  const { work, teacher, peer, spectrum, ours_s, peer_s, ratio, ours_extra_mb, peer_extra_mb, agrees, plan } =
    line;
  const time = (seconds) => (seconds < 1 ? `${(1000 * seconds).toFixed(1)} ms` : `${seconds.toFixed(2)} s`);
  const size = (megabytes) => (megabytes === null ? '?' : megabytes.toFixed(0));
  const notes = [
    ...(teacher === undefined ? [] : [`teacher ${teacher}`]),
    ...(agrees ? [] : ['RESULTS DIFFER']),
    ...(line.peer_wrong_pairs ? [`the peer gets ${line.peer_wrong_pairs} of ${line.pairs} pairs wrong`] : []),
    ...(line.peer_wrong_queries ? [`the peer gets ${line.peer_wrong_queries} queries wrong`] : []),
    ...(plan === undefined ? [] : [plan]),
  ];
  return [
    work,
    spectrum,
    peer,
    time(ours_s),
    time(peer_s),
    `${ratio.toFixed(1)}×`,
    size(ours_extra_mb),
    size(peer_extra_mb),
    notes.join('; '),
  ];
}

const HEADS = ['work', 'data', 'peer', 'ours', 'peer’s', 'ratio', 'ours, MB more', 'peer’s, MB more', ''];

function linePrinter() {
  const widths = [17, 9, 13, 10, 10, 7, 14, 16, 0];
  const print = (row) =>
    process.stdout.write(
      `${row
        .map((cell, i) => cell.padEnd(widths[i]))
        .join(' ')
        .trimEnd()}\n`,
    );
  let begun = false;
  return {
    line: (line) => {
      if (!begun) print(HEADS);
      begun = true;
      print(cells(line));
    },
    end: () => {},
  };
}

function markdownPrinter({ threads, seed }) {
  const lines = [];
  return {
    line: (line) => lines.push(line),
    end: () => {
      const row = (entries) => `| ${entries.join(' | ')} |`;
      const rounds = [...new Set(lines.map(({ work, rounds: n }) => `${work} ${n}`))].join(', ');
      process.stdout.write(
        [
          '# Beside the peers',
          '',
          `Written by \`node bench/peers/run.mjs all --markdown\`; what each side does is in [README.md](README.md). ${cpus()[0].model}, ` +
            `${availableParallelism()} cores, ${threads} threads a side, seed ${seed}, ${new Date().toISOString().slice(0, 10)}. ` +
            `Medians of alternating rounds (${rounds}); ratio = the peer's time over ours; memory is the peak over what was resident before the ` +
            'call, without the result.',
          '',
          row(HEADS),
          row(HEADS.map(() => '---')),
          ...lines.map((line) => row(cells(line))),
          '',
        ].join('\n'),
      );
    },
  };
}

// Last, when everything above is there.
const settings = readArguments();
if (settings !== undefined) process.exitCode = await main(settings);
