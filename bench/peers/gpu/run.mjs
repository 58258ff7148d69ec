// Our kernels beside their peers on the same data, on a GPU: torch, torch.compile, and packages in plain Python where there are some. What each
// side does: bench/README.md. It has not run on a GPU yet.
//
//   npm run build:all && node bench/peers/gpu/run.mjs all
//
// A process a side stays for a work; its sides take turns, so that all see the same machine, and medians are compared.
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { printerFor } from '../print.mjs';
import { compareSides } from '../sides.mjs';

const OPS = ['dedup', 'kmeans', 'nearest', 'loss'];
const VENDOR = fileURLToPath(new URL('./vendor', import.meta.url));
const SCRIPT = fileURLToPath(new URL('./peers.py', import.meta.url));
const NO_DEVICE = 3;
/** Where a peer comes from that is not torch. */
const SOURCES = {
  'flash-kmeans': 'github.com/svg-project/flash-kmeans',
  flashlib: 'github.com/FlashML-org/flashlib',
  liger: 'github.com/linkedin/Liger-Kernel',
  'cut-cross-entropy': 'github.com/apple/ml-cross-entropy',
  'inf-cl': 'github.com/DAMO-NLP-SG/Inf-CLIP',
};
const USAGE = `Usage: node bench/peers/gpu/run.mjs dedup|kmeans|nearest|loss|all [options]

  --json            one JSON object a line, as soon as it is known
  --markdown        tables
  --device NAME     cuda, cuda:N, or cpu to try the runner (default: cuda)
  --work NAME       only this work: dedup-100k, dedup-1m, kmeans-1m, nearest-10k-1m, loss-4096x20k, contrast-16k, clusters-4096x100k
  --spectrum NAME   only this data: decaying, flat
  --scale N         sizes are divided by it, to try the runner (default: 1)
  --rounds N        rounds of each work (default: 3 to 7, by work)
  --threads N       threads of ours on the host (default: 4)
  --seed N          seed of the data (default: 0)
  --cache DIR       where data are kept (default: clip-cid-bench in the system's folder for temporary files)
  --python FILE     Python with torch (default: python3)
  --vendor DIR      packages in plain Python, or links to them (default: bench/peers/gpu/vendor, which git ignores)
  --help

Examples:
  node bench/peers/gpu/run.mjs dedup --work dedup-100k
  node bench/peers/gpu/run.mjs all --json > results.jsonl
  node bench/peers/gpu/run.mjs all --device cpu --scale 200 --python /usr/bin/python3

Peers beside torch are found where Python finds them, or in the vendor folder:
${Object.entries(SOURCES)
  .map(([peer, source]) => `  ${peer.padEnd(18)}${source}`)
  .join('\n')}

Exit codes: 0 done, 1 something is missing or failed, 2 misuse, 3 there is no such device, so nothing was measured.
`;

class Misuse extends Error {}

function readArguments() {
  const text = (value) => ({ type: 'string', default: value });
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: 'boolean', default: false },
      markdown: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
      device: text('cuda'),
      work: { type: 'string' },
      spectrum: { type: 'string' },
      scale: text('1'),
      rounds: { type: 'string' },
      threads: text('4'),
      seed: text('0'),
      cache: text(join(tmpdir(), 'clip-cid-bench')),
      python: text('python3'),
      vendor: text(VENDOR),
    },
  });
  if (values.help) return undefined;
  const [op] = positionals;
  if (positionals.length !== 1 || ![...OPS, 'all'].includes(op)) {
    throw new Misuse(
      `Expected one of ${OPS.join(', ')}, all but received ${positionals.join(' ') || 'nothing'}`,
    );
  }
  if (values.json && values.markdown) throw new Misuse('Expected --json or --markdown but received both');
  if (!/^(cpu|cuda(:\d+)?)$/.test(values.device)) {
    throw new Misuse(`Expected 'cuda', 'cuda:N' or 'cpu' for --device but received ${values.device}`);
  }
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
    scale: number('scale', 1, 1_000_000),
    rounds: values.rounds === undefined ? undefined : number('rounds', 1, 1000),
    threads: number('threads', 1, 1024),
    seed: number('seed', 0, Number.MAX_SAFE_INTEGER),
    vendor: resolve(values.vendor),
  };
}

