/** Text that is HTML already. */
export class Html {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

type Part = Html | string | number | undefined | readonly Part[];

/** HTML in which everything that is put in is escaped, save what is {@link Html} itself. Lists are joined, undefined is nothing. */
export function html(texts: TemplateStringsArray, ...parts: readonly Part[]): Html {
  return new Html(texts.map((text, i) => text + (i < parts.length ? render(parts[i]) : '')).join(''));
}

function render(part: Part): string {
  if (part === undefined) return '';
  if (part instanceof Html) return part.text;
  if (Array.isArray(part)) return part.map(render).join('');
  return escapeHtml(String(part));
}

const ENTITIES: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Text as it may stand between tags and within a quoted attribute. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character]!);
}

/** Digits in groups of three; fractions with a few significant digits. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value)) return value.toLocaleString('en-US');
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString('en-US');
  if (size < 1e-4) return value.toExponential(2).replace(/\.?0+e/, 'e');
  return String(Number(value.toPrecision(4)));
}

/** Seconds as a person would say them. */
export function formatSeconds(seconds: number): string {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  const rest = Math.round(seconds - 60 * minutes);
  return minutes < 60 ? `${minutes} min ${rest} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A section with a heading that can be linked to. */
export function section(id: string, title: string, ...content: readonly Part[]): Html {
  return html`<section id="${id}"><h2>${title}</h2>${content}</section>\n`;
}

/** A table; numbers stand to the right. Cells of the first column head their row; with empty headings there is no line of them. */
export function table(head: readonly Part[], rows: readonly (readonly Part[])[]): Html {
  const cell = (part: Part, column: number) =>
    column === 0
      ? html`<th scope="row">${part}</th>`
      : html`<td${typeof part === 'number' ? new Html(' class="number"') : undefined}>${
          typeof part === 'number' ? formatNumber(part) : part
        }</td>`;
  const heading = (part: Part, column: number) => {
    const numbers = column > 0 && rows.some((row) => typeof row[column] === 'number');
    return html`<th scope="col"${numbers ? new Html(' class="number"') : undefined}>${part}</th>`;
  };
  const titled = head.some((part) => part !== '');
  return html`<div class="scroll"><table>${titled ? html`<thead><tr>${head.map(heading)}</tr></thead>` : undefined}
<tbody>${rows.map((row) => html`<tr>${row.map(cell)}</tr>\n`)}</tbody></table></div>`;
}
