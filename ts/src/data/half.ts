/** float16 (IEEE 754 binary16) as raw bits in a Uint16Array. */

const bits = new Uint32Array(1);
const value = new Float32Array(bits.buffer);

/** Every float16 is a float32: 65,536 of them fit a table. */
let table: Float32Array | undefined;

/** Widens; exact. NaN stays NaN. */
export function halfToFloat(half: Uint16Array): Float32Array {
  table ??= Float32Array.from({ length: 65536 }, (_, index) => widen(index));
  const known = table;
  const result = new Float32Array(half.length);
  for (let i = 0; i < half.length; i++) result[i] = known[half[i]];
  return result;
}

function widen(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Rounds to nearest, ties to even; what is 65,520 or more becomes infinite. */
export function floatToHalf(floats: Float32Array): Uint16Array {
  const result = new Uint16Array(floats.length);
  for (let i = 0; i < floats.length; i++) result[i] = narrow(floats[i]);
  return result;
}

function narrow(float: number): number {
  value[0] = float;
  const word = bits[0];
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Below 2^-14 the spacing is 2^-24; adding 0.5 makes the float32 addition round to just that.
    value[0] = Math.abs(float) + 0.5;
    return sign | (bits[0] - 0x3f000000);
  }
  const odd = (magnitude >>> 13) & 1;
  return sign | ((magnitude - 0x38000000 + 0xfff + odd) >>> 13);
}
