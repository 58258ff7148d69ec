// Our kernels beside their peers on the same data, on a GPU: torch, torch.compile, and packages in plain Python where there are some. What each
// side does: bench/README.md. It has not run on a GPU yet.
//
//   npm run build:all && node bench/peers/gpu/run.mjs all
//
// A process a side stays for a work; its sides take turns, so that all see the same machine, and medians are compared.
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chooseWorks, Misuse, start } from '../arguments.mjs';
import { printerFor } from '../print.mjs';
import { compareSides } from '../sides.mjs';

const OPS = ['dedup', 'kmeans', 'nearest', 'loss', 'train'];
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
const USAGE = `Usage: node bench/peers/gpu/run.mjs dedup|kmeans|nearest|loss|train|all [options]

  --json            one JSON object a line, as soon as it is known
  --markdown        tables
  --device NAME     cuda, cuda:N, or cpu to try the runner (default: cuda)
  --work NAME       only this work: dedup-100k, dedup-1m, balance-10m, kmeans-32x131k, kmeans-10m, nearest-10k-1m, loss-4096x20k,
                    loss-8192x1m, loss-8192x1m-sampled, contrast-16k, clusters-4096x100k, clip-b-32
  --spectrum NAME   only this data: decaying, flat
  --peers LIST      only these peers, commas between them
  --scale N         sizes are divided by it, and a smaller CLIP is trained, to try the runner (default: 1)
  --rounds N        rounds of each work (default: 1 to 7, by work)
  --threads N       threads of ours on the host (default: 4)
  --seed N          seed of the data (default: 0)
  --cache DIR       where data are kept, 40 GB for all works; best in memory, such as /dev/shm/clip-cid-bench (default: clip-cid-bench in the
                    system's folder for temporary files)
  --python FILE     Python with torch (default: python3)
  --vendor DIR      packages in plain Python, or links to them (default: bench/peers/gpu/vendor, which git ignores)
  --help

Examples:
  node bench/peers/gpu/run.mjs dedup --work dedup-100k
  node bench/peers/gpu/run.mjs loss --work loss-8192x1m --peers torch,torch-tf32
  node bench/peers/gpu/run.mjs all --json > results.jsonl
  node bench/peers/gpu/run.mjs all --device cpu --scale 200 --python /usr/bin/python3

Peers beside torch are found where Python finds them, or in the vendor folder:
${Object.entries(SOURCES)
  .map(([peer, source]) => `  ${peer.padEnd(18)}${source}`)
  .join('\n')}

Exit codes: 0 done, 1 something is missing or failed, 2 misuse, 3 there is no such device, so nothing was measured.
`;

async function main(settings) {
  const { device, scale, cache, ...options } = { ...settings, vendor: resolve(settings.vendor) };
  if (!/^(cpu|cuda(:\d+)?)$/.test(device)) {
    throw new Misuse(`Expected 'cuda', 'cuda:N' or 'cpu' for --device but received ${device}`);
  }
  const { gpuWorks } = await import('./works.mjs');
  const { works, pairs } = chooseWorks(withPeers(gpuWorks(scale), options.peers), options);

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
    if (peers.length === 0 && work.peers.length > 0) continue;
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

/** The works with those of their peers that are named; all without a list. */
function withPeers(works, list) {
  if (list === undefined) return works;
  const named = list.split(',');
  const known = new Set(works.flatMap(({ peers }) => peers));
  const unknown = named.find((peer) => !known.has(peer));
  if (unknown !== undefined) {
    throw new Misuse(`Expected some of ${[...known].join(', ')} for --peers but received ${unknown}`);
  }
  return works.map((work) => ({ ...work, peers: work.peers.filter((peer) => named.includes(peer)) }));
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
await start({
  usage: USAGE,
  ops: OPS,
  defaults: { device: 'cuda', scale: '1', threads: '4', python: 'python3', vendor: VENDOR, peers: undefined },
  main,
});
