import { formatCount } from '../run/progress.ts';
import type { StepReport } from './types.ts';

/** How fast one training step was, in rows a second. */
export interface StepSpeed {
  /** With its wait for data. */
  readonly items: number;
  /** Without. */
  readonly step: number;
  /** What the loader made while it was at work, on the same processors as the step. */
  readonly loader: number;
  /** Seconds that the step waited for its data. */
  readonly waited: number;
}

/** How fast a training was: {@link StepSpeed} over all of its steps but the first, for which nothing can be prepared ahead. */
export interface TrainingSpeed {
  readonly items: number;
  readonly step: number;
  readonly loader: number;
  /** Share of the time in which the step waited for data. */
  readonly waitedShare: number;
}

/** Share of waiting from which on the loader counts as what training waits for. */
const NOTABLE = 0.05;

/** Sums up steps. */
export class SpeedMeter {
  #first: StepSpeed | undefined;
  #steps = 0;
  /** Seconds a row of all, and of the parts. */
  #all = 0;
  #loading = 0;
  #waiting = 0;

  add(speed: StepSpeed): void {
    if (!this.#first) {
      this.#first = speed;
      return;
    }
    this.#steps++;
    this.#all += 1 / speed.items;
    this.#loading += 1 / speed.loader;
    this.#waiting += 1 / speed.items - 1 / speed.step;
  }

  /** Undefined before the first step. */
  get total(): TrainingSpeed | undefined {
    const first = this.#first;
    if (!first) return undefined;
    if (this.#steps === 0) {
      const { items, step, loader } = first;
      return { items, step, loader, waitedShare: 1 - items / step };
    }
    return {
      items: this.#steps / this.#all,
      step: this.#steps / (this.#all - this.#waiting),
      loader: this.#steps / this.#loading,
      waitedShare: this.#waiting / this.#all,
    };
  }
}

/** A few words on each step for the progress: loss, speed, and what holds it up. */
export function stepNotes(): (step: StepReport) => string {
  // Over the last steps or so: a single one may have waited for a disk.
  const keep = 0.9;
  let all = 0;
  let waiting = 0;
  let loading = 0;
  return ({ step, terms, speed }) => {
    const { items, step: own, loader } = speed;
    const weight = all === 0 || step === 1 ? 0 : keep;
    all = weight * all + (1 - weight) / items;
    waiting = weight * waiting + (1 - weight) * (1 / items - 1 / own);
    loading = weight * loading + (1 - weight) / loader;
    const share = waiting / all;
    const load =
      share > NOTABLE ? `waits for images ${percent(share)}` : `loader ${formatCount(1 / loading)}/s`;
    return `loss ${terms.total.toPrecision(4)}, ${formatCount(1 / all)} images/s, ${load}`;
  };
}

/** Which of the two was the bottleneck, and what helps: a sentence for people. */
export function describeSpeed({ items, step, loader, waitedShare }: TrainingSpeed): string {
  const rates = `${formatCount(items)} images/s (loader ${formatCount(loader)}, step ${formatCount(step)})`;
  if (waitedShare <= NOTABLE) return `${rates}: the step is the bottleneck`;
  return (
    `${rates}: the loader is the bottleneck, the step waited for images ${percent(waitedShare)} of the time. ` +
    "What helps: more threads (--threads), memory for decoded images (cacheBytes), images stored at twice the model's size or less"
  );
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}
