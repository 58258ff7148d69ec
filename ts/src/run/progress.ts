/** How far a long stage is. */
export interface ProgressEvent {
  /** What is going on, such as 'embed'. */
  readonly label: string;
  readonly done: number;
  readonly total: number;
  /** What is counted, in the plural: 'images', 'steps'. Without it only the share is shown. */
  readonly unit?: string;
  /** A few words more, such as a loss. */
  readonly note?: string;
}

export type OnProgress = (event: ProgressEvent) => void;

export interface ProgressDisplay {
  update: OnProgress;
  /** A line of its own above the progress. */
  log(line: string): void;
  /** Ends the line in hand. Idempotent. */
  end(): void;
}

export interface ProgressOptions {
  /** Shows nothing but what `log` is told. Defaults to false. */
  quiet?: boolean;
  /** Defaults to standard error. */
  stream?: { write(text: string): unknown; isTTY?: boolean; columns?: number };
  /** Milliseconds; for tests. Defaults to a monotonic clock. */
  now?: () => number;
}

/** Milliseconds between two drawings: a line that changes in place, or a new line each time. */
const TERMINAL_EVERY = 100;
const PLAIN_EVERY = 5_000;
/** Milliseconds over which the rate is taken. */
const WINDOW = 15_000;

/**
 * Draws progress with rate and time left: one line that is updated in place on a terminal, a plain line every five seconds
 * elsewhere. A label that changes, or a count that goes back, begins a new line.
 */
export function showProgress(options: ProgressOptions = {}): ProgressDisplay {
  const stream = options.stream ?? process.stderr;
  const now = options.now ?? (() => performance.now());
  const terminal = stream.isTTY === true;
  let meter: Meter | undefined;
  let last: ProgressEvent | undefined;
  let drawnAt = Number.NEGATIVE_INFINITY;
  let pending = false;
  let onLine = false;

  const draw = (event: ProgressEvent) => {
    const line = format(event, meter!);
    drawnAt = now();
    pending = false;
    if (terminal) {
      stream.write(`\r\x1b[K${line.slice(0, Math.max(20, (stream.columns ?? 80) - 1))}`);
      onLine = true;
    } else {
      stream.write(`${line}\n`);
    }
  };
  const finishLine = () => {
    if (pending && last) draw(last);
    if (onLine) stream.write('\n');
    onLine = false;
  };
  return {
    update(event) {
      if (options.quiet) return;
      if (!meter || last?.label !== event.label || event.done < last.done) {
        finishLine();
        meter = new Meter(now);
        drawnAt = terminal ? Number.NEGATIVE_INFINITY : now();
      }
      meter.add(event.done);
      last = event;
      pending = true;
      const every = terminal ? TERMINAL_EVERY : PLAIN_EVERY;
      if (now() - drawnAt >= every || event.done >= event.total) draw(event);
      if (event.done >= event.total) finishLine();
    },
    log(line) {
      if (onLine) stream.write('\r\x1b[K');
      stream.write(`${line}\n`);
      if (onLine && last) draw(last);
    },
    end() {
      finishLine();
      last = undefined;
      meter = undefined;
    },
  };
}

/** Rate over the last seconds; the first value counts as where an earlier attempt had stopped. */
class Meter {
  readonly #now: () => number;
  readonly #marks: { at: number; done: number }[] = [];

  constructor(now: () => number) {
    this.#now = now;
  }

  add(done: number): void {
    const at = this.#now();
    const newest = this.#marks.at(-1);
    // One mark a hundredth of the window keeps the list short however often it is called.
    if (newest && this.#marks.length > 1 && at - this.#marks.at(-2)!.at < WINDOW / 100) {
      newest.at = at;
      newest.done = done;
    } else {
      this.#marks.push({ at, done });
    }
    while (this.#marks.length > 2 && at - this.#marks[1]!.at > WINDOW) this.#marks.shift();
  }

  /** Units a second; undefined while too little is known. */
  get rate(): number | undefined {
    const [first, newest] = [this.#marks[0], this.#marks.at(-1)];
    if (!first || !newest || newest.at - first.at < 200 || newest.done <= first.done) return undefined;
    return ((newest.done - first.done) / (newest.at - first.at)) * 1000;
  }
}

function format(event: ProgressEvent, meter: Meter): string {
  const { label, done, total, unit, note } = event;
  const share = total > 0 ? `${Math.floor((Math.min(done, total) / total) * 100)}%` : '';
  const count = unit ? `${formatCount(done)}/${formatCount(total)} ${unit}` : '';
  const { rate } = meter;
  const speed = rate && unit ? `${formatRate(rate)}/s` : '';
  const left = rate && done < total ? `${formatDuration((total - done) / rate)} left` : '';
  return [label, share.padStart(4), count, speed, left, note].filter((part) => part).join('  ');
}

/** A field's name as people write it: 'keepRatio' as 'keep ratio'. */
export function words(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}

/** 1,234,567 */
export function formatCount(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

function formatRate(value: number): string {
  return value >= 100 ? formatCount(value) : value.toPrecision(value >= 10 ? 3 : 2);
}

/** Seconds as 0:42, 12:03 or 3:04:05. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (value: number) => String(value).padStart(2, '0');
  return hours > 0 ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}
