import { expectInteger, expectObject, expectOneOf, expectPositive, failRange } from '../native/check.ts';

/** The image tower of a student: a vision transformer. */
export interface VisionConfig {
  /** Side of the square input in pixels; a multiple of `patchSize`. */
  imageSize: number;
  patchSize: number;
  /**
   * How patches become tokens: by one linear map, as in CLIP, or by 3 × 3 convolutions of stride 2 (Xiao et al., "Early convolutions help
   * transformers see better", 2021, here without normalisation between them), which learn what is finer than a patch, such as blur and grain, from far
   * fewer images. `patchSize` is then a power of two from 2 on.
   */
  stem: 'patch' | 'conv';
  width: number;
  layers: number;
  /** Divides `width`. */
  heads: number;
  /** Width of the hidden layer of a block over `width`. */
  mlpRatio: number;
  /**
   * What stands for the image: a learned class token, as in CLIP, or the mean over the patches, which trains faster where data
   * are few and saves a token.
   */
  pooling: 'class' | 'mean';
}

/** The text tower: a causal transformer that is read at the end-of-text token. */
export interface TextConfig {
  vocabSize: number;
  /** Longest text in tokens, with its start and end. */
  contextLength: number;
  width: number;
  layers: number;
  heads: number;
  mlpRatio: number;
}

/** Sizes of a CLIP student. */
export interface StudentConfig {
  /** Width of both embeddings. */
  embedDim: number;
  vision: VisionConfig;
  text: TextConfig;
}

/** Architectures by name: `vit-SIZE-PATCH` at 224 pixels as CLIP sizes them, and small ones at 64 pixels for few data. */
export type StudentName =
  | 'vit-ti-16'
  | 'vit-s-32'
  | 'vit-s-16'
  | 'vit-b-32'
  | 'vit-b-16'
  | 'vit-l-14'
  | 'mini-64'
  | 'micro-64';

function clip(
  embedDim: number,
  patchSize: number,
  [width, layers]: readonly [number, number],
  [textWidth, textLayers]: readonly [number, number],
): StudentConfig {
  return {
    embedDim,
    vision: {
      imageSize: 224,
      patchSize,
      stem: 'patch',
      width,
      layers,
      heads: width / 64,
      mlpRatio: 4,
      pooling: 'class',
    },
    text: {
      vocabSize: 49408,
      contextLength: 77,
      width: textWidth,
      layers: textLayers,
      heads: textWidth / 64,
      mlpRatio: 4,
    },
  };
}

function small(embedDim: number, width: number, layers: number, textLayers: number): StudentConfig {
  return {
    embedDim,
    vision: {
      imageSize: 64,
      patchSize: 8,
      stem: 'patch',
      width,
      layers,
      heads: width / 32,
      mlpRatio: 4,
      pooling: 'mean',
    },
    text: { vocabSize: 49408, contextLength: 32, width, layers: textLayers, heads: width / 32, mlpRatio: 4 },
  };
}

const named: Readonly<Record<StudentName, StudentConfig>> = {
  'vit-ti-16': clip(256, 16, [192, 12], [192, 12]),
  'vit-s-32': clip(384, 32, [384, 12], [384, 12]),
  'vit-s-16': clip(384, 16, [384, 12], [384, 12]),
  'vit-b-32': clip(512, 32, [768, 12], [512, 12]),
  'vit-b-16': clip(512, 16, [768, 12], [512, 12]),
  'vit-l-14': clip(768, 14, [1024, 24], [768, 12]),
  'mini-64': small(128, 192, 6, 4),
  'micro-64': small(128, 96, 4, 2),
};

export const studentNames = Object.keys(named) as StudentName[];

/** Numbers of an architecture; what is left out comes from `base`. */
export interface StudentOptions {
  /** Architecture whose numbers are changed. Defaults to 'mini-64'. */
  base?: StudentName;
  /** Width of both embeddings, at least 1. Defaults to that of `base`. */
  embedDim?: number;
  /** Sizes of the image tower; those left out are those of `base`. */
  vision?: Partial<VisionConfig>;
  /** Sizes of the text tower; those left out are those of `base`. */
  text?: Partial<TextConfig>;
}

/** The sizes that a name, or a name with some numbers changed, stands for. Fails with a RangeError on sizes that do not fit. */
export function studentConfig(student: StudentName | StudentOptions = 'mini-64'): StudentConfig {
  const options = typeof student === 'string' ? { base: student } : student;
  expectObject('student', options, ['base', 'embedDim', 'vision', 'text']);
  const base = named[expectOneOf('student', options.base ?? 'mini-64', studentNames)];
  const vision = { ...base.vision, ...options.vision };
  const text = { ...base.text, ...options.text };
  expectObject('student.vision', vision, Object.keys(base.vision));
  expectObject('student.text', text, Object.keys(base.text));
  const config: StudentConfig = { embedDim: options.embedDim ?? base.embedDim, vision, text };
  expectInteger('student.embedDim', config.embedDim, 1);
  for (const name of ['vision', 'text'] as const) {
    const tower = config[name];
    expectInteger(`student.${name}.width`, tower.width, 1);
    expectInteger(`student.${name}.layers`, tower.layers, 1);
    expectInteger(`student.${name}.heads`, tower.heads, 1);
    expectPositive(`student.${name}.mlpRatio`, tower.mlpRatio);
    if (tower.width % tower.heads !== 0) {
      failRange(`a divisor of ${tower.width}`, `student.${name}.heads`, tower.heads);
    }
  }
  expectInteger('student.vision.imageSize', vision.imageSize, 1);
  expectInteger('student.vision.patchSize', vision.patchSize, 1);
  if (vision.imageSize % vision.patchSize !== 0) {
    failRange(`a divisor of ${vision.imageSize}`, 'student.vision.patchSize', vision.patchSize);
  }
  expectOneOf('student.vision.pooling', vision.pooling, ['class', 'mean']);
  if (expectOneOf('student.vision.stem', vision.stem, ['patch', 'conv']) === 'conv') {
    const { patchSize } = vision;
    if (patchSize < 2 || !Number.isInteger(Math.log2(patchSize)))
      failRange("a power of two for the stem 'conv'", 'student.vision.patchSize', patchSize);
  }
  expectInteger('student.text.contextLength', text.contextLength, 3);
  expectInteger('student.text.vocabSize', text.vocabSize, 3);
  return config;
}
