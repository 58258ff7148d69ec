import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { floatToHalf, halfToFloat } from '../../src/data/half.ts';
import { npyMatrix, readNpy, readNpyHeader, writeNpy } from '../../src/data/npy.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'npy-'));
});
afterAll(() => rm(folder, { recursive: true }));
const at = (name: string) => join(folder, name);

// numpy.save of float16 [[1, -2.5, 65504], [6e-8, 0, inf]], by numpy 1.24.
const header = "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3), }";
const fromNumpy = Buffer.concat([
  Buffer.from('934e554d505901007600', 'hex'),
  Buffer.from(`${header.padEnd(0x75)}\n`),
  Buffer.from('003c00c1ff7b01000000007c', 'hex'),
]);

describe('.npy', () => {
  it('writes the very bytes that numpy writes', async () => {
    const half = floatToHalf(Float32Array.of(1, -2.5, 65504, 6e-8, 0, Number.POSITIVE_INFINITY));
    await writeNpy(at('a.npy'), half, [2, 3]);
    expect((await readFile(at('a.npy'))).equals(fromNumpy)).toBe(true);
    expect(await npyMatrix(at('a.npy'))).toEqual({
      path: at('a.npy'),
      offset: 128,
      rows: 2,
      dim: 3,
      dtype: 'float16',
    });
    expect(await readdir(folder)).toEqual(['a.npy']);
  });

  it('reads back each type and shape', async () => {
    const arrays = [
      { data: Float32Array.of(1.5, -2, 3, 4, 5, 6), shape: [2, 3], dtype: 'float32' },
      { data: Uint16Array.of(1, 2, 3), shape: [3], dtype: 'float16' },
      { data: Int32Array.of(-1, 2 ** 31 - 1), shape: [2, 1], dtype: 'int32' },
      { data: Uint8Array.of(0, 255), shape: [2], dtype: 'uint8' },
      { data: BigInt64Array.of(-(2n ** 63n)), shape: [], dtype: 'int64' },
      { data: new Float32Array(0), shape: [0, 512], dtype: 'float32' },
    ];
    for (const array of arrays) {
      await writeNpy(at('b.npy'), array.data, array.shape);
      expect(await readNpy(at('b.npy'))).toEqual(array);
      expect((await readNpyHeader(at('b.npy'))).offset % 64).toBe(0);
    }
  });

  it('reads the longer header of version 2', async () => {
    const two = Buffer.concat([
      Buffer.from('934e554d505902007400', 'hex'),
      Buffer.alloc(2),
      fromNumpy.subarray(10),
    ]);
    two.writeUInt32LE(0x76, 8);
    await writeFile(at('two.npy'), two);
    expect((await readNpy(at('two.npy'))).shape).toEqual([2, 3]);
  });

  it('says what is wrong with a file', async () => {
    const text = fromNumpy.toString('latin1');
    const cases: [string | Buffer, RegExp][] = [
      ['', /does not start/],
      ['PK\x03\x04 some zip file', /does not start/],
      [fromNumpy.subarray(0, 60), /cut short/],
      [fromNumpy.subarray(0, 130), /holds 2 bytes of elements where its header says 12/],
      [Buffer.concat([fromNumpy, Buffer.alloc(1)]), /holds 13 bytes/],
      [Buffer.from(text.replace("'<f2'", "'<f8'"), 'latin1'), /type <f8 are not supported/],
      [Buffer.from(text.replace('False,', 'True, '), 'latin1'), /column order/],
      [Buffer.from(text.replace("'shape'", "'shave'"), 'latin1'), /no type and shape/],
    ];
    for (const [contents, message] of cases) {
      await writeFile(at('bad.npy'), contents);
      await expect(readNpy(at('bad.npy'))).rejects.toMatchObject({
        code: 'FILE_FORMAT',
        message: expect.stringMatching(message),
      });
    }
    await expect(readNpy(at('none.npy'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await writeNpy(at('ints.npy'), Int32Array.of(1, 2), [2]);
    await expect(npyMatrix(at('ints.npy'))).rejects.toThrow(/expected rows of float32 or float16/);
    await expect(writeNpy(at('x.npy'), new Float32Array(5), [2, 3])).rejects.toThrow(RangeError);
    await expect(writeNpy(at('x.npy'), new Float64Array(1) as never, [1])).rejects.toThrow(TypeError);
  });
});

describe('float16', () => {
  it('rounds as numpy does', () => {
    const floats = Float32Array.of(
      ...[1, 0.1, 65519.9, 65520, -6e-8, 2 ** -25, 2.9802325e-8, 6.1e-5, 2049, 2051],
      ...[Number.NaN, Number.NEGATIVE_INFINITY, 1e-45, 0.333251953125, -0],
    );
    expect([...floatToHalf(floats)]).toEqual([
      ...[0x3c00, 11878, 31743, 31744, 32769, 0, 1, 1023, 26624, 26626],
      ...[32256, 64512, 0, 13653, 0x8000],
    ]);
  });

  it.each([
    [65519, 0x7bff],
    [65520, 0x7c00],
    [2 ** -14, 0x0400],
    [2 ** -25, 0x0000],
    [3 * 2 ** -25, 0x0002],
    [1 + 2 ** -11, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3c02],
    [2 - 2 ** -12, 0x4000],
    [1023.75 * 2 ** -24, 0x0400],
  ])('rounds %d to the nearest, ties to even', (value, bits) => {
    expect(floatToHalf(Float32Array.of(value))[0]).toBe(bits);
  });

  it('comes back from every one of its values', () => {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const back = floatToHalf(halfToFloat(all));
    for (let i = 0; i < 65536; i++) {
      const notANumber = (i & 0x7c00) === 0x7c00 && (i & 1023) !== 0;
      if (!notANumber && back[i] !== i) throw new Error(`${i} became ${back[i]}`);
    }
  });
});
