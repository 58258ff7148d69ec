import { Html, html } from './html.ts';
import { style } from './style.ts';

export interface PageParts {
  readonly title: string;
  /** Under the title. */
  readonly lead: string;
  /** Version of the package that made what is reported. */
  readonly version: string | undefined;
  readonly sections: readonly Html[];
}

/** One HTML file with a list of its sections at the top. It loads nothing and runs no script. */
export function page({ title, lead, version, sections }: PageParts): string {
  // Ids and headings are those of section() alone, so that the list at the top cannot lack one.
  const links = sections.flatMap(({ text }) => {
    const found = /^<section id="([^"]+)"><h2>(.*?)<\/h2>/.exec(text);
    return found ? [new Html(`<a href="#${found[1]}">${found[2]}</a>`)] : [];
  });
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title} · clip-cid</title>
<style>${new Html(style)}</style>
</head>
<body>
<header><h1>${title}</h1>
<p class="lead">${lead}</p>
<nav aria-label="Sections">${links}</nav></header>
<main>
${sections}</main>
<footer>Made by clip-cid${version === undefined ? undefined : ` ${version}`}. This file loads nothing from elsewhere.</footer>
</body>
</html>
`.text;
}
