import type { RgbImage } from '../../src/data/image.ts';
import type { View } from '../../src/student/augment.ts';

/*
 * Views of images in plain float64, one after the other: what native/images/view.cpp must give to the bit. What is kept between two passes
 * is float32.
 */

/** Weights of source pixels for each output pixel: `count` from `first` on, `stride` apart in `weights`. */
interface Taps {
  first: Int32Array;
  count: Int32Array;
  weights: Float32Array;
  stride: number;
}

/**
 * A triangle filter as wide as an output pixel, and never narrower than a source pixel: bilinear when enlarging, and without
 * aliases when shrinking. Weights are normalised, so that edges keep their brightness.
 */
function triangleTaps(start: number, extent: number, source: number, size: number, reverse: boolean): Taps {
  const scale = extent / size;
  const support = Math.max(1, scale);
  const stride = Math.ceil(2 * support) + 1;
  const first = new Int32Array(size);
  const count = new Int32Array(size);
  const weights = new Float32Array(size * stride);
  for (let i = 0; i < size; i++) {
    const centre = start + (i + 0.5) * scale;
    const from = Math.max(0, Math.floor(centre - support + 0.5));
    const to = Math.min(source, Math.floor(centre + support + 0.5));
    const target = reverse ? size - 1 - i : i;
    const n = Math.max(1, Math.min(stride, to - from));
    first[target] = Math.min(from, source - 1);
    count[target] = n;
    let sum = 0;
    for (let k = 0; k < n; k++) {
      const weight = Math.max(0, 1 - Math.abs(from + k + 0.5 - centre) / support);
      weights[target * stride + k] = weight;
      sum += weight;
    }
    for (let k = 0; k < n; k++) weights[target * stride + k]! /= sum;
  }
  return { first, count, weights, stride };
}

/** Luma of Rec. 601, in which contrast and saturation work. */
const LUMA = [0.299, 0.587, 0.114] as const;

/** Renders views at one size. Keeps its scratch memory; not for two calls at once. */
export class ViewRenderer {
  readonly size: number;
  /** [size, size, 3] planes of the last rendered view, 0 to 1. */
  readonly #planes: Float32Array;
  #rows = new Float32Array(0);
  #turned: Float32Array | undefined;

  constructor(size: number) {
    this.size = size;
    this.#planes = new Float32Array(3 * size * size);
  }

  /** Normalised pixels `(value − mean) / std`, [3, size, size], into `out` from `offset` on. */
  pixels(
    image: RgbImage,
    view: View,
    mean: readonly number[],
    std: readonly number[],
    out: Float32Array,
    offset: number,
  ): void {
    const planes = this.#render(image, view);
    const area = this.size * this.size;
    for (let channel = 0; channel < 3; channel++) {
      const scale = 1 / std[channel]!;
      const shift = -mean[channel]! * scale;
      const from = channel * area;
      for (let i = from; i < from + area; i++) out[offset + i] = planes[i]! * scale + shift;
    }
  }

  /** The view as an image of 8 bits, for a model with its own preprocessing. */
  image(image: RgbImage, view: View): RgbImage {
    const planes = this.#render(image, view);
    const area = this.size * this.size;
    const data = new Uint8Array(3 * area);
    for (let i = 0; i < area; i++) {
      for (let channel = 0; channel < 3; channel++) {
        data[3 * i + channel] = Math.round(planes[channel * area + i]! * 255);
      }
    }
    return { data, width: this.size, height: this.size };
  }

