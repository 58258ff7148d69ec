import { randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { CidError } from '../native/errors.ts';

/** What a file can be written from: text (UTF-8), bytes, any typed array's bytes, or a sequence of these. */
export type FileData = FileChunk | Iterable<FileChunk> | AsyncIterable<FileChunk>;
export type FileChunk = string | ArrayBufferView;

const REASONS: Record<string, string> = {
  ENOSPC: 'no space left on the device',
  EDQUOT: 'disk quota exceeded',
  EFBIG: 'the file would be larger than the limit of this process (ulimit -f) or file system',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EROFS: 'the file system is read-only',
  ENOENT: 'no such file or folder',
  ENOTDIR: 'a part of the path is not a folder',
  EISDIR: 'it is a folder',
  EEXIST: 'there is something else of that name',
  EMFILE: 'too many open files',
  EIO: 'input/output error',
};

/** The reason of a system error in words, without the path that Node puts into its message. */
export function reasonOf(error: unknown): string {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  if (typeof code === 'string' && code in REASONS) return `${REASONS[code]} (${code})`;
  return error instanceof Error ? error.message : String(error);
}

/** `FILE_WRITE`, naming the path and the reason. */
export function writeError(path: string, error: unknown): CidError {
  if (error instanceof CidError) return error;
  return new CidError('FILE_WRITE', `Cannot write ${path}: ${reasonOf(error)}`, { cause: error });
}

/** `FILE_NOT_FOUND` when there is no such file, `FILE_FORMAT` when it cannot be read for another reason. */
export function readError(path: string, error: unknown): CidError {
  if (error instanceof CidError) return error;
  const missing = ['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '');
  if (missing) return new CidError('FILE_NOT_FOUND', `No such file: ${path}`, { cause: error });
  return new CidError('FILE_FORMAT', `Cannot read ${path}: ${reasonOf(error)}`, { cause: error });
}

/** Makes a folder and its parents; nothing happens when it is there. Fails with `FILE_WRITE`. */
export async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true });
  } catch (error) {
    throw writeError(path, error);
  }
}

function isChunk(data: FileData): data is FileChunk {
  return typeof data === 'string' || ArrayBuffer.isView(data);
}

function bytesOf(chunk: FileChunk): Uint8Array {
  return typeof chunk === 'string'
    ? Buffer.from(chunk, 'utf8')
    : new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
}

/**
 * A file that appears whole or not at all: bytes go to a temporary name in the same folder, and `commit` syncs them,
 * renames, and syncs the folder. Use it for streams; {@link writeFileAtomic} for what is at hand.
 *
 * A process that is killed leaves its temporary file behind; {@link removeTemporaries} clears those away.
 */
export class AtomicFile {
  readonly path: string;
  readonly #temporary: string;
  #handle: FileHandle | undefined;

  private constructor(path: string, temporary: string, handle: FileHandle) {
    this.path = path;
    this.#temporary = temporary;
    this.#handle = handle;
  }

  static async create(path: string): Promise<AtomicFile> {
    const target = resolve(path);
    const suffix = `${process.pid}-${randomBytes(4).toString('hex')}`;
    const temporary = join(dirname(target), `.${basename(target)}.${suffix}.tmp`);
    await makeFolder(dirname(target));
    try {
      return new AtomicFile(target, temporary, await open(temporary, 'wx'));
    } catch (error) {
      throw writeError(target, error);
    }
  }

  /** Appends. A failure removes the temporary file and is final. */
  async write(chunk: FileChunk): Promise<void> {
    try {
      // writeFile on a handle goes on where the last one ended, and repeats short writes.
      await this.#open().writeFile(bytesOf(chunk));
    } catch (error) {
      await this.abort();
      throw writeError(this.path, error);
    }
  }

  async commit(): Promise<void> {
    try {
      const handle = this.#open();
      await handle.sync();
      this.#handle = undefined;
      await handle.close();
      await rename(this.#temporary, this.path);
      await syncFolder(dirname(this.path));
    } catch (error) {
      await this.abort();
      throw writeError(this.path, error);
    }
  }

  /** Leaves the folder as it was. Idempotent; without effect after `commit`. */
  async abort(): Promise<void> {
    const handle = this.#handle;
    this.#handle = undefined;
    await handle?.close().catch(() => undefined);
    await rm(this.#temporary, { force: true }).catch(() => undefined);
  }

  #open(): FileHandle {
    if (!this.#handle) throw new CidError('DISPOSED', `${this.path} is already closed`);
    return this.#handle;
  }
}

// Without it a rename may be lost in a power cut although the file's own bytes are safe.
async function syncFolder(path: string): Promise<void> {
  if (process.platform === 'win32') return;
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Writes a file whole or not at all: temporary name in the same folder, fsync, rename, fsync of the folder. Makes missing
 * folders. Fails with `FILE_WRITE` naming path and reason, and then leaves neither a temporary file nor a changed target.
 */
export async function writeFileAtomic(path: string, data: FileData): Promise<void> {
  const file = await AtomicFile.create(path);
  try {
    if (isChunk(data)) await file.write(data);
    else for await (const chunk of data) await file.write(chunk);
  } catch (error) {
    await file.abort();
    throw error;
  }
  await file.commit();
}

/** {@link writeFileAtomic} of a value as indented JSON with a line end. */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(value, null, 2)}\n`);
}

/** Fails with `FILE_NOT_FOUND`, or with `FILE_FORMAT` naming the file. */
export async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw readError(path, error);
  }
}

/** Fails with `FILE_NOT_FOUND`, or with `FILE_FORMAT` naming the file when it is not JSON. The caller checks the shape. */
export async function readJson(path: string): Promise<unknown> {
  const text = await readText(path);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new CidError('FILE_FORMAT', `${path} is not valid JSON: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/** Removes what killed processes left half-written in a folder (not in its subfolders). Only for a folder that this process alone writes to. */
export async function removeTemporaries(folder: string): Promise<void> {
  const names = await readdir(folder).catch(() => []);
  const stale = names.filter((name) => /^\..+\.\d+-[0-9a-f]{8}\.tmp$/.test(name));
  await Promise.all(stale.map((name) => rm(join(folder, name), { force: true }).catch(() => undefined)));
}
