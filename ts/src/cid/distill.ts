import type { Dataset } from '../data/dataset.ts';
import type { Encoder } from '../encoder/encoder.ts';
import type { Matrix } from '../kernels/rows.ts';
import type { TrainedStudent, TrainingOptions } from '../student/options.ts';

/**
 * Distillation of a CLIP by cluster and instance discrimination (CLIP-CID); with `clusterCe`, `clusterKl` and `instance` 0 it
 * is a CLIP trained alone on the same budget. See {@link TrainingOptions} for the rest.
 */
export interface DistillOptions extends TrainingOptions {
  /** Images with captions; the caller disposes of it. */
  data: Dataset;
  /**
   * Indices of the items to use, such as those that balancing kept. Defaults to all. Row r of `embeddings` and `labels`
   * belongs to `items[r]`.
   */
  items?: ArrayLike<number>;
  /** Folder for checkpoints and, in `model/`, the exported student. Training goes on from what is there. */
  folder: string;
  /** Where a line of metrics a step goes. Defaults to `metrics.jsonl` in `folder`. */
  metrics?: string;
  /** The teacher's model folder; its tokenizer becomes the student's. */
  teacherFolder: string;
  /** The teacher, opened; needed for `targets: 'online'`, and where captions of one item are drawn. The caller disposes of it. */
  teacher?: Encoder;
  /** The teacher's embeddings, [items, Dt] each; the text's is that of an item's first caption. Needed unless only the CLIP loss is used. */
  embeddings?: { image: Matrix; text: Matrix };
  /** Centres [K, Dt] and the centre of each item, 0 to K − 1. Needed where `clusterCe` or `clusterKl` is over 0. */
  clusters?: { centroids: Matrix; labels: Int32Array };
  /**
   * What the student is compared with: the cached embeddings of the plain image, or the teacher run on each augmented view
   * (needs `teacher`, and its time). Defaults to 'cached'.
   */
  targets?: 'cached' | 'online';
  /** Weights of the terms. Each defaults to 1. */
  weights?: { clip?: number; clusterCe?: number; clusterKl?: number; instance?: number };
  /** Temperature of the student's logits over the centres. Defaults to 0.05. */
  temperature?: number;
  /** Temperature of the teacher's. Defaults to `temperature`. */
  teacherTemperature?: number;
  /** Which teacher embedding a student's is compared with in the instance term: of the same modality, the other, or both. Defaults to 'same'. */
  pairing?: 'same' | 'cross' | 'both';
  /** Share of the centres used in a step, (0, 1]; those of the batch always are. Defaults to 1. */
  sampleRate?: number;
  /** Also trains the centres, starting from `clusters.centroids`. Defaults to false. */
  learnedCentres?: boolean;
}

export type Distill = (options: DistillOptions) => Promise<TrainedStudent>;
