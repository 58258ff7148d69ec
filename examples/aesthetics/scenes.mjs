/**
 * Scenes for the aesthetics example: one to four drawings of emoji on a background, 96 x 96 pixels, made worse in a known way.
 *
 * Everything about a scene follows from a text (its seed): which emoji, where, on what ground, what is wrong with it and how much. Six
 * things can be wrong, each by a severity from 0 to 1: JPEG compression, blur, noise, exposure, a colour cast, and a crop that cuts the
 * drawings off. The quality of a scene is what its severities leave of 1.
 */
import { createHash } from 'node:crypto';
import sharp from 'sharp';

export const SIZE = 96;
export const kinds = ['jpeg', 'blur', 'noise', 'exposure', 'cast', 'crop'];

/** Share of scenes with nothing wrong, and of the others with two things wrong. */
const CLEAN = 0.12;
const TWO = 0.35;

/** Numbers in [0, 1) that follow from a text: mulberry32, seeded by a hash. */
export function drawsOf(text) {
  let state = createHash('sha256').update(text).digest().readUInt32LE();
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    uniform,
    between: (from, to) => from + (to - from) * uniform(),
    below: (n) => Math.floor(n * uniform()),
    /** Box-Muller. */
    normal: () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
  };
}

/** What a scene is made of, without its pixels. `emoji` is how many drawings there are to choose from. */
export function planScene(seed, emoji) {
  const draws = drawsOf(`scene ${seed}`);
  const count = 1 + draws.below(4);
  const faults = {};
  if (draws.uniform() >= CLEAN) {
    const first = kinds[draws.below(kinds.length)];
    faults[first] = draws.uniform();
    if (draws.uniform() < TWO) {
      const others = kinds.filter((kind) => kind !== first);
      faults[others[draws.below(others.length)]] = draws.uniform();
    }
  }
  const drawings = placements(draws, count, faults.crop ?? 0).map((place) => ({
    ...place,
    emoji: draws.below(emoji),
  }));
  return {
    drawings,
    ground: groundOf(draws),
    faults,
    /** Which way an exposure is wrong. */
    dark: draws.uniform() < 0.5,
    quality: qualityOf(faults),
    texture: draws.below(2 ** 31),
  };
}

/** What the severities leave of 1: the worst one counts in full, another one by half of what is left. */
export function qualityOf(faults) {
  const [worst = 0, other = 0] = Object.values(faults).sort((a, b) => b - a);
  return (1 - worst) * (1 - 0.5 * other);
}

/** Where drawings go: cells of a grid, smaller where there are more, moved and turned a little. A crop moves all of them out of the picture. */
function placements(draws, count, crop) {
  const cells =
    count === 1
      ? [[0.5, 0.5]]
      : count === 2
        ? [
            [0.3, 0.5],
            [0.7, 0.5],
          ]
        : [
            [0.3, 0.3],
            [0.7, 0.3],
            [0.3, 0.7],
            [0.7, 0.7],
          ];
  const side =
    count === 1 ? draws.between(48, 76) : count === 2 ? draws.between(34, 46) : draws.between(30, 42);
  const jitter = count === 1 ? 0.08 : 0.05;
  const angle = draws.between(0, 2 * Math.PI);
  // By so much of the picture that at severity 1 more than half of the drawings is outside.
  const shift = crop === 0 ? 0 : 0.08 + 0.5 * crop;
  // The longer way of the two is the whole shift, so that every direction cuts off as much.
  const scale = shift / Math.max(Math.abs(Math.cos(angle)), Math.abs(Math.sin(angle)));
  return cells.slice(0, count).map(([x, y]) => ({
    x: SIZE * (x + draws.between(-jitter, jitter) + scale * Math.cos(angle)),
    y: SIZE * (y + draws.between(-jitter, jitter) + scale * Math.sin(angle)),
    side: side * draws.between(0.9, 1.1),
    turn: draws.between(-0.26, 0.26),
  }));
}

/** A plain ground or a gradient between two colours, light or dark, of any hue. */
function groundOf(draws) {
  const hue = draws.uniform();
  const light = draws.between(0.25, 0.92);
  const first = hsl(hue, draws.between(0.05, 0.7), light);
  const plain = draws.uniform() < 0.4;
  const second = plain
    ? first
    : hsl(
        hue + draws.between(-0.15, 0.15),
        draws.between(0.05, 0.7),
        clamp(light + draws.between(-0.3, 0.3)),
      );
  return { first, second, angle: draws.between(0, 2 * Math.PI) };
}

const clamp = (value) => Math.min(1, Math.max(0, value));

function hsl(hue, saturation, light) {
  const chroma = saturation * Math.min(light, 1 - light);
  const channel = (n) => {
    const k = (n + 12 * (((hue % 1) + 1) % 1)) % 12;
    return light - chroma * Math.max(-1, Math.min(k - 3, 9 - k, 1));
  };
  return [channel(0), channel(8), channel(4)];
}

/** Drawings by path, decoded once: RGBA, the colour multiplied by the opacity. */
export class Drawings {
  #known = new Map();

  async get(path) {
    let drawing = this.#known.get(path);
    if (drawing === undefined) {
      const { data, info } = await sharp(path).ensureAlpha().raw().toBuffer({ resolveWithObject: true });
      const pixels = new Float32Array(data.length);
      for (let i = 0; i < data.length; i += 4) {
        const opacity = data[i + 3] / 255;
        for (let c = 0; c < 3; c++) pixels[i + c] = (data[i + c] / 255) * opacity;
        pixels[i + 3] = opacity;
      }
      drawing = { pixels, width: info.width, height: info.height };
      this.#known.set(path, drawing);
    }
    return drawing;
  }
}

