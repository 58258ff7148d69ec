import { expect } from 'vitest';

type Numbers = Float32Array | Float64Array | Int32Array | Uint8Array | Uint16Array;

/** Equal in type, length and every bit; says where the first difference is. */
export function expectSame(name: string, actual: Numbers, wanted: Numbers): void {
  expect(actual.constructor.name, `type of ${name}`).toBe(wanted.constructor.name);
  expect(actual.length, `length of ${name}`).toBe(wanted.length);
  if (bytes(actual).equals(bytes(wanted))) return;
  const at = wanted.findIndex((value, index) => !Object.is(value, actual[index]));
  expect.fail(`${name}[${at}] is ${actual[at]}, and ${wanted[at]} was wanted`);
}

/** Every field of `wanted` is in `actual`, bit for bit. */
export function expectAllSame(actual: object, wanted: object): void {
  for (const [name, value] of Object.entries(wanted)) {
    const got = (actual as Record<string, unknown>)[name];
    if (ArrayBuffer.isView(value)) expectSame(name, got as Numbers, value as Numbers);
    else expect(got, name).toBe(value);
  }
}

function bytes(array: Numbers): Buffer {
  return Buffer.from(array.buffer, array.byteOffset, array.byteLength);
}
