/** Style sheet of the report: light and dark by the reader's own setting, colours that stay apart for the colour-blind (Okabe and Ito). */
export const style = `
:root {
  color-scheme: light dark;
  --page: #f7f7f5; --card: #ffffff; --ink: #1c1d1f; --quiet: #62666d; --rule: #e2e2de; --mark: #0072b2;
  --series-0: #0072b2; --series-1: #d55e00; --series-2: #009e73; --series-3: #cc79a7; --series-4: #b8860b; --series-5: #3a9bd9; --series-6: #7a7a7a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #141518; --card: #1d1f23; --ink: #e8e8e6; --quiet: #9a9fa8; --rule: #33363c; --mark: #56b4e9;
    --series-0: #56b4e9; --series-1: #f08a3c; --series-2: #2fc99b; --series-3: #e3a0c5; --series-4: #f0d24a; --series-5: #8cbcf0; --series-6: #b0b0b0;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 32px; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 0 0 12px; }
h3 { font-size: 15px; margin: 20px 0 8px; }
p { margin: 8px 0; max-width: 78ch; }
a { color: var(--mark); }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 14px 0 0; font-size: 14px; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 20px 22px; margin: 20px 0; }
footer { color: var(--quiet); font-size: 13px; padding-bottom: 40px; }
.quiet { color: var(--quiet); }
.lead { color: var(--quiet); margin: 0 0 12px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; min-width: 50%; }
th, td { text-align: left; padding: 5px 18px 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
thead th { color: var(--quiet); font-weight: 500; }
tbody th { font-weight: 400; }
.number { text-align: right; }
td.number, td code { white-space: nowrap; }
td.best { font-weight: 700; }
tr.head th { color: var(--quiet); font-weight: 600; padding-top: 16px; border-bottom: 0; }
.bars { display: grid; gap: 8px; }
.bar { display: grid; grid-template-columns: 150px 1fr 190px; gap: 12px; align-items: center; font-size: 14px; }
.bar-track { background: var(--page); border-radius: 4px; height: 18px; display: block; }
.bar-fill { display: block; height: 100%; min-width: 2px; border-radius: 4px; }
.bar-value { font-variant-numeric: tabular-nums; }
.grid-2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 18px; }
.chart { margin: 0; }
.chart figcaption { font-size: 14px; font-weight: 600; margin-bottom: 4px; }
.chart svg { width: 100%; height: auto; display: block; }
.chart .grid { stroke: var(--rule); stroke-width: 1; }
.chart .tick { fill: var(--quiet); font-size: 11px; font-family: inherit; }
.dot.faint { opacity: 0.4; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.legend { list-style: none; margin: 4px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px; }
${[0, 1, 2, 3, 4, 5, 6]
  .map(
    (i) =>
      `.line.series-${i} { stroke: var(--series-${i}); } .dot.series-${i} { fill: var(--series-${i}); } .swatch.series-${i}, .bar-fill.series-${i} { background: var(--series-${i}); }`,
  )
  .join('\n')}
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 14px; }
.group { border: 1px solid var(--rule); border-radius: 8px; padding: 10px 12px; margin: 0; }
.group figcaption { font-size: 13px; margin-bottom: 8px; overflow-wrap: anywhere; }
.group figcaption b { font-weight: 600; }
.members { display: flex; flex-wrap: wrap; gap: 6px; list-style: none; margin: 0; padding: 0; }
.members li { font-size: 11px; text-align: center; color: var(--quiet); font-variant-numeric: tabular-nums; line-height: 1.3; }
.thumb { width: 46px; height: 46px; object-fit: contain; display: block; background: #fff; border-radius: 5px; border: 2px solid transparent; padding: 2px; margin: 0 auto; }
.thumb.missing { background: var(--page); color: var(--quiet); font-size: 8px; overflow: hidden; line-height: 1.2; overflow-wrap: anywhere; }
.kept .thumb { border-color: var(--mark); }
.kept { color: var(--mark) !important; font-weight: 600; }
.note { border-left: 3px solid var(--mark); padding: 2px 0 2px 12px; color: var(--quiet); font-size: 14px; }

.note.warning { border-left-color: var(--series-1); color: var(--ink); background: color-mix(in srgb, var(--series-1) 12%, transparent); padding: 6px 12px; }
pre { background: var(--page); border-radius: 8px; padding: 12px; overflow-x: auto; font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
summary { cursor: pointer; }
@media (max-width: 640px) { .bar { grid-template-columns: 1fr; gap: 2px; } section { padding: 16px; } }
@media print { body { background: none; } section { break-inside: avoid; } nav { display: none; } }
`;
