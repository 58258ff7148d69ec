import type { Matrix } from '../../src/kernels/rows.ts';

/**
 * The canonical arithmetic, as simple as its definition: what decides in every kernel on every device. Written from the
 * definition alone, apart from the native core, which is held to it bit for bit.
 */

/** Rows as float32, which holds every float16 and bfloat16 exactly. */
export function widen(matrix: Matrix): Float32Array[] {
  const { data, rows, dim } = matrix;
  const dtype = matrix.dtype ?? (data instanceof Float32Array ? 'float32' : 'float16');
  const convert = { float32: (x: number) => x, float16: fromFloat16, bfloat16: fromBfloat16 }[dtype];
  return Array.from({ length: rows }, (_, row) =>
    Float32Array.from(data.subarray(row * dim, (row + 1) * dim), convert),
  );
}

export function fromFloat16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}

export function fromBfloat16(bits: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, bits << 16);
  return view.getFloat32(0);
}

/** Nearest float16 of a number in its range, as bits; for making test data. */
export function toFloat16(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (size < 2 ** -14) return sign | roundEven(size * 2 ** 24);
  const exponent = Math.floor(Math.log2(size));
  const units = roundEven(size * 2 ** (10 - exponent)); // 1024 to 2048
  return sign | (((exponent + 15) << 10) + (units - 1024));
}

const lanes = new Float64Array(16);

/** Products, exact in float64, into lane index mod 16; then lanes by halves. */
export function dot(x: Float32Array, y: Float32Array): number {
  lanes.fill(0);
  for (let index = 0; index < x.length; index++) lanes[index % 16]! += x[index]! * y[index]!;
  for (const half of [8, 4, 2, 1]) {
    for (let lane = 0; lane < half; lane++) lanes[lane]! += lanes[lane + half]!;
  }
  return lanes[0]!;
}

/** x / sqrt(x·x) as float32; undefined for a zero row. */
export function unit(x: Float32Array): Float32Array | undefined {
  const norm = Math.sqrt(dot(x, x));
  return norm === 0 ? undefined : x.map((value) => value / norm);
}

/** Rows that cannot be normalised: zero, NaN or infinite. */
export function isFault(x: Float32Array): boolean {
  return !x.every(Number.isFinite) || x.every((value) => value === 0);
}

/** To the nearest integer, ties to even. */
export function roundEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Exponent of the largest power of two for which count · largest · 2^exponent < 2^62; all integers, so exact. */
export function fixedExponent(count: number, largest: number): number {
  if (largest === 0 || count === 0) return 0;
  // largest = mantissa · 2^−shift with an integer mantissa
  let mantissa = largest;
  let shift = 0;
  while (!Number.isSafeInteger(mantissa) && Math.abs(mantissa) < 2 ** 53) {
    mantissa *= 2;
    shift++;
  }
  // A product of b bits times 2^(62 − b) lies in [2^61, 2^62).
  const bits = (BigInt(count) * BigInt(mantissa)).toString(2).length;
  return 62 - bits + shift;
}

/** Sum of numbers in fixed point, where the order cannot matter. */
export class FixedSum {
  readonly scale: number;
  sum = 0n;

  constructor(exponent: number) {
    this.scale = 2 ** exponent;
  }

  add(value: number): void {
    this.sum += BigInt(roundEven(value * this.scale));
  }

  /** Sum / scale, the sum first rounded to float64. */
  get value(): number {
    return Number(this.sum) / this.scale;
  }
}

/** Mean of rows: float32(float64(sum) / scale / count), elementwise. */
export function meanRow(rows: readonly Float32Array[], exponent: number): Float32Array {
  return Float32Array.from(rows[0]!, (_, column) => {
    const sum = new FixedSum(exponent);
    for (const row of rows) sum.add(row[column]!);
    return sum.value / rows.length;
  });
}
