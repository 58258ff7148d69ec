/** Value at `x`; writes the gradient there into `gradient`. */
export type Objective = (x: Float64Array, gradient: Float64Array) => number;

export interface MinimiseOptions {
  /** Pairs of steps and gradient changes that stand for the Hessian. Defaults to 10. */
  readonly memory?: number;
  /** Defaults to 500. */
  readonly maxIterations?: number;
  /** Done when no element of the gradient is larger. Defaults to 1e-5. */
  readonly tolerance?: number;
}

export interface Minimum {
  readonly x: Float64Array;
  readonly value: number;
  readonly iterations: number;
  /** False where it stopped at the limit of iterations, or where no step made the value smaller any more. */
  readonly converged: boolean;
}

// Nocedal and Wright, Numerical Optimization, 2nd edition: constants of the strong Wolfe conditions for quasi-Newton methods.
const SUFFICIENT_DECREASE = 1e-4;
const CURVATURE = 0.9;
const MOST_TRIALS = 30;

/** Limited-memory BFGS (Nocedal and Wright, algorithms 7.4 and 7.5) with a line search for the strong Wolfe conditions. Deterministic. */
export function minimise(
  objective: Objective,
  start: Float64Array,
  { memory = 10, maxIterations = 500, tolerance = 1e-5 }: MinimiseOptions = {},
): Minimum {
  let here: Point = evaluateAt(objective, Float64Array.from(start));
  const steps: Float64Array[] = [];
  const changes: Float64Array[] = [];
  let iterations = 0;
  while (largest(here.gradient) > tolerance) {
    if (iterations === maxIterations) return { ...summary(here), iterations, converged: false };
    const direction = descentDirection(here.gradient, steps, changes);
    // Before any curvature is known, a step of unit length at most.
    const first = steps.length === 0 ? Math.min(1, 1 / Math.sqrt(dot(here.gradient, here.gradient))) : 1;
    const next = lineSearch(objective, here, direction, first);
    if (next === undefined) {
      if (steps.length === 0) return { ...summary(here), iterations, converged: false };
      // Old curvature can mislead; once more along the gradient alone.
      steps.length = 0;
      changes.length = 0;
      continue;
    }
    const step = difference(next.x, here.x);
    const change = difference(next.gradient, here.gradient);
    if (dot(step, change) > 1e-12 * dot(change, change)) {
      steps.push(step);
      changes.push(change);
      if (steps.length > memory) {
        steps.shift();
        changes.shift();
      }
    }
    here = next;
    iterations++;
  }
  return { ...summary(here), iterations, converged: true };
}

interface Point {
  readonly x: Float64Array;
  readonly value: number;
  readonly gradient: Float64Array;
}

function evaluateAt(objective: Objective, x: Float64Array): Point {
  const gradient = new Float64Array(x.length);
  return { x, value: objective(x, gradient), gradient };
}

const summary = ({ x, value }: Point) => ({ x, value });

function descentDirection(
  gradient: Float64Array,
  steps: readonly Float64Array[],
  changes: readonly Float64Array[],
): Float64Array {
  const direction = gradient.map((value) => -value);
  const weights: number[] = [];
  for (let i = steps.length - 1; i >= 0; i--) {
    weights[i] = dot(steps[i]!, direction) / dot(steps[i]!, changes[i]!);
    addScaled(direction, -weights[i]!, changes[i]!);
  }
  const last = steps.length - 1;
  if (last >= 0) {
    const scale = dot(steps[last]!, changes[last]!) / dot(changes[last]!, changes[last]!);
    for (let j = 0; j < direction.length; j++) direction[j]! *= scale;
  }
  for (let i = 0; i < steps.length; i++) {
    const weight = dot(changes[i]!, direction) / dot(steps[i]!, changes[i]!);
    addScaled(direction, weights[i]! - weight, steps[i]!);
  }
  return direction;
}

/** Nocedal and Wright, algorithms 3.5 and 3.6: widen until an interval holds a good step, then narrow it. */
function lineSearch(
  objective: Objective,
  from: Point,
  direction: Float64Array,
  first: number,
): Point | undefined {
  const slope0 = dot(from.gradient, direction);
  if (!(slope0 < 0)) return undefined;
  interface Trial {
    readonly length: number;
    readonly slope: number;
    readonly point: Point;
  }
  const at = (length: number): Trial => {
    const x = Float64Array.from(from.x);
    addScaled(x, length, direction);
    const point = evaluateAt(objective, x);
    return { length, slope: dot(point.gradient, direction), point };
  };
  const tooHigh = (trial: Trial) =>
    !(trial.point.value <= from.value + SUFFICIENT_DECREASE * trial.length * slope0);
  const good = (trial: Trial) => Math.abs(trial.slope) <= -CURVATURE * slope0;

  let low: Trial = { length: 0, slope: slope0, point: from };
  let high: Trial | undefined;
  let length = first;
  for (let trials = 0; trials < MOST_TRIALS; trials++) {
    const trial = at(length);
    if (tooHigh(trial) || trial.point.value >= low.point.value) high = trial;
    else if (good(trial)) return trial.point;
    else {
      // The minimum lies between this trial and the side its slope points to.
      if (trial.slope * ((high?.length ?? Number.POSITIVE_INFINITY) - low.length) >= 0) high = low;
      low = trial;
    }
    length = high === undefined ? 2 * length : interpolate(low, high);
  }
  // Rounding can hide the last bit of decrease; any step that is lower is better than none.
  return low.length > 0 ? low.point : undefined;
}

/** Minimum of the cubic through two values and slopes, kept away from the ends of the interval. */
function interpolate(
  a: { length: number; slope: number; point: Point },
  b: { length: number; slope: number; point: Point },
): number {
  const width = b.length - a.length;
  const d1 = a.slope + b.slope - (3 * (b.point.value - a.point.value)) / width;
  const root = d1 * d1 - a.slope * b.slope;
  const d2 = Math.sign(width) * Math.sqrt(Math.max(root, 0));
  const guess = b.length - (width * (b.slope + d2 - d1)) / (b.slope - a.slope + 2 * d2);
  const [from, to] = width > 0 ? [a.length, b.length] : [b.length, a.length];
  const margin = 0.1 * (to - from);
  return guess >= from + margin && guess <= to - margin ? guess : (from + to) / 2;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

function addScaled(target: Float64Array, scale: number, source: Float64Array): void {
  for (let i = 0; i < target.length; i++) target[i]! += scale * source[i]!;
}

function difference(a: Float64Array, b: Float64Array): Float64Array {
  return a.map((value, i) => value - b[i]!);
}

function largest(values: Float64Array): number {
  let most = 0;
  for (const value of values) most = Math.max(most, Math.abs(value));
  return most;
}
