import { open } from 'node:fs/promises';
import { CidError } from '../native/errors.ts';
import { readError } from '../run/files.ts';

/** A file inside a tar. */
export interface TarMember {
  readonly name: string;
  /** Byte of the tar at which the contents start. */
  readonly offset: number;
  /** Bytes of the contents. */
  readonly size: number;
}

export interface TarIndex {
  readonly members: readonly TarMember[];
  /** Why reading stopped before the end, when the tar is damaged or cut short. */
  readonly damage: string | undefined;
}

const BLOCK = 512;
const WINDOW = 32 * 1024;
/** Names and extended headers longer than this are taken for damage. */
const LARGEST_HEADER = 1 << 20;

/**
 * Reads the headers of a tar (ustar, GNU long names, pax) by position, once, and none of the contents.
 *
 * Fails with FILE_NOT_FOUND, and with FILE_FORMAT when the file is no tar from its first byte on.
 */
export async function indexTar(path: string): Promise<TarIndex> {
  const reader = await Reader.open(path);
  try {
    return await readHeaders(path, reader);
  } finally {
    await reader.close();
  }
}

/** `size` bytes of a file from byte `offset` on. Fails with FILE_FORMAT when the file is shorter. */
export async function readRegion(path: string, offset: number, size: number): Promise<Uint8Array> {
  const reader = await Reader.open(path);
  try {
    return await reader.read(offset, size);
  } finally {
    await reader.close();
  }
}

/** Contents of many members of one tar, opened once. */
export async function readMembers(path: string, members: readonly TarMember[]): Promise<Uint8Array[]> {
  const reader = await Reader.open(path);
  try {
    const contents: Uint8Array[] = [];
    for (const { offset, size } of members)
      contents.push(Uint8Array.from(await reader.readNear(offset, size)));
    return contents;
  } finally {
    await reader.close();
  }
}

async function readHeaders(path: string, reader: Reader): Promise<TarIndex> {
  const members: TarMember[] = [];
  let position = 0;
  let longName: string | undefined;
  let pax: Map<string, string> | undefined;
  const stop = (damage: string): TarIndex => {
    if (members.length === 0) throw new CidError('FILE_FORMAT', `${path} is not a tar: ${damage}`);
    return { members, damage };
  };

  while (position + BLOCK <= reader.size) {
    const header = await reader.readNear(position, BLOCK);
    // Two zero blocks end a tar; one is enough to stop at.
    if (header.every((byte) => byte === 0)) return { members, damage: undefined };
    if (!hasChecksum(header)) return stop(`no header at byte ${position}`);
    const type = String.fromCharCode(header[156]);
    const paxSize = pax?.get('size');
    const size = paxSize === undefined ? numberOf(header, 124, 12) : Number(paxSize);
    const offset = position + BLOCK;
    if (!Number.isSafeInteger(size) || size < 0) return stop(`no size at byte ${position}`);
    if (offset + size > reader.size) return stop(`cut short at byte ${reader.size}`);
    position = offset + Math.ceil(size / BLOCK) * BLOCK;

    if (type === 'L' || type === 'x') {
      if (size > LARGEST_HEADER) return stop(`a header of ${size} bytes at byte ${offset}`);
      const contents = await reader.readNear(offset, size);
      if (type === 'L') longName = textOf(contents, 0, size);
      else pax = paxRecords(contents);
      continue;
    }
    if (type === '0' || type === '\0' || type === '7') {
      members.push({ name: pax?.get('path') ?? longName ?? nameOf(header), offset, size });
    }
    // Folders, links and global headers hold no image.
    longName = undefined;
    pax = undefined;
  }
  return stop(`cut short at byte ${reader.size}`);
}

function hasChecksum(header: Uint8Array): boolean {
  let sum = 0;
  // The checksum's own field counts as spaces.
  for (let i = 0; i < BLOCK; i++) sum += i >= 148 && i < 156 ? 32 : header[i];
  return sum === numberOf(header, 148, 8);
}

/** An octal number, or GNU's base 256 for sizes from 8 GiB on. */
function numberOf(header: Uint8Array, from: number, length: number): number {
  if (header[from] & 0x80) {
    let value = header[from] & 0x7f;
    for (let i = 1; i < length; i++) value = value * 256 + header[from + i];
    return value;
  }
  const text = textOf(header, from, length).trim();
  return /^[0-7]+$/.test(text) ? Number.parseInt(text, 8) : Number.NaN;
}

function textOf(bytes: Uint8Array, from: number, length: number): string {
  const part = Buffer.from(bytes.subarray(from, from + length));
  const end = part.indexOf(0);
  return part.toString('utf8', 0, end < 0 ? length : end);
}

function nameOf(header: Uint8Array): string {
  const name = textOf(header, 0, 100);
  const prefix = textOf(header, 257, 6) === 'ustar' ? textOf(header, 345, 155) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

/** Records `length key=value\n`, where the length counts the whole record in bytes. */
function paxRecords(contents: Uint8Array): Map<string, string> {
  const records = new Map<string, string>();
  const bytes = Buffer.from(contents);
  let at = 0;
  while (at < bytes.length) {
    const space = bytes.indexOf(32, at);
    const length = space < 0 ? 0 : Number(bytes.toString('latin1', at, space));
    if (!Number.isSafeInteger(length) || length <= 0) break;
    const record = bytes.toString('utf8', space + 1, at + length - 1);
    const equals = record.indexOf('=');
    if (equals > 0) records.set(record.slice(0, equals), record.slice(equals + 1));
    at += length;
  }
  return records;
}

/** Positioned reads; small ones come out of a window, so that neighbouring headers and captions cost one call. */
class Reader {
  readonly size: number;
  readonly #path: string;
  readonly #handle: Awaited<ReturnType<typeof open>>;
  #window: Uint8Array = new Uint8Array(0);
  #from = 0;

  private constructor(path: string, handle: Awaited<ReturnType<typeof open>>, size: number) {
    this.#path = path;
    this.#handle = handle;
    this.size = size;
  }

  static async open(path: string): Promise<Reader> {
    try {
      const handle = await open(path, 'r');
      return new Reader(path, handle, (await handle.stat()).size);
    } catch (error) {
      throw readError(path, error);
    }
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async read(offset: number, size: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(size);
    let done = 0;
    while (done < size) {
      const { bytesRead } = await this.#handle
        .read(bytes, done, size - done, offset + done)
        .catch((error) => {
          throw readError(this.#path, error);
        });
      if (bytesRead === 0) {
        throw new CidError(
          'FILE_FORMAT',
          `${this.#path} ends at byte ${offset + done}: ${size} were expected from ${offset}`,
        );
      }
      done += bytesRead;
    }
    return bytes;
  }

  /** A view that holds until the next call. */
  async readNear(offset: number, size: number): Promise<Uint8Array> {
    if (size > WINDOW) return this.read(offset, size);
    if (offset < this.#from || offset + size > this.#from + this.#window.length) {
      this.#window = await this.read(offset, Math.min(WINDOW, this.size - offset));
      this.#from = offset;
    }
    return this.#window.subarray(offset - this.#from, offset - this.#from + size);
  }
}