/** A scene as a JPEG file's bytes. `pathOf` gives the file of a drawing. */
export async function renderScene(plan, pathOf, drawings) {
  const image = paintGround(plan.ground);
  for (const { emoji, ...place } of plan.drawings) paint(image, await drawings.get(pathOf(emoji)), place);
  const { jpeg = 0, blur = 0, noise = 0, exposure = 0, cast = 0 } = plan.faults;
  const draws = drawsOf(`texture ${plan.texture}`);
  if (exposure > 0) expose(image, exposure, plan.dark);
  if (cast > 0) tint(image, cast, draws);
  const soft = blur > 0 ? gaussian(image, 0.3 + 3.2 * blur ** 1.3) : image;
  const bytes = new Uint8Array(soft.length);
  const grain = noise > 0 ? 0.015 + 0.25 * noise ** 1.3 : 0;
  for (let i = 0; i < soft.length; i++)
    bytes[i] = Math.round(255 * clamp(soft[i] + (grain > 0 ? grain * draws.normal() : 0)));
  const raw = { width: SIZE, height: SIZE, channels: 3 };
  const quality = jpeg > 0 ? Math.round(3 + 45 * (1 - jpeg) ** 2) : 96;
  return sharp(bytes, { raw })
    .jpeg({ quality, chromaSubsampling: jpeg > 0 ? '4:2:0' : '4:4:4' })
    .toBuffer();
}

/** [SIZE, SIZE, 3], 0 to 1. */
function paintGround({ first, second, angle }) {
  const image = new Float32Array(SIZE * SIZE * 3);
  const [dx, dy] = [Math.cos(angle), Math.sin(angle)];
  for (let y = 0; y < SIZE; y++) {
    for (let x = 0; x < SIZE; x++) {
      const at = clamp(0.5 + ((x / SIZE - 0.5) * dx + (y / SIZE - 0.5) * dy) * 0.75);
      for (let c = 0; c < 3; c++) image[(y * SIZE + x) * 3 + c] = first[c] + at * (second[c] - first[c]);
    }
  }
  return image;
}

/** Lays a drawing on the image, turned and resized, with four samples a pixel. */
function paint(image, { pixels, width, height }, { x, y, side, turn }) {
  const scale = side / Math.max(width, height);
  const reach = side * 0.75;
  const [cos, sin] = [Math.cos(turn) / scale, Math.sin(turn) / scale];
  const sample = [0, 0, 0, 0];
  for (let py = Math.max(0, Math.floor(y - reach)); py < Math.min(SIZE, y + reach); py++) {
    for (let px = Math.max(0, Math.floor(x - reach)); px < Math.min(SIZE, x + reach); px++) {
      sample.fill(0);
      for (const [ox, oy] of [
        [0.25, 0.25],
        [0.75, 0.25],
        [0.25, 0.75],
        [0.75, 0.75],
      ]) {
        const [dx, dy] = [px + ox - x, py + oy - y];
        bilinear(
          pixels,
          width,
          height,
          cos * dx + sin * dy + width / 2,
          cos * dy - sin * dx + height / 2,
          sample,
        );
      }
      const at = (py * SIZE + px) * 3;
      const behind = 1 - sample[3] / 4;
      for (let c = 0; c < 3; c++) image[at + c] = image[at + c] * behind + sample[c] / 4;
    }
  }
}

/** Adds the drawing's value at a point; outside it there is nothing. */
function bilinear(pixels, width, height, x, y, out) {
  const [x0, y0] = [Math.floor(x - 0.5), Math.floor(y - 0.5)];
  for (let j = 0; j < 2; j++) {
    for (let i = 0; i < 2; i++) {
      const [sx, sy] = [x0 + i, y0 + j];
      if (sx < 0 || sy < 0 || sx >= width || sy >= height) continue;
      const weight = (1 - Math.abs(x - 0.5 - sx)) * (1 - Math.abs(y - 0.5 - sy));
      const at = (sy * width + sx) * 4;
      for (let c = 0; c < 4; c++) out[c] += weight * pixels[at + c];
    }
  }
}

/** Too bright or too dark, by up to two and a half stops. */
function expose(image, severity, dark) {
  const gain = 2 ** ((dark ? -1 : 1) * (0.25 + 2.25 * severity));
  for (let i = 0; i < image.length; i++) image[i] = clamp(image[i] * gain);
}

/** A mixture with one colour. */
function tint(image, severity, draws) {
  const colour = hsl(draws.uniform(), 1, 0.5);
  const share = 0.06 + 0.54 * severity;
  for (let i = 0; i < image.length; i++) {
    const seen = image[i] * colour[i % 3] * 1.2;
    image[i] = clamp((1 - share) * image[i] + share * (0.6 * seen + 0.4 * colour[i % 3]));
  }
}

/** Gaussian blur; the edge repeats. */
function gaussian(image, sigma) {
  const reach = Math.ceil(3 * sigma);
  const weights = Array.from({ length: 2 * reach + 1 }, (_, i) =>
    Math.exp(-((i - reach) ** 2) / (2 * sigma * sigma)),
  );
  const sum = weights.reduce((all, weight) => all + weight, 0);
  let from = image;
  for (const [step, other] of [
    [3, SIZE * 3],
    [SIZE * 3, 3],
  ]) {
    const to = new Float32Array(image.length);
    for (let line = 0; line < SIZE; line++) {
      for (let i = 0; i < SIZE; i++) {
        for (let k = -reach; k <= reach; k++) {
          const at = line * other + Math.min(SIZE - 1, Math.max(0, i + k)) * step;
          const weight = weights[k + reach] / sum;
          for (let c = 0; c < 3; c++) to[line * other + i * step + c] += weight * from[at + c];
        }
      }
    }
    from = to;
  }
  return from;
}
