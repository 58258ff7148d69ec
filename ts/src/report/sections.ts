import { percent } from '../eval/format.ts';
import { STAGE_FOLDERS } from '../run/folder.ts';
import type { Json } from '../run/hash.ts';
import type { MetricsRecord } from '../run/metrics.ts';
import { words } from '../run/progress.ts';
import { describeSpeed, type Speed, SpeedMeter } from '../run/speed.ts';
import { barChart, lineChart, type Series } from './charts.ts';
import type { ClusterSample } from './clusters.ts';
import { formatNumber, formatSeconds, type Html, html, section, table } from './html.ts';
import type { RunContents } from './read.ts';
import { staleNote } from './stale-notes.ts';
import type { Thumbnails } from './thumbnails.ts';

/** From the source to the student, in numbers. */
export function funnelSection({ balance, cluster, stages, metrics, stale }: RunContents): Html | undefined {
  const bars = (balance?.funnel ?? []).map(({ step, items }) => ({ label: step, value: items }));
  if (bars.length === 0) {
    const rows = stages.find(({ folder }) => folder === 'embeddings')?.manifest.summary.rows;
    if (typeof rows === 'number') bars.push({ label: 'embedded', value: rows });
  }
  if (cluster) bars.push({ label: 'cluster centres', value: cluster.clusters });
  if (bars.length === 0) return undefined;
  const embedded = bars.find(({ label }) => label === 'embedded')?.value;
  const trained = new Set(metrics.filter((record) => 'loss/total' in record).map(({ stage }) => stage));
  for (const stage of trained)
    if (stale.some(({ folder }) => folder === folderOf(stage))) trained.delete(stage);
  return section(
    'funnel',
    'Funnel',
    barChart(
      bars.map((bar) => ({
        ...bar,
        ...(embedded && bar.label === 'kept' ? { note: percent(bar.value / embedded) } : {}),
      })),
    ),
    trained.size > 0
      ? html`<p class="quiet">Trained on what was kept: ${[...trained].join(', ')}.</p>`
      : undefined,
  );
}

/** How near-duplicates were told, and how well that agrees with what is known of the data. */
export function balanceSection(run: RunContents): Html | undefined {
  const { balance, grouping } = run;
  if (!balance) return undefined;
  const { rule, groups, edges, faults } = balance;
  return section(
    'balance',
    'Balance',
    staleNote(run, 'balance'),
    html`<p>${rule.text}</p>`,
    table(
      ['', ''],
      [
        [
          'Threshold (cosine)',
          html`<div class="number">${Number(rule.threshold.toPrecision(9)).toString()}</div>`,
        ],
        ['Groups', groups],
        ['Pairs over the threshold', edges],
        ['Zero, NaN or infinite embeddings', faults],
      ],
    ),
    grouping
      ? html`<h3>Against groups that are known</h3><p>${grouping.title}</p>${table(
          ['Belongs together', 'Precision', 'Recall', 'F1', 'Pairs grouped', 'Pairs known', 'Both'],
          grouping.rows.map((row) => [
            row.against,
            percent(row.precision),
            percent(row.recall),
            percent(row.f1),
            row.grouped,
            row.true,
            row.both,
          ]),
        )}`
      : undefined,
  );
}

/** Groups and members of a group that are shown. */
const GROUPS = 18;
const MEMBERS = 14;

