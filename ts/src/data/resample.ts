import type { ResizeKernel, RgbImage } from './image.ts';

/** Bits after the point of a weight: products of 8-bit values and their sums stay within 32 bits. */
const BITS = 22;

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
 * Works on the calling thread; meant for enlarging, where the source is small.
 */
export function resample(image: RgbImage, width: number, height: number, kernel: ResizeKernel): RgbImage {
  const rows = along(axisOf(image.width, width, kernel), image.data, image.height, 3, 3 * image.width);
  const columns = along(axisOf(image.height, height, kernel), rows, 1, 3 * width, 0);
  return { data: columns, width, height };
}

function axisOf(from: number, to: number, kernel: ResizeKernel): Axis {
  const scale = from / to;
  if (kernel === 'nearest') {
    const first = Int32Array.from({ length: to }, (_, i) => Math.floor((i + 0.5) * scale));
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

/**
 * Applies an axis to `lines` lines of a source. Neighbours along the axis are `step` bytes apart, and the `step` bytes of one
 * place are independent values: a pixel's channels along a row, a whole row along the columns.
 */
function along(axis: Axis, source: Uint8Array, lines: number, step: number, stride: number): Uint8Array {
  const { first, size, weights, widest } = axis;
  const places = first.length;
  const result = new Uint8Array(lines * places * step);
  for (let line = 0; line < lines; line++) {
    for (let place = 0; place < places; place++) {
      const from = line * stride + first[place] * step;
      const to = (line * places + place) * step;
      for (let value = 0; value < step; value++) {
        let sum = 1 << (BITS - 1);
        for (let k = 0; k < size[place]; k++) {
          sum = (sum + Math.imul(weights[place * widest + k], source[from + k * step + value])) | 0;
        }
        const rounded = sum >> BITS;
        result[to + value] = rounded < 0 ? 0 : rounded > 255 ? 255 : rounded;
      }
    }
  }
  return result;
}
