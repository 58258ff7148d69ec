import { expectNumber, expectObject, failRange, failType } from '../native/check.ts';
import type { Random } from './random.ts';

/** How a training image differs from the one on disk. Every field has a value that turns it off, given after "off". */
export interface AugmentOptions {
  /** Smallest and largest share of the image's area that a crop covers, in (0, 1]. Off: [1, 1]. Defaults to [0.5, 1]. */
  scale?: readonly [number, number];
  /** Smallest and largest width over height of a crop. Off: [1, 1]. Defaults to [3/4, 4/3]. */
  ratio?: readonly [number, number];
  /**
   * Probability of mirroring left and right, which is only sound where a mirrored image keeps its caption: not with writing,
   * arrows, or 'left' and 'right'. Off: 0, the default.
   */
  flip?: number;
  /** Largest rotation either way, in degrees, 0 to 45; corners repeat the edge. Off: 0, the default. */
  rotation?: number;
  /** Largest change of brightness: the factor is drawn from [1 − b, 1 + b]. Off: 0, the default. */
  brightness?: number;
  /** Largest change of contrast around the image's mean grey, likewise. Off: 0, the default. */
  contrast?: number;
  /** Largest change of saturation, likewise. Off: 0, the default. */
  saturation?: number;
  /** Largest turn of the hue either way, as a share of the circle, 0 to 0.5. Off: 0, the default. */
  hue?: number;
  /** Probability of a grey image. Off: 0, the default. */
  grayscale?: number;
}

export type Augmentation = Required<AugmentOptions>;

export const defaultAugmentation: Augmentation = {
  scale: [0.5, 1],
  ratio: [3 / 4, 4 / 3],
  flip: 0,
  rotation: 0,
  brightness: 0,
  contrast: 0,
  saturation: 0,
  hue: 0,
  grayscale: 0,
};

/** Options with their defaults, checked; undefined for 'none'. */
export function resolveAugmentation(options: AugmentOptions | 'none' = {}): Augmentation | undefined {
  if (options === 'none') return undefined;
  expectObject('augment', options, Object.keys(defaultAugmentation));
  const full: Augmentation = { ...defaultAugmentation, ...options };
  for (const name of ['scale', 'ratio'] as const) {
    const pair = full[name];
    if (!Array.isArray(pair) || pair.length !== 2) failType('two numbers', `augment.${name}`, pair);
    if (!(pair[0] > 0 && pair[0] <= pair[1]))
      failRange('two numbers over 0, ascending', `augment.${name}`, pair);
  }
  if (full.scale[1] > 1) failRange('shares of at most 1', 'augment.scale', full.scale);
  for (const name of ['flip', 'grayscale', 'brightness', 'contrast', 'saturation'] as const) {
    expectNumber(`augment.${name}`, full[name], 0, 1);
  }
  expectNumber('augment.hue', full.hue, 0, 0.5);
  expectNumber('augment.rotation', full.rotation, 0, 45);
  return full;
}

/** One way to see an image: a crop in pixels of the source, real-valued, and what is done to it. */
export interface View {
  left: number;
  top: number;
  width: number;
  height: number;
  flip: boolean;
  /** Radians, counter-clockwise. */
  angle: number;
  /** Factors; 1 for no change. */
  brightness: number;
  contrast: number;
  saturation: number;
  /** Radians; 0 for no change. */
  hue: number;
}

/** The central square, as the exported model's preprocessing takes it. */
export function centreView(width: number, height: number): View {
  const side = Math.min(width, height);
  return {
    left: (width - side) / 2,
    top: (height - side) / 2,
    width: side,
    height: side,
    flip: false,
    angle: 0,
    brightness: 1,
    contrast: 1,
    saturation: 1,
    hue: 0,
  };
}

/** Draws a view of an image of this size: crop as in Inception's random resized crop, uniform in area and in the logarithm of the ratio. */
export function drawView(augmentation: Augmentation, width: number, height: number, random: Random): View {
  const view = centreView(width, height);
  const { scale, ratio } = augmentation;
  for (let attempt = 0; attempt < 10; attempt++) {
    const area = random.between(scale[0], scale[1]) * width * height;
    const aspect = Math.exp(random.between(Math.log(ratio[0]), Math.log(ratio[1])));
    const w = Math.sqrt(area * aspect);
    const h = Math.sqrt(area / aspect);
    if (w > width + 1e-9 || h > height + 1e-9) continue;
    view.width = Math.min(w, width);
    view.height = Math.min(h, height);
    view.left = random.between(0, width - view.width);
    view.top = random.between(0, height - view.height);
    break;
  }
  const factor = (range: number) => (range > 0 ? random.between(1 - range, 1 + range) : 1);
  view.flip = augmentation.flip > 0 && random.uniform() < augmentation.flip;
  if (augmentation.rotation > 0) {
    view.angle = (random.between(-augmentation.rotation, augmentation.rotation) * Math.PI) / 180;
  }
  view.brightness = factor(augmentation.brightness);
  view.contrast = factor(augmentation.contrast);
  view.saturation = factor(augmentation.saturation);
  if (augmentation.hue > 0) view.hue = random.between(-augmentation.hue, augmentation.hue) * 2 * Math.PI;
  if (augmentation.grayscale > 0 && random.uniform() < augmentation.grayscale) view.saturation = 0;
  return view;
}

/** Luma of Rec. 601, in which contrast and saturation work. */
const LUMA = [0.299, 0.587, 0.114] as const;

/** Numbers of a packed view. */
export const VIEW_NUMBERS = 19;

/**
 * Views as the native core takes them, [n, 19]: the crop, whether it is mirrored, cosine and sine of the angle, whether colours change, their
 * 3 × 3 matrix, contrast and brightness. Brightness, contrast, saturation and hue, in this order, are all affine in the colour: one matrix and
 * one shift do them, clamped once.
 */
export function packViews(views: readonly View[]): Float64Array {
  const packed = new Float64Array(VIEW_NUMBERS * views.length);
  for (const [i, view] of views.entries()) {
    const { left, top, width, height, flip, angle, brightness, contrast, saturation, hue } = view;
    const coloured = brightness !== 1 || contrast !== 1 || saturation !== 1 || hue !== 0;
    packed.set([left, top, width, height, flip ? 1 : 0, 1, 0, coloured ? 1 : 0], i * VIEW_NUMBERS);
    if (angle !== 0) packed.set([Math.cos(angle), Math.sin(angle)], i * VIEW_NUMBERS + 5);
    if (!coloured) continue;
    // Saturation and hue keep greys as they are, so the shift passes through both.
    const colour = multiply(hueMatrix(hue), saturationMatrix(saturation));
    const gain = brightness * contrast;
    packed.set([...colour.map((value) => value * gain), contrast, brightness], i * VIEW_NUMBERS + 8);
  }
  return packed;
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