/** The largest groups of near-duplicates; the one that stays comes first and is marked. */
export async function groupsSection(
  { balance }: RunContents,
  thumbnails: Thumbnails,
): Promise<Html | undefined> {
  const samples = balance?.largestGroups.slice(0, GROUPS) ?? [];
  if (samples.length === 0) return undefined;
  const figures = [];
  for (const { label, size, members } of samples) {
    const shown = members.slice(0, MEMBERS);
    const pictures = [];
    for (const { kept, centrality, image, key, row } of shown) {
      const picture = await thumbnails.show(image, key ?? `row ${row}`);
      pictures.push(
        html`<li class="${kept ? 'kept' : ''}">${picture}${kept ? 'kept' : centrality.toFixed(3)}</li>`,
      );
    }
    const [first] = shown;
    const more = size - shown.length;
    figures.push(
      html`<figure class="group"><figcaption><b>${formatNumber(size)} images</b> ${first?.caption ?? first?.key ?? `group ${label}`}${
        more > 0 ? html` <span class="quiet">(${formatNumber(more)} not shown)</span>` : undefined
      }</figcaption>
<ul class="members">${pictures}</ul></figure>\n`,
    );
  }
  return section(
    'groups',
    'Largest groups of near-duplicates',
    html`<p class="lead">The framed image is the central one, which stays. Under the others: their cosine to the mean of the group.</p>`,
    html`<div class="gallery">${figures}</div>`,
  );
}

/** Some clusters with the images that lie nearest to their centres. */
export async function clustersSection(
  run: RunContents,
  samples: readonly ClusterSample[],
  thumbnails: Thumbnails,
): Promise<Html | undefined> {
  const { cluster } = run;
  if (!cluster) return undefined;
  const figures = [];
  for (const { centre, size, members } of samples) {
    const pictures = [];
    for (const { image, key, cosine } of members) {
      pictures.push(html`<li>${await thumbnails.show(image, key)}${cosine.toFixed(3)}</li>`);
    }
    figures.push(
      html`<figure class="group"><figcaption><b>${formatNumber(size)} images</b> <span class="quiet">centre ${centre}</span></figcaption>
<ul class="members">${pictures}</ul></figure>\n`,
    );
  }
  const { sizes, clusters, rows, meanCosine, iterations } = cluster;
  return section(
    'clusters',
    'Clusters',
    staleNote(run, 'cluster'),
    html`<p class="lead">${formatNumber(rows)} images round ${formatNumber(clusters)} centres, ${formatNumber(iterations)} iterations of
spherical k-means; mean cosine to the own centre ${meanCosine.toFixed(4)}; images a centre: ${sizes.min} to ${sizes.max}, median ${sizes.median}.</p>`,
    figures.length > 0
      ? html`<h3>Nearest to their centres, with the cosine</h3><div class="gallery">${figures}</div>`
      : undefined,
  );
}

/** Fields of a step's speed, as the chart names them. */
const SPEEDS: Readonly<Record<string, string>> = {
  'speed/items': 'trained on',
  'speed/step': 'step without waiting',
  'speed/loader': 'loader while at work',
};

function speedOf(records: readonly MetricsRecord[]): Speed | undefined {
  const meter = new SpeedMeter();
  for (const record of records) {
    const [items, step, loader] = ['items', 'step', 'loader'].map((name) => Number(record[`speed/${name}`]));
    if (!items || !step || !loader) continue;
    // Batches are of one size, so that times may be those of one row.
    meter.add({ rows: 1, seconds: 1 / items, waited: 1 / items - 1 / step, worked: 1 / loader });
  }
  return meter.total;
}

