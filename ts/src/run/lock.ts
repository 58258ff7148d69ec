import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { link, open, readFile, rename, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { CidError } from '../native/errors.ts';
import { makeFolder, readError, writeError } from './files.ts';

/** Content of a folder's `lock`. */
interface Holder {
  pid: number;
  host: string;
  /** When the lock was taken, ISO 8601. */
  started: string;
  /** Start of the process in clock ticks since boot where the system tells it: a process id alone is soon used again. */
  ticks?: string | undefined;
}

export interface Lock {
  readonly path: string;
  /** Idempotent. */
  release(): Promise<void>;
}

const held = new Set<string>();

/**
 * Takes a folder for this process: `lock` names process, host and time. The lock of a process that is gone is taken over.
 * Fails with `RUN_LOCKED`, naming the holder; a holder on another host cannot be checked and counts as alive.
 */
export async function lockFolder(folder: string): Promise<Lock> {
  const path = join(resolve(folder), 'lock');
  await makeFolder(folder);
  const own: Holder = {
    pid: process.pid,
    host: hostname(),
    started: new Date().toISOString(),
    ticks: statOf(process.pid)?.ticks,
  };
  const text = `${JSON.stringify(own)}\n`;
  while (!(await create(path, text))) {
    const found = await readLock(path);
    if (found === undefined) continue; // released in this moment
    const holder = parseHolder(found);
    if (holder && isAlive(path, holder)) throw locked(path, holder);
    await takeAway(path, found);
  }
  held.add(path);
  return {
    path,
    release: async () => {
      if (!held.delete(path)) return;
      await rm(path, { force: true }).catch(() => undefined);
    },
  };
}

async function readLock(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw readError(path, error);
  }
}

/** True when this call made the file; it never appears half-written where hard links exist. */
async function create(path: string, text: string): Promise<boolean> {
  const temporary = join(dirname(path), `.lock.${process.pid}-${randomBytes(4).toString('hex')}.tmp`);
  try {
    const handle = await open(temporary, 'wx');
    try {
      await handle.writeFile(text);
    } finally {
      await handle.close();
    }
    await link(temporary, path);
    return true;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'EEXIST') return false;
    if (code === 'EPERM' || code === 'ENOTSUP' || code === 'EOPNOTSUPP' || code === 'ENOSYS') {
      return await createDirectly(path, text);
    }
    throw writeError(path, error);
  } finally {
    await rm(temporary, { force: true }).catch(() => undefined);
  }
}

async function createDirectly(path: string, text: string): Promise<boolean> {
  try {
    const handle = await open(path, 'wx');
    await handle.writeFile(text).finally(() => handle.close());
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw writeError(path, error);
  }
}

/**
 * Removes a dead process's lock. Two processes may find it at once: whoever renames it first wins, and if what was renamed
 * turns out to be the winner's new lock, it is put back.
 */
async function takeAway(path: string, stale: string): Promise<void> {
  const aside = `${path}.stale-${randomBytes(4).toString('hex')}`;
  try {
    await rename(path, aside);
  } catch {
    return;
  }
  const moved = await readFile(aside, 'utf8').catch(() => stale);
  if (moved !== stale) await link(aside, path).catch(() => undefined);
  await rm(aside, { force: true });
}

function parseHolder(text: string): Holder | undefined {
  try {
    const value = JSON.parse(text) as Partial<Holder> | null;
    return typeof value?.pid === 'number' && typeof value.host === 'string' ? (value as Holder) : undefined;
  } catch {
    return undefined;
  }
}

function isAlive(path: string, holder: Holder): boolean {
  if (holder.host !== hostname()) return true;
  // In a restarted container a new process often has the old one's id.
  if (holder.pid === process.pid) return held.has(path);
  try {
    process.kill(holder.pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
  }
  const now = statOf(holder.pid);
  if (now === undefined) return true;
  // A killed process stays a zombie until its parent asks for it, which in a container may be never.
  if (now.state === 'Z' || now.state === 'X') return false;
  return holder.ticks === undefined || now.ticks === holder.ticks;
}

/** State and start of a process; Linux only. */
function statOf(pid: number): { state: string | undefined; ticks: string | undefined } | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field is the program's name in brackets and may hold anything; the third is the state, the 22nd the start.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return { state: fields[0], ticks: fields[19] };
  } catch {
    return undefined;
  }
}

function locked(path: string, holder: Holder): CidError {
  const since = holder.started ? ` since ${holder.started}` : '';
  const where = holder.host === hostname() ? '' : ` on ${holder.host}`;
  const fix = where ? ` If that process is gone, delete ${path}` : '';
  return new CidError(
    'RUN_LOCKED',
    `${resolve(path, '..')} is in use by process ${holder.pid}${where}${since}.${fix}`,
  );
}
