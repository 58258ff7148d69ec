// Processes of ours and of the peers that do the same work in turns, and what comes of it.
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** Lets the threads of the side before fall asleep: OpenMP's and OpenBLAS's spin for a while. */
const PAUSE = 100;

/**
 * One work on one kind of data: the lines of its table, one for each pair of a variant of ours and a peer; without peers one for each variant.
 *
 * @param options.peer What starts a peer's process for a job and a work: `{ script, environment }`.
 * @param options.job What a job says beyond the work's own.
 */
export async function compareSides(work, spectrum, peers, options) {
  const { seed, threads, python, cache, rounds = work.rounds, peer: startOf } = options;
  const files = await work.files({ cache, spectrum, seed, python, device: options.job?.device });
  const job = { ...work.job, op: work.op, files, threads, seed, ...options.job };
  const scratch = mkdtempSync(join(tmpdir(), 'clip-cid-peers-'));
  const sides = [];
  try {
    for (const variant of work.ours) {
      const { teacher, precision } = variant;
      sides.push(startOurs({ ...job, cached: teacher === 'cached', precision }, { variant }));
    }
    for (const peer of peers) sides.push(startPeer(python, { ...job, peer }, startOf(job, work), { peer }));
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
    const variants = sides.filter((side) => side.variant !== undefined);
    if (others.length === 0) return variants.map((own) => ({ ...ownLine(work, spectrum, own), ...NOBODY }));
    const lines = [];
    for (const own of variants) {
      const report = await work.compare({
        ours: folders.get(own),
        peers: Object.fromEntries(others.map((side) => [side.peer, folders.get(side)])),
        files,
        job,
        variant: own.variant,
      });
      for (const other of others) lines.push(compareLine(work, spectrum, own, other, report[other.peer]));
    }
    return lines;
  } finally {
    for (const side of sides) side.stop();
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Of a line without a peer. */
const NOBODY = { peer: null, peer_s: null, ratio: null, peer_extra_mb: null, agrees: true };

function ownLine(work, spectrum, side) {
  const { plan } = side.runs[0];
  return {
    work: work.name,
    spectrum,
    ...side.variant,
    ...figures('ours', work, side),
    rounds: side.runs.length,
    ...(plan === undefined ? {} : { plan }),
  };
}

function compareLine(work, spectrum, own, other, report) {
  const [ours, peer] = [ownLine(work, spectrum, own), figures('peer', work, other)];
  return { ...ours, peer: other.peer, ...peer, ratio: peer.peer_s / ours.ours_s, ...report };
}

function figures(who, { op, job }, { runs }) {
  const seconds = runs.map((run) => run.seconds);
  return {
    [`${who}_s`]: median(seconds),
    [`${who}_spread`]: [Math.min(...seconds), Math.max(...seconds)],
    ...(op === 'train' && job.batch ? { [`${who}_items_per_second`]: job.batch / median(seconds) } : {}),
    // Of the first run: later ones find the pages that it left.
    [`${who}_extra_mb`]: runs[0].extra_mb,
    // Over all threads, spinning included. With one thread it says more than the clock while other work is on the machine.
    [`${who}_cpu_s`]: median(runs.map((run) => run.cpu_s)),
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

function startPeer(python, job, { script, environment }, about) {
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
