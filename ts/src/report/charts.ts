import { formatNumber, type Html, html } from './html.ts';

type Point = readonly [x: number, y: number];

export interface Series {
  readonly name: string;
  readonly points: readonly Point[];
  /** Single values that the points of the line sum up, drawn as faint dots of the same colour. */
  readonly scatter?: readonly Point[];
}

export interface ChartOptions {
  readonly title: string;
  /** What runs along the horizontal axis. */
  readonly x: string;
  readonly series: readonly Series[];
}

const WIDTH = 480;
const HEIGHT = 240;
const MARGIN = { top: 10, right: 12, bottom: 34, left: 52 };
/** Colours of the style sheet, `--series-0` on. */
const COLOURS = 7;
/** Points of a line at most; more are averaged, which a chart of this width shows no worse. */
const MOST_POINTS = 240;

/** Lines over a common horizontal axis, with a legend. Values that are not finite are left out. */
export function lineChart({ title, x, series }: ChartOptions): Html {
  const finite = (points: readonly Point[]) => points.filter((point) => point.every(Number.isFinite));
  const lines = series
    .map(({ name, points, scatter = [] }) => ({
      name,
      points: thin(finite(points)),
      scatter: finite(scatter),
    }))
    .filter(({ points }) => points.length > 0);
  if (lines.length === 0) return html``;
  const all = lines.flatMap(({ points, scatter }) => [...points, ...scatter]);
  const xs = niceTicks(Math.min(...all.map(([px]) => px)), Math.max(...all.map(([px]) => px)), 5, false);
  const ys = niceTicks(Math.min(...all.map(([, py]) => py)), Math.max(...all.map(([, py]) => py)), 4, true);
  const inner = { width: WIDTH - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
  const left = (value: number) =>
    round(MARGIN.left + (inner.width * (value - xs.from)) / (xs.to - xs.from || 1));
  const top = (value: number) =>
    round(MARGIN.top + inner.height * (1 - (value - ys.from) / (ys.to - ys.from || 1)));

  const grid = ys.ticks.map(
    (
      tick,
    ) => html`<line class="grid" x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${top(tick)}" y2="${top(tick)}"/>
<text class="tick" x="${MARGIN.left - 6}" y="${top(tick) + 4}" text-anchor="end">${formatNumber(tick)}</text>`,
  );
  // There is nothing between two steps, or layers.
  const whole = all.every(([px]) => Number.isInteger(px));
  const marks = (whole ? xs.ticks.filter(Number.isInteger) : xs.ticks).map(
    (tick) =>
      html`<text class="tick" x="${left(tick)}" y="${HEIGHT - MARGIN.bottom + 16}" text-anchor="middle">${formatNumber(tick)}</text>`,
  );
  const dots = lines.map(({ name, scatter }, i) =>
    scatter.map(
      ([px, py]) =>
        html`<circle class="dot faint series-${i % COLOURS}" cx="${left(px)}" cy="${top(py)}" r="2.2"><title>${name}: ${formatNumber(py)}</title></circle>`,
    ),
  );
  const paths = lines.map(({ name, points }, i) => {
    const at = points.map(([px, py]) => `${left(px)},${top(py)}`);
    const label = html`<title>${name}: ${formatNumber(points.at(-1)![1])} at ${formatNumber(points.at(-1)![0])}</title>`;
    return points.length === 1
      ? html`<circle class="dot series-${i % COLOURS}" cx="${left(points[0]![0])}" cy="${top(points[0]![1])}" r="3">${label}</circle>`
      : html`<polyline class="line series-${i % COLOURS}" points="${at.join(' ')}">${label}</polyline>`;
  });
  const described = lines
    .map(
      ({ name, points }) =>
        `${name} from ${formatNumber(points[0]![1])} to ${formatNumber(points.at(-1)![1])}`,
    )
    .join('; ');
  return html`<figure class="chart"><figcaption>${title}</figcaption>
<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${title}: ${described}">
${grid}${marks}
<text class="tick" x="${MARGIN.left + inner.width / 2}" y="${HEIGHT - 4}" text-anchor="middle">${x}</text>
${dots}${paths}</svg>
<ul class="legend">${lines.map(
    ({ name, points }, i) =>
      html`<li><span class="swatch series-${i % COLOURS}"></span>${name} <span class="quiet">${formatNumber(points.at(-1)![1])}</span></li>`,
  )}</ul></figure>\n`;
}

export interface Bar {
  readonly label: string;
  readonly value: number;
  /** Beside the value. */
  readonly note?: string;
}

/** Bars from 0, one under the other, each with its value in words. */
export function barChart(bars: readonly Bar[], format: (value: number) => string = formatNumber): Html {
  const most = Math.max(...bars.map(({ value }) => value), Number.MIN_VALUE);
  return html`<div class="bars" role="list">${bars.map(
    (
      { label, value, note },
      i,
    ) => html`<div class="bar" role="listitem"><span class="bar-label">${label}</span>
<span class="bar-track"><span class="bar-fill series-${i % COLOURS}" style="width:${round((100 * value) / most)}%"></span></span>
<span class="bar-value">${format(value)}${note === undefined ? undefined : html` <span class="quiet">${note}</span>`}</span></div>`,
  )}</div>\n`;
}

/** Means of runs of neighbours, so that no more than {@link MOST_POINTS} are left; the last point stays as it is. */
function thin(points: readonly Point[]): Point[] {
  if (points.length <= MOST_POINTS) return [...points];
  const size = points.length / MOST_POINTS;
  const thinned: Point[] = [];
  for (let i = 0; i < MOST_POINTS; i++) {
    const run = points.slice(Math.floor(i * size), Math.floor((i + 1) * size));
    const mean = (of: 0 | 1) => run.reduce((sum, point) => sum + point[of], 0) / run.length;
    thinned.push([mean(0), mean(1)]);
  }
  thinned[thinned.length - 1] = points.at(-1)!;
  return thinned;
}

/** Round numbers that cover a range in about `count` steps; `widen` takes the range out to whole steps. */
export function niceTicks(
  low: number,
  high: number,
  count: number,
  widen: boolean,
): { from: number; to: number; ticks: number[] } {
  const span = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  const step =
    [1, 2, 5, 10].map((factor) => factor * power).find((size) => span / size <= count) ?? 10 * power;
  const from = widen || high === low ? Math.floor(low / step) * step : low;
  let to = widen || high === low ? Math.ceil(high / step) * step : high;
  if (to === from) to = from + step;
  const ticks: number[] = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to + 1e-9 * step; i++) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return { from, to, ticks };
}

const round = (value: number) => Math.round(value * 10) / 10;
