const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** Rounds to the nearest float16, ties to even. `overflow` tells that a finite value became infinite. */
export function toFloat16(values: Float32Array): { data: Uint16Array; overflow: boolean } {
  const data = new Uint16Array(values.length);
  let overflow = false;
  for (let i = 0; i < values.length; i++) {
    data[i] = roundToHalf(values[i]!);
    if ((data[i]! & 0x7fff) === 0x7c00 && Number.isFinite(values[i])) overflow = true;
  }
  return { data, overflow };
}

function roundToHalf(value: number): number {
  float[0] = value;
  const word = bits[0]!;
  const sign = (word >>> 16) & 0x8000;
  const magnitude = Math.abs(float[0]!);
  if (Number.isNaN(magnitude)) return sign | 0x7e00;
  if (magnitude >= 65520) return sign | 0x7c00;
  if (magnitude < 2 ** -14) {
    // Subnormal: a multiple of 2^-24; the division is exact.
    return sign | roundToEven(magnitude * 2 ** 24);
  }
  // The carry of a rounded-up significand runs into the exponent, as it should.
  const exponent = ((word >>> 23) & 0xff) - 112;
  return sign | ((exponent << 10) + roundToEven((word & 0x7fffff) / 8192));
}

function roundToEven(value: number): number {
  const down = Math.floor(value);
  const rest = value - down;
  if (rest > 0.5 || (rest === 0.5 && down % 2 === 1)) return down + 1;
  return down;
}

/** Exact. */
export function fromFloat16(halves: Uint16Array): Float32Array {
  const values = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const half = halves[i]!;
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >>> 10) & 0x1f;
    const significand = half & 0x3ff;
    if (exponent === 31) values[i] = significand === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
    else if (exponent === 0) values[i] = sign * significand * 2 ** -24;
    else values[i] = sign * (1 + significand / 1024) * 2 ** (exponent - 15);
  }
  return values;
}
