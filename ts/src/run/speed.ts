import { formatCount } from './progress.ts';

/** One step of work on rows that a loader prepared. Times are in seconds. */
export interface StepTimes {
  readonly rows: number;
  /** All of the step. */
  readonly seconds: number;
  /** Of these, waiting for the rows. */
  readonly waited: number;
  /** That the loader was at work for them, on the same processors and mostly during earlier steps. */
  readonly worked: number;
}

/** How fast a step was, in rows a second. */
export interface StepSpeed {
  /** With its wait for data. */
  readonly items: number;
  /** Without. */
  readonly step: number;
  /** What the loader made while it was at work, over the last few steps. */
  readonly loader: number;
  /** Seconds that the step waited for its data. */
  readonly waited: number;
}

/** How fast many steps were, in rows a second, without the first, for which nothing can be prepared ahead. */
export interface Speed {
  readonly items: number;
  readonly step: number;
  readonly loader: number;
  /** Share of the time in which steps waited for data. */
  readonly waitedShare: number;
}

/** Steps over which the loader's rate is taken: a batch may be ready before the one that is in front of it. */
const RECENT = 4;
/** Share of waiting from which on the loader is what everything waits for. */
const NOTABLE = 0.05;

/** Sums up steps. */
export class SpeedMeter {
  readonly #recent: StepTimes[] = [];
  #steps = 0;
  #sum: StepTimes = { rows: 0, seconds: 0, waited: 0, worked: 0 };

  add(step: StepTimes): StepSpeed {
    const { rows, seconds, waited } = step;
    // The first one stands for the others only while there are none.
    this.#sum = this.#steps++ === 1 ? step : plus(this.#sum, step);
    this.#recent.push(step);
    if (this.#recent.length > RECENT) this.#recent.shift();
    const recent = this.#recent.reduce(plus);
    return {
      items: rows / seconds,
      step: rows / (seconds - waited),
      loader: recent.rows / Math.max(recent.worked, 1e-6),
      waited,
    };
  }

  /** Undefined before the first step. */
  get total(): Speed | undefined {
    if (this.#steps === 0) return undefined;
    const { rows, seconds, waited, worked } = this.#sum;
    return {
      items: rows / seconds,
      step: rows / (seconds - waited),
      loader: rows / Math.max(worked, 1e-6),
      waitedShare: waited / seconds,
    };
  }
}

function plus(a: StepTimes, b: StepTimes): StepTimes {
  return {
    rows: a.rows + b.rows,
    seconds: a.seconds + b.seconds,
    waited: a.waited + b.waited,
    worked: a.worked + b.worked,
  };
}

/**
 * A few words for the progress: whether the last steps waited, or what the loader could give; with `rate` also how fast they were, where the
 * progress counts something else than images.
 */
export function speedNotes({ rate = true }: { rate?: boolean } = {}): (speed: StepSpeed) => string {
  const keep = 0.9;
  let all = 0;
  let waiting = 0;
  let loading = 0;
  let steps = 0;
  return ({ items, step, loader }) => {
    // As in the sum, the first one stands for the others only while there are none.
    const weight = steps++ < 2 ? 0 : keep;
    all = weight * all + (1 - weight) / items;
    waiting = weight * waiting + (1 - weight) * (1 / items - 1 / step);
    loading = weight * loading + (1 - weight) / loader;
    const rest =
      waiting / all > NOTABLE
        ? `waits for images ${percent(waiting / all)}`
        : `loader could do ${formatCount(1 / loading)}/s`;
    return rate ? `${formatCount(1 / all)} images/s, ${rest}` : rest;
  };
}

/**
 * Which of the two was the bottleneck, and what helps: a sentence for people. Of a training also how fast it was; where a model is run, the
 * progress has said that.
 *
 * @param consumer What works on the rows: a 'step' of training, or a 'model'.
 */
export function describeSpeed(
  { items, step, loader, waitedShare }: Speed,
  consumer: 'step' | 'model' = 'step',
): string {
  const rate = consumer === 'step' ? `${formatCount(items)} images/s on average: ` : '';
  // Of images that are in memory already there is hardly anything to time.
  const far = loader > 100 * step ? 'over a hundred times as many' : formatCount(loader);
  const alone = `alone the ${consumer} would do ${formatCount(step)} images/s, the loader ${far}`;
  if (waitedShare <= NOTABLE) return `${rate}the ${consumer} is the bottleneck (${alone})`;
  const cache = consumer === 'step' ? 'memory for decoded images (cacheBytes), ' : '';
  return (
    `${rate}the loader is the bottleneck, the ${consumer} waited for images ${percent(waitedShare)} of the time (${alone}). ` +
    `What helps: more threads (--threads), ${cache}images stored no larger than twice the model's size`
  );
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}