/** Losses, validation, rate and speed of every training stage. */
export function curvesSection(run: RunContents): Html | undefined {
  const { metrics } = run;
  const stages = new Map<string, MetricsRecord[]>();
  for (const record of metrics) {
    if (typeof record.step !== 'number') continue;
    if (!stages.has(record.stage)) stages.set(record.stage, []);
    stages.get(record.stage)!.push(record);
  }
  const parts: Html[] = [];
  for (const [stage, records] of stages) {
    const series = (pick: (name: string) => string | undefined): Series[] => {
      const lines = new Map<string, [number, number][]>();
      for (const record of records) {
        for (const [field, value] of Object.entries(record)) {
          const name = typeof value === 'number' ? pick(field) : undefined;
          if (name === undefined) continue;
          if (!lines.has(name)) lines.set(name, []);
          lines.get(name)!.push([record.step!, value as number]);
        }
      }
      return [...lines].map(([name, points]) => ({ name, points }));
    };
    const under = (prefix: string, but: readonly string[] = []) =>
      series((field) =>
        field.startsWith(prefix) && !but.includes(field.slice(prefix.length))
          ? field.slice(prefix.length)
          : undefined,
      );
    // A scale is no loss, and a validation loss no share: each has a chart whose axis fits it.
    const isShare = (line: Series) => line.points.every(([, value]) => value >= 0 && value <= 1);
    const validation = under('validation/', ['loss']);
    const charts = [
      { title: 'Loss terms', series: under('loss/') },
      { title: 'Validation', series: validation.filter(isShare) },
      { title: 'Validation loss', series: under('validation/').filter(({ name }) => name === 'loss') },
      { title: 'Other validation', series: validation.filter((line) => !isShare(line)) },
      { title: 'Learning rate', series: series((field) => (field === 'rate' ? 'rate' : undefined)) },
      {
        title: 'Norm of the gradient',
        series: series((field) => (field === 'gradientNorm' ? 'before clipping' : undefined)),
      },
      {
        title: 'Images a second',
        series: series((field) => SPEEDS[field]),
      },
    ].filter((chart) => chart.series.length > 0);
    if (charts.length === 0) continue;
    const speed = speedOf(records);
    parts.push(
      html`<h3>${stage}</h3>${staleNote(run, folderOf(stage))}${speed === undefined ? undefined : html`<p>${describeSpeed(speed)}.</p>`}<div class="grid-2">${charts.map((chart) => lineChart({ ...chart, x: 'step' }))}</div>`,
    );
  }
  return parts.length === 0 ? undefined : section('training', 'Training', parts);
}

/** Folder of a stage of training by the name that it has in the metrics. */
const folderOf = (stage: string) => (STAGE_FOLDERS as Readonly<Record<string, string>>)[stage] ?? stage;

/** What was run, when, and with which settings. */
export function runSection({ run, stages, stale }: RunContents): Html | undefined {
  if (!run && stages.length === 0) return undefined;
  const rows = stages.map(({ folder, manifest }) => [
    folder,
    stale.some((other) => other.folder === folder)
      ? html`<b>out of date</b>`
      : manifest.status === 'done'
        ? 'done'
        : 'not finished',
    manifest.finished ? duration(manifest.started, manifest.finished) : '',
    Object.entries(manifest.summary)
      .filter(([name, value]) => name !== 'model' && (typeof value === 'number' || typeof value === 'string'))
      .map(([name, value]) => `${words(name)} ${typeof value === 'number' ? formatNumber(value) : value}`)
      .join(', '),
  ]);
  const facts: [string, string][] = [];
  if (run) {
    const { environment } = run;
    facts.push(
      ['clip-cid', run.package],
      ['Node.js', environment.node],
      ['System', `${environment.platform} ${environment.release}, ${environment.arch}`],
      ['Processor', `${environment.cpu}, ${environment.cores} cores`],
      ['Started', run.started],
      ['Last touched', run.updated],
    );
    if (run.seed !== undefined) facts.push(['Seed', String(run.seed)]);
  }
  return section(
    'run',
    'Run',
    rows.length > 0 ? table(['Stage', 'Status', 'Time', 'Summary'], rows) : undefined,
    facts.length > 0 ? html`<h3>Environment</h3>${table(['', ''], facts)}` : undefined,
    run?.config === undefined
      ? undefined
      : html`<details><summary>Configuration</summary>${code(run.config)}</details>`,
    stages.length > 0
      ? html`<details><summary>Options of the stages, as resolved</summary>${code(
          Object.fromEntries(stages.map(({ folder, manifest }) => [folder, manifest.options])),
        )}</details>`
      : undefined,
  );
}

const code = (value: Json) => html`<pre>${JSON.stringify(value, null, 2)}</pre>`;

function duration(from: string, to: string): string {
  const seconds = (Date.parse(to) - Date.parse(from)) / 1000;
  return Number.isFinite(seconds) ? formatSeconds(Math.max(0, seconds)) : '';
}