async function main({ op, work: only, spectrum, cache, device, scale, ...options }) {
  const { gpuWorks } = await import('./works.mjs');
  const works = gpuWorks(scale).filter(
    (work) => (op === 'all' || work.op === op) && (only ?? work.name) === work.name,
  );
  if (works.length === 0) throw new Misuse(`Expected a work of ${op} for --work but received ${only}`);
  const pairs = works.flatMap((work) =>
    work.spectra.filter((name) => (spectrum ?? name) === name).map((name) => ({ work, spectrum: name })),
  );
  if (pairs.length === 0) {
    throw new Misuse(`Expected data of this work for --spectrum but received ${spectrum}`);
  }

  const { chooseDevice, devices } = await import('../../../dist/native/devices.js');
  let name;
  try {
    const chosen = chooseDevice(device);
    name = devices().devices.find((info) => info.device === chosen.device).name;
  } catch (error) {
    process.stderr.write(`error: ${error.message}\nNothing was measured.\n`);
    return NO_DEVICE;
  }
  const { found, missing } = probe(options, device, works);
  let complete = !missing;
  mkdirSync(cache, { recursive: true });
  const printer = printerFor(options, {
    title: 'Beside the peers, on a GPU',
    command: 'node bench/peers/gpu/run.mjs all --markdown',
    where: `${name}, seed ${options.seed}${scale === 1 ? '' : `, sizes over ${scale}`}`,
    memory:
      "memory is torch's peak on the device over what was allocated before the call, without the result; that of ours is not known",
  });
  const peer = () => ({ script: SCRIPT, environment: {} });
  for (const { work, spectrum: kind } of pairs) {
    const peers = work.peers.filter((one) => found.has(one));
    if (peers.length === 0) continue;
    try {
      const job = { device, vendor: options.vendor };
      for (const line of await compareSides(work, kind, peers, { ...options, cache, peer, job })) {
        printer.line({ ...line, device });
      }
    } catch (error) {
      process.stderr.write(`error: ${work.name}, ${kind}: ${error.message}\n`);
      complete = false;
    }
  }
  printer.end();
  return complete ? 0 : 1;
}

/** The peers of these works that are there; each that is not is named on standard error, with what is missing. */
function probe({ python, vendor }, device, works) {
  const job = JSON.stringify({ peer: 'probe', device, vendor });
  const { stdout, stderr, error, status } = spawnSync(python, [SCRIPT, job], { encoding: 'utf8' });
  const wanted = [...new Set(works.flatMap((work) => work.peers))];
  let reasons;
  if (error) {
    reasons = Object.fromEntries(wanted.map((peer) => [peer, `${python} does not run: ${error.message}`]));
  } else if (status !== 0) {
    const last = stderr.trim().split('\n').at(-1);
    reasons = Object.fromEntries(wanted.map((peer) => [peer, `${python} ended with ${status}: ${last}`]));
  } else {
    reasons = JSON.parse(stdout.trim().split('\n').at(-1));
  }
  const absent = wanted.filter((peer) => reasons[peer] !== null);
  for (const peer of absent) {
    const from = SOURCES[peer] === undefined ? '' : `; it is at ${SOURCES[peer]}`;
    process.stderr.write(`${peer} is left out: ${reasons[peer]}${from}\n`);
  }
  return { found: new Set(wanted.filter((peer) => reasons[peer] === null)), missing: absent.length > 0 };
}

// Last, when everything above is there.
try {
  const settings = readArguments();
  if (settings === undefined) process.stdout.write(USAGE);
  else process.exitCode = await main(settings);
} catch (error) {
  if (!(error instanceof Misuse) && !error.code?.startsWith('ERR_PARSE_ARGS')) throw error;
  process.stderr.write(`error: ${error.message}\n(--help shows the usage)\n`);
  process.exitCode = 2;
}