  #render(image: RgbImage, view: View): Float32Array {
    this.#resample(image, view);
    const planes = view.angle === 0 ? this.#planes : this.#rotate(view.angle);
    if (view.brightness !== 1 || view.contrast !== 1 || view.saturation !== 1 || view.hue !== 0) {
      applyColour(planes, this.size * this.size, view);
    }
    return planes;
  }

  #resample(image: RgbImage, view: View): void {
    const { size } = this;
    const across = triangleTaps(view.left, view.width, image.width, size, view.flip);
    const down = triangleTaps(view.top, view.height, image.height, size, false);
    const top = down.first[0]!;
    const bottom = down.first[size - 1]! + down.count[size - 1]!;
    const rowLength = 3 * size;
    if (this.#rows.length < (bottom - top) * rowLength)
      this.#rows = new Float32Array((bottom - top) * rowLength);
    const rows = this.#rows;
    const source = image.data;
    for (let y = top; y < bottom; y++) {
      const line = y * image.width * 3;
      let target = (y - top) * rowLength;
      for (let x = 0; x < size; x++) {
        let at = line + across.first[x]! * 3;
        const from = x * across.stride;
        const to = from + across.count[x]!;
        let r = 0;
        let g = 0;
        let b = 0;
        for (let k = from; k < to; k++) {
          const weight = across.weights[k]!;
          r += weight * source[at]!;
          g += weight * source[at + 1]!;
          b += weight * source[at + 2]!;
          at += 3;
        }
        rows[target] = r;
        rows[target + 1] = g;
        rows[target + 2] = b;
        target += 3;
      }
    }
    const area = size * size;
    const planes = this.#planes;
    for (let y = 0; y < size; y++) {
      const from = y * down.stride;
      const to = from + down.count[y]!;
      const base = (down.first[y]! - top) * rowLength;
      for (let x = 0; x < size; x++) {
        let at = base + 3 * x;
        let r = 0;
        let g = 0;
        let b = 0;
        for (let k = from; k < to; k++) {
          const weight = down.weights[k]! / 255;
          r += weight * rows[at]!;
          g += weight * rows[at + 1]!;
          b += weight * rows[at + 2]!;
          at += rowLength;
        }
        const target = y * size + x;
        planes[target] = r;
        planes[area + target] = g;
        planes[2 * area + target] = b;
      }
    }
  }

  /** Turns the rendered view around its centre, bilinear; what comes from outside repeats the edge. */
  #rotate(angle: number): Float32Array {
    const { size } = this;
    const area = size * size;
    this.#turned ??= new Float32Array(3 * area);
    const turned = this.#turned;
    const planes = this.#planes;
    const cos = Math.cos(angle);
    const sin = Math.sin(angle);
    const middle = (size - 1) / 2;
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        const dx = x - middle;
        const dy = y - middle;
        const sx = Math.min(size - 1, Math.max(0, middle + cos * dx - sin * dy));
        const sy = Math.min(size - 1, Math.max(0, middle + sin * dx + cos * dy));
        const x0 = Math.min(size - 2, Math.floor(sx));
        const y0 = Math.min(size - 2, Math.floor(sy));
        const fx = sx - x0;
        const fy = sy - y0;
        const at = y0 * size + x0;
        for (let plane = 0; plane < 3 * area; plane += area) {
          const p = at + plane;
          const above = planes[p]! + fx * (planes[p + 1]! - planes[p]!);
          const below = planes[p + size]! + fx * (planes[p + size + 1]! - planes[p + size]!);
          turned[plane + y * size + x] = above + fy * (below - above);
        }
      }
    }
    return turned;
  }
}

/** Brightness, contrast, saturation, hue, in this order: all are affine in the colour, so one 3 × 4 matrix does them, clamped once. */
function applyColour(planes: Float32Array, area: number, view: View): void {
  const mean = [0, 0, 0];
  if (view.contrast !== 1) {
    for (let channel = 0; channel < 3; channel++) {
      let sum = 0;
      for (let i = channel * area; i < (channel + 1) * area; i++) sum += planes[i]!;
      mean[channel] = sum / area;
    }
  }
  const gain = view.brightness * view.contrast;
  const grey = LUMA.reduce((sum, weight, channel) => sum + weight * mean[channel]!, 0) * view.brightness;
  const shift = (1 - view.contrast) * grey;
  // Saturation and hue keep greys as they are, so the shift passes through both.
  const colour = multiply(hueMatrix(view.hue), saturationMatrix(view.saturation));
  const [m0, m1, m2, m3, m4, m5, m6, m7, m8] = colour.map((value) => value * gain) as number[] & {
    length: 9;
  };
  for (let i = 0; i < area; i++) {
    const r = planes[i]!;
    const g = planes[area + i]!;
    const b = planes[2 * area + i]!;
    planes[i] = clamp(m0! * r + m1! * g + m2! * b + shift);
    planes[area + i] = clamp(m3! * r + m4! * g + m5! * b + shift);
    planes[2 * area + i] = clamp(m6! * r + m7! * g + m8! * b + shift);
  }
}

function clamp(value: number): number {
  return value < 0 ? 0 : value > 1 ? 1 : value;
}

/** Row-major 3 × 3. */
function saturationMatrix(factor: number): number[] {
  return [0, 1, 2].flatMap((row) =>
    LUMA.map((weight, column) => (1 - factor) * weight + (row === column ? factor : 0)),
  );
}

/** A turn in the plane of constant luma, in the basis of YIQ. */
function hueMatrix(angle: number): number[] {
  if (angle === 0) return [1, 0, 0, 0, 1, 0, 0, 0, 1];
  const cos = Math.cos(angle);
  const sin = Math.sin(angle);
  const toYiq = [...LUMA, 0.595716, -0.274453, -0.321263, 0.211456, -0.522591, 0.311135];
  const fromYiq = [1, 0.9563, 0.621, 1, -0.2721, -0.6474, 1, -1.107, 1.7046];
  return multiply(fromYiq, multiply([1, 0, 0, 0, cos, -sin, 0, sin, cos], toYiq));
}

function multiply(a: readonly number[], b: readonly number[]): number[] {
  return Array.from({ length: 9 }, (_, i) => {
    const row = 3 * Math.floor(i / 3);
    const column = i % 3;
    return a[row]! * b[column]! + a[row + 1]! * b[column + 3]! + a[row + 2]! * b[column + 6]!;
  });
}
