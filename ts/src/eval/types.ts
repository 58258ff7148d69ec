import type { Dataset } from '../data/dataset.ts';
import type { Encoder, OpenEncoderOptions } from '../encoder/encoder.ts';
import type { Device } from '../native/devices.ts';
import type { OnProgress } from '../run/progress.ts';

/**
 * - `zero-shot`: classification of the images by the text tower, for every field of `labels`.
 * - `image-text`: retrieval of captions by images and of images by captions.
 * - `image-image`: retrieval of images that share the `concept` field, among those of another `domain`.
 * - `linear-probe`: multinomial logistic regression on frozen image embeddings; needs `train`.
 */
export type EvaluationTask = 'zero-shot' | 'image-text' | 'image-image' | 'linear-probe';

export const evaluationTasks: readonly EvaluationTask[] = [
  'zero-shot',
  'image-text',
  'image-image',
  'linear-probe',
];

export interface EvaluateOptions {
  /** Model folder, or one that is open; the caller disposes of that. */
  readonly model: string | Encoder;
  /** What the model is measured on: a manifest, folder or tar pattern as `openDataset` takes it, or a data set that is open; the caller disposes of that. */
  readonly data: string | Dataset;
  /** Data that the model may have been trained on: labels of the probe, and image-text retrieval of seen concepts. */
  readonly train?: string | Dataset;
  /** Field of a list that names the image. Defaults to the first there is of 'image', 'path', 'file', …; see `openDataset`. */
  readonly imageField?: string;
  /** Field of a list that holds the caption. Defaults to the first there is of 'caption', 'captions', 'text', …; see `openDataset`. */
  readonly captionField?: string;
  /** Defaults to every task that the data allow: those need labels, captions or the concept field, and the probe `train`. */
  readonly tasks?: readonly EvaluationTask[];
  /** Fields of the items that hold a class name, for zero-shot and probe. Defaults to those of `classes`, else to 'label' or 'category' where present. */
  readonly labels?: readonly string[];
  /** Candidate classes for a field, as words that go into the templates. Defaults to all values of the field in `data` and `train`, sorted. */
  readonly classes?: Readonly<Record<string, readonly string[]>>;
  /** Prompts of which the class embedding is the mean; `{}` is the class. Defaults to `['a photo of a {}.']`. */
  readonly templates?: readonly string[];
  /** Field that says which images show the same thing. Defaults to 'concept'. */
  readonly concept?: string;
  /** Field in which a query and a match must differ (who drew it, which camera). Defaults to 'vendor'; items without it match any other item. */
  readonly domain?: string;
  /** Captions of an image that count in image-text retrieval, from the first. Defaults to all. */
  readonly captionsPerImage?: number;
  /** L2 strengths that the probe tries. Defaults to 1e-6, 1e-5, …, 1e-1. */
  readonly probeGrid?: readonly number[];
  /** Fields that the probe predicts. Defaults to `labels`. */
  readonly probeLabels?: readonly string[];
  /** Seed of the probe's validation split. Defaults to 0. */
  readonly seed?: number;
  /** Of the nearest-neighbour search. Defaults to 'auto'. */
  readonly device?: Device;
  /** Threads for inference, decoding and search, 1 to 1,024. Defaults to the process's number. */
  readonly threads?: number;
  /** How a model that is given as a folder is opened. Defaults to the defaults of {@link OpenEncoderOptions}. */
  readonly encoder?: Omit<OpenEncoderOptions, 'threads'>;
  /** Stops the work soon after it aborts; the call then rejects with a CidError ABORTED. Defaults to none. */
  readonly signal?: AbortSignal;
  /** Told how far it is. Defaults to none. */
  readonly onProgress?: OnProgress;
}

export interface ZeroShotResult {
  readonly images: number;
  readonly classes: number;
  /** Share of the images whose class is the nearest, 0 to 1. */
  readonly top1: number;
  /** Share of the images whose class is among the five nearest. */
  readonly top5: number;
  /** Mean over the classes that have images of the share within the class. */
  readonly meanPerClass: number;
  /** What guessing gives: 1 / classes. */
  readonly chance: number;
  readonly perClass: readonly { readonly name: string; readonly images: number; readonly top1: number }[];
}

export interface RecallResult {
  readonly queries: number;
  readonly candidates: number;
  /** Share of the queries with a right answer among the first 1, 5 and 10. */
  readonly recall: Readonly<Record<'1' | '5' | '10', number>>;
  /** The same for answers in random order. */
  readonly chance: Readonly<Record<'1' | '5' | '10', number>>;
}

export interface ImageTextResult {
  readonly imageToText: RecallResult;
  readonly textToImage: RecallResult;
  /** What to keep in mind when reading the numbers, where there is something. */
  readonly note?: string;
}

export interface ImageImageResult extends RecallResult {
  /** Mean over the queries of average precision over the whole ranking. */
  readonly meanAveragePrecision: number;
  /** Mean over the concepts of recall@1 within the concept, so that one with many images counts as one with few. */
  readonly recall1PerConcept: number;
  readonly concepts: number;
}

export interface LinearProbeResult {
  readonly images: number;
  readonly trainImages: number;
  readonly classes: number;
  readonly top1: number;
  readonly meanPerClass: number;
  /** L2 strength chosen on the validation split. */
  readonly l2: number;
  /** Accuracy on the validation split for each strength tried. */
  readonly validation: readonly { readonly l2: number; readonly top1: number; readonly iterations: number }[];
  readonly iterations: number;
  /** False where the final fit stopped at its limit of iterations. */
  readonly converged: boolean;
}

export interface ModelSummary {
  readonly folder: string;
  readonly hash: string;
  readonly dim: number;
  readonly imageSize: number;
  /** Numbers that training learns or keeps, as its own summary counts them: of both towers, and of the image tower where it is a file of its own. */
  readonly parameters: number;
  readonly imageParameters?: number;
  /** Size of the ONNX files together. */
  readonly bytes: number;
}

export interface DataSummary {
  readonly source: string;
  /** Images measured. */
  readonly images: number;
  /** Items left out because their image could not be read or decoded. */
  readonly skipped: number;
  /** Of what is measured on: images that are in the training data too, where that was given. */
  readonly seen?: number;
}

export interface EvaluateResult {
  readonly model: ModelSummary;
  readonly data: DataSummary;
  readonly train?: DataSummary;
  /** By field. */
  readonly zeroShot?: Readonly<Record<string, ZeroShotResult>>;
  /** `data`: the concepts measured on, unseen when `data` was held out by concept; `train`: seen ones. */
  readonly imageText?: { readonly data?: ImageTextResult; readonly train?: ImageTextResult };
  readonly imageImage?: ImageImageResult;
  /** By field. */
  readonly linearProbe?: Readonly<Record<string, LinearProbeResult>>;
  readonly seconds: number;
}
