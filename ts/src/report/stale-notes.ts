import { type Html, html, section, table } from './html.ts';
import type { RunContents } from './read.ts';

/** What of a run is no longer of one piece, before anything else is shown of it. */
export function staleSection({ stale }: Pick<RunContents, 'stale'>): Html | undefined {
  if (stale.length === 0) return undefined;
  return section(
    'stale',
    'Out of date',
    html`<p class="note warning">These results were made from inputs that have changed since. What is shown of them below does not belong to the rest.</p>`,
    table(
      ['Stage', 'Why', 'Made anew by'],
      stale.map(({ folder, reasons, command }) => [
        folder,
        reasons.join('; '),
        html`<code>${command}</code>`,
      ]),
    ),
  );
}

/** A line above what is shown of stages, those of which that are out of date. */
export function staleNote({ stale }: Pick<RunContents, 'stale'>, ...folders: string[]): Html | undefined {
  const found = stale.filter(({ folder }) => folders.includes(folder));
  if (found.length === 0) return undefined;
  return html`${found.map(
    ({ folder, reasons }) =>
      html`<p class="note warning"><b>Out of date:</b> ${folder} (${reasons.join('; ')}).</p>`,
  )}`;
}
