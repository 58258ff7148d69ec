/** Settings of the aesthetics example, shared by its scripts. Everything not given here has the package's default. */

/** The frozen CLIP, trained by `train-clip.mjs`. Views differ in geometry alone: what a colour, a blur or a grain is like stays to be seen. */
export const clip = {
  seed: 0,
  scenes: 8000,
  pretrain: {
    student: {
      base: 'mini-64',
      embedDim: 64,
      vision: { imageSize: 96, patchSize: 16, stem: 'conv', width: 128, layers: 2, heads: 4 },
      text: { width: 64, layers: 2, heads: 2, contextLength: 20 },
    },
    vocabSize: 2048,
    epochs: 8,
    batchSize: 64,
    rate: 1e-3,
    ema: 0.99,
    validation: 0.03,
    select: 'last',
    exportDtype: 'float16',
    augment: { scale: [0.9, 1], ratio: [1, 1], flip: 0.5 },
  },
};

/** Scenes of the example: without labels, for labels (a part of which a run may see), and to measure on. */
export const scenes = { unlabelled: 3000, labelled: 400, test: 800 };

/**
 * Ratings: so many people each give a whole number from 1 to 10, around a mean that follows from the quality of the scene, and that people
 * together see a little otherwise.
 */
export const ratings = { raters: 30, taste: 0.4, deviation: 1.3 };

const vision = { base: 'mini-64', imageSize: 96, patchSize: 16, stem: 'conv', pooling: 'mean' };

/** Crops and mirroring; a crop cuts off so little that it does not make a scene worse. */
const augment = { scale: [0.9, 1], ratio: [1, 1], flip: 0.5 };

/** The configuration of `clip-cid aesthetics`. Labels that a run may see are drawn by its seed. */
export const run = {
  teacher: { backbone: { ...vision, width: 96, layers: 3, heads: 3 } },
  student: { backbone: { ...vision, width: 64, layers: 3, heads: 2 } },
  labels: { count: 150 },
  align: { epochs: 20, batchSize: 100, rate: 1e-3, decay: 0.05, ema: 0.98, select: 'last' },
  train: {
    epochs: 40,
    batchSize: 25,
    rate: 2e-3,
    backboneRate: 0.25,
    decay: 0.05,
    ema: 0.98,
    ratio: 4,
    augment,
    select: 'last',
  },
  baselines: true,
};
