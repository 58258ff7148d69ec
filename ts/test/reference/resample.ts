import type { ResizeKernel, RgbImage } from '../../src/data/image.ts';

/** Bits after the point of a weight: products of 8-bit values and their sums stay within 32 bits. */
const BITS = 22;
/** Makes the shift round. */
const HALF = 1 << (BITS - 1);

interface Filter {
  /** Reach to either side, in source pixels when nothing shrinks. */
  readonly support: number;
  weight(x: number): number;
}

const FILTERS: Readonly<Record<Exclude<ResizeKernel, 'nearest'>, Filter>> = {
  linear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  cubic: { support: 2, weight: cubic },
  lanczos3: { support: 3, weight: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** Keys' cubic convolution with a = −1/2. */
function cubic(distance: number): number {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

/** Where each pixel of one axis comes from: `size` weights from source pixel `first` on, in fixed point. */
interface Axis {
  readonly first: Int32Array;
  readonly size: Int32Array;
  /** [pixels, widest]. */
  readonly weights: Int32Array;
  readonly widest: number;
}

/**
 * Stretches an image, first along its rows and then along its columns, with pixel centres at halves, the support widened
 * where it shrinks, weights cut off and made to sum to 1 at the edges, and 8-bit values in between: to the bit what PIL gives.
 * What native/images/resize.cpp must give.
 */
export function resample(image: RgbImage, width: number, height: number, kernel: ResizeKernel): RgbImage {
  const rows = alongRows(axisOf(image.width, width, kernel), image.data, image.width);
  return { data: alongColumns(axisOf(image.height, height, kernel), rows, 3 * width), width, height };
}

function axisOf(from: number, to: number, kernel: ResizeKernel): Axis {
  const scale = from / to;
  if (kernel === 'nearest') {
    const first = new Int32Array(to);
    // A running sum, as in PIL: it decides on which side of a pixel's edge a centre falls.
    for (let i = 0, centre = scale / 2; i < to; i++, centre += scale) {
      first[i] = Math.min(from - 1, Math.trunc(centre));
    }
    const one = new Int32Array(to).fill(1);
    return { first, size: one, weights: one.map(() => 1 << BITS), widest: 1 };
  }
  const { support, weight } = FILTERS[kernel];
  const stretch = Math.max(1, scale);
  const reach = support * stretch;
  const widest = Math.ceil(reach) * 2 + 1;
  const axis = {
    first: new Int32Array(to),
    size: new Int32Array(to),
    weights: new Int32Array(to * widest),
    widest,
  };
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const size = Math.min(from, Math.trunc(centre + reach + 0.5)) - first;
    const values = Array.from({ length: size }, (_, k) => weight((k + first - centre + 0.5) * (1 / stretch)));
    const sum = values.reduce((a, b) => a + b, 0);
    axis.first[i] = first;
    axis.size[i] = size;
    for (const [k, value] of values.entries()) {
      const fixed = (value / sum) * (1 << BITS);
      axis.weights[i * widest + k] = Math.trunc(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
    }
  }
  return axis;
}

/** [height, width, 3] → [height, places, 3]. */
function alongRows({ first, size, weights, widest }: Axis, source: Uint8Array, width: number): Uint8Array {
  const places = first.length;
  const height = source.length / (3 * width);
  const result = new Uint8Array(height * places * 3);
  let to = 0;
  for (let y = 0; y < height; y++) {
    for (let place = 0; place < places; place++) {
      let from = 3 * (y * width + first[place]);
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      const end = place * widest + size[place];
      for (let k = place * widest; k < end; k++, from += 3) {
        const weight = weights[k];
        red = (red + Math.imul(weight, source[from])) | 0;
        green = (green + Math.imul(weight, source[from + 1])) | 0;
        blue = (blue + Math.imul(weight, source[from + 2])) | 0;
      }
      result[to++] = clip(red >> BITS);
      result[to++] = clip(green >> BITS);
      result[to++] = clip(blue >> BITS);
    }
  }
  return result;
}

/** [height, stride] → [places, stride]; whole rows at a time, so that memory is read in order. */
function alongColumns(
  { first, size, weights, widest }: Axis,
  source: Uint8Array,
  stride: number,
): Uint8Array {
  const places = first.length;
  const result = new Uint8Array(places * stride);
  const sums = new Int32Array(stride);
  for (let place = 0; place < places; place++) {
    sums.fill(HALF);
    for (let k = 0; k < size[place]; k++) {
      const weight = weights[place * widest + k];
      const from = (first[place] + k) * stride;
      for (let i = 0; i < stride; i++) sums[i] += Math.imul(weight, source[from + i]);
    }
    const to = place * stride;
    for (let i = 0; i < stride; i++) result[to + i] = clip(sums[i] >> BITS);
  }
  return result;
}

function clip(value: number): number {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}
