import type { Dataset } from '../data/dataset.ts';
import type { TrainedStudent, TrainingOptions } from '../student/options.ts';

/** Training of a CLIP from nothing, with the contrastive loss alone; see {@link TrainingOptions} for the rest. */
export interface PretrainOptions extends TrainingOptions {
  /** Images with captions; the caller disposes of it. */
  data: Dataset;
  /** Indices of the items to use. Defaults to all. */
  items?: ArrayLike<number>;
  /** Folder for checkpoints and, in `model/`, the exported CLIP. Training goes on from what is there. */
  folder: string;
  /** Where a line of metrics a step goes. Defaults to `metrics.jsonl` in `folder`. */
  metrics?: string;
  /** Tokens of the byte-level BPE that is trained on the captions, at least 514. Defaults to 8,192. Not used with `init`. */
  vocabSize?: number;
}

export type Pretrain = (options: PretrainOptions) => Promise<TrainedStudent>;
