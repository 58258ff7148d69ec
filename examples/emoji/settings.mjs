/** Settings of the emoji example, shared by its scripts. Everything not given here has the package's default. */

/**
 * Seed of the split into training and held-out concepts. It never changes: the committed teacher has seen the training side, so
 * another split would measure it on images that it knows.
 */
export const splitSeed = 0;

/** Colours are turned at will, so that what is learned is shape: skin-tone variations then lie close together. */
const augment = {
  scale: [0.5, 1],
  rotation: 10,
  brightness: 0.3,
  contrast: 0.3,
  saturation: 0.5,
  hue: 0.5,
  grayscale: 0.3,
};

/**
 * The teacher, trained by `train-teacher.mjs` in two legs: from nothing, and on from there with a fresh cosine and with brightness
 * and contrast turned harder, which is what skin tones differ in.
 */
const leg = {
  batchSize: 128,
  ema: 0.995,
  rate: 1e-3,
  validation: 0.02,
  select: 'last',
  exportDtype: 'float16',
};

export const teacher = {
  seed: 0,
  legs: [
    {
      ...leg,
      student: {
        base: 'mini-64',
        embedDim: 128,
        vision: { width: 128, layers: 4, heads: 4 },
        text: { width: 128, layers: 3, heads: 4, contextLength: 24 },
      },
      vocabSize: 1024,
      epochs: 45,
      augment,
    },
    { ...leg, epochs: 40, augment: { ...augment, brightness: 0.5, contrast: 0.5, saturation: 0.8 } },
  ],
};

/**
 * Training of both students. Their embeddings are as wide as the teacher's, so that no projection stands between the two: what the
 * teacher knows of images and captions together then carries over to the student's own zero-shot.
 */
const distill = {
  student: {
    base: 'micro-64',
    embedDim: 128,
    vision: { width: 64, layers: 3, heads: 2 },
    text: { width: 64, layers: 2, heads: 2, contextLength: 24 },
  },
  epochs: 24,
  batchSize: 128,
  ema: 0.99,
  rate: 2e-3,
  augment,
  validation: 0.02,
  select: 'last',
};

/**
 * The demo's run: share that balancing keeps (the one that CLIP-CID publishes, 1 − 43.7 %), number of centres, the student, and the same
 * student on the same data and steps without anything of the teacher but its tokenizer.
 */
export const demo = {
  balance: { keepRatio: 0.563 },
  cluster: { clusters: 256 },
  distill,
  baseline: { weights: { clusterCe: 0, clusterKl: 0, instance: 0 } },
};

/** What is measured: one caption an image, that with the emoji's name, counts in image-text retrieval. */
export const evaluation = {
  labels: ['category', 'subcategory'],
  probeLabels: ['category'],
  captionsPerImage: 1,
};
