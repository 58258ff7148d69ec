import type { ModelProto } from '../../onnx/onnx_pb.ts';
import { Flow, integers } from './flow.ts';

export interface LayoutOptions {
  /** Rows and columns of patches. Derived from the patch embedding, else from the number of tokens. */
  readonly grid?: readonly [rows: number, columns: number];
  /** Tokens before the patches that stand for no place: class token, registers. Derived as what is left of the tokens. */
  readonly classTokens?: number;
  /** Heads, for graphs that have images and heads in one dimension together with windows. */
  readonly heads?: number;
  /** Takes attention within windows for what it is: distances are then within a window of neighbouring patches, as in Swin. Defaults to false. */
  readonly windowed?: boolean;
}

/** What the rows and columns of a layer's attention are. */
export interface Layout {
  readonly heads: number;
  /** Tokens that attend to each other. */
  readonly tokens: number;
  readonly classTokens: number;
  /** Of the patches among the tokens; of one window where there are windows. */
  readonly grid: readonly [rows: number, columns: number];
  /** Side of a patch in pixels. */
  readonly cell: number;
  /** Windows of an image; 1 where all patches attend to all. */
  readonly windows: number;
}

/** The patches that a convolution cuts an image into. */
export interface Patches {
  readonly rows: number;
  readonly columns: number;
  /** Pixels from one to the next. */
  readonly cell: number;
}

/** More tokens than this beside the patches are something else. */
const MOST_CLASS_TOKENS = 16;

const PASSED = new Set([
  'Cast',
  'Sub',
  'Div',
  'Mul',
  'Add',
  'Identity',
  'Pad',
  'QuantizeLinear',
  'DequantizeLinear',
]);

/** The grid of the first convolution that a square image of `size` pixels goes through, where that comes first. */
export function patchesOf(model: ModelProto, input: string, size: number): Patches | undefined {
  const flow = new Flow(model, input);
  const weights = new Map(model.graph!.initializer.map((tensor) => [tensor.name, tensor.dims.map(Number)]));
  let values = [input];
  for (let step = 0; step < 8; step++) {
    const nodes = values.flatMap((value) => flow.consumers(value));
    const convolution = nodes.find(
      ({ opType }) => opType === 'Conv' || opType === 'ConvInteger' || opType === 'QLinearConv',
    );
    if (convolution) {
      const kernel = integers(convolution, 'kernel_shape') ?? weights.get(convolution.input[1]!)?.slice(2);
      const strides = integers(convolution, 'strides') ?? [1, 1];
      const pads = integers(convolution, 'pads') ?? [0, 0, 0, 0];
      if (kernel?.length !== 2 || strides[0] !== strides[1]) return undefined;
      const [rows, columns] = [0, 1].map((axis) =>
        Math.floor((size + pads[axis]! + pads[axis + 2]! - kernel[axis]!) / strides[axis]! + 1),
      ) as [number, number];
      return { rows, columns, cell: strides[0]! };
    }
    values = nodes.filter(({ opType }) => PASSED.has(opType)).flatMap(({ output }) => output);
  }
  return undefined;
}

/**
 * What a layer's attention is between, from the shape that its probabilities have for `images` square images of `size` pixels; a reason where
 * they are not between the places of an image.
 */
export function layoutOf(
  dims: readonly number[],
  images: number,
  size: number,
  patches: Patches | undefined,
  options: LayoutOptions,
): Layout | string {
  const shape = `[${dims.join(', ')}]`;
  const [queries, keys] = dims.slice(-2) as [number, number];
  if (dims.length < 3) return `its scores are ${shape}: they have no heads`;
  if (queries !== keys) return `its scores are ${shape}: not of tokens to each other`;
  const tokens = queries;
  const leading = dims.slice(0, -2).reduce((product, dim) => product * dim, 1);
  const heads = options.heads ?? (dims.length === 3 ? leading / images : dims.at(-3)!);
  const patchCount = patches ? patches.rows * patches.columns : 0;
  if (dims.length === 3 && options.heads === undefined && tokens < patchCount) {
    return `its scores are ${shape}, of fewer tokens than there are patches: say how many heads there are (heads)`;
  }
  const windows = leading / images / heads;
  if (!Number.isInteger(windows) || windows < 1) {
    return `its scores are ${shape}: they do not divide into ${images} images and ${heads} heads`;
  }
  if (windows > 1) {
    if (options.windowed) return windowLayout(shape, { heads, tokens, windows }, size, patches);
    return `its scores are ${shape}: attention within ${windows} windows of an image, which are measured where that is asked for (windowed)`;
  }
  return globalLayout({ heads, tokens }, size, patches, options);
}

function globalLayout(
  { heads, tokens }: { heads: number; tokens: number },
  size: number,
  patches: Patches | undefined,
  { grid, classTokens }: LayoutOptions,
): Layout | string {
  const done = (rows: number, columns: number, cell: number): Layout => ({
    heads,
    tokens,
    classTokens: tokens - rows * columns,
    grid: [rows, columns],
    cell,
    windows: 1,
  });
  if (grid) {
    const [rows, columns] = grid;
    const rest = tokens - rows * columns;
    if (rest < 0 || (classTokens !== undefined && rest !== classTokens)) {
      const beside = classTokens === undefined ? '' : ` and ${classTokens} other tokens`;
      return `it has ${tokens} tokens, where ${rows} × ${columns} patches${beside} were expected`;
    }
    return done(rows, columns, size / Math.max(rows, columns));
  }
  if (patches) {
    const rest = tokens - patches.rows * patches.columns;
    const fits = classTokens === undefined ? rest >= 0 && rest <= MOST_CLASS_TOKENS : rest === classTokens;
    if (fits) return done(patches.rows, patches.columns, patches.cell);
  }
  // A square, then, with as few tokens beside it as can be.
  const side = Math.floor(Math.sqrt(classTokens === undefined ? tokens : tokens - classTokens));
  const rest = tokens - side * side;
  if (side < 1 || (classTokens === undefined ? rest > MOST_CLASS_TOKENS : rest !== classTokens)) {
    return `its ${tokens} tokens are no square of patches${classTokens === undefined ? '' : ` and ${classTokens} other tokens`}: say what grid they are (grid, classTokens)`;
  }
  return done(side, side, size / side);
}

/** Windows tile the grid of a stage, which may be padded to whole windows; stages halve the grid of the patches. */
function windowLayout(
  shape: string,
  { heads, tokens, windows }: { heads: number; tokens: number; windows: number },
  size: number,
  patches: Patches | undefined,
): Layout | string {
  const [side, across] = [Math.sqrt(tokens), Math.sqrt(windows)];
  if (!Number.isInteger(side) || !Number.isInteger(across)) {
    return `its scores are ${shape}: ${windows} windows of ${tokens} tokens are no squares`;
  }
  for (let cell = patches?.cell ?? 1; cell <= size; cell *= 2) {
    if (Math.ceil(Math.ceil(size / cell) / side) === across) {
      return { heads, tokens, classTokens: 0, grid: [side, side], cell, windows };
    }
  }
  return `its scores are ${shape}: ${across} × ${across} windows of ${side} × ${side} fit no grid of an image of ${size} pixels`;
}
