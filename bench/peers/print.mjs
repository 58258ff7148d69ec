// Rows of the comparison with peers: JSON lines, lines on a terminal, or a table in Markdown.

/** @param about What stands above a table in Markdown: title, command, where, memory. */
export function printerFor({ json, markdown }, about) {
  return json ? jsonPrinter() : markdown ? markdownPrinter(about) : linePrinter();
}

function jsonPrinter() {
  return { line: (line) => process.stdout.write(`${JSON.stringify(line)}\n`), end: () => {} };
}

function cells(line) {
  const {
    work,
    teacher,
    precision,
    peer,
    spectrum,
    ours_s,
    peer_s,
    ratio,
    ours_extra_mb,
    peer_extra_mb,
    agrees,
  } = line;
  const { plan } = line;
  const time = (seconds) =>
    seconds === null ? '' : seconds < 1 ? `${(1000 * seconds).toFixed(1)} ms` : `${seconds.toFixed(2)} s`;
  const size = (megabytes) => (megabytes === null ? '?' : megabytes.toFixed(0));
  const items = (who) => line[`${who}_items_per_second`]?.toFixed(0);
  const notes = [
    ...(teacher === undefined ? [] : [`teacher ${teacher}`]),
    ...(precision === undefined ? [] : [`ours in ${precision}`]),
    ...(items('ours') === undefined ? [] : [`${items('ours')} pairs a second, the peer ${items('peer')}`]),
    ...(agrees ? [] : ['RESULTS DIFFER']),
    ...(line.peer_wrong_pairs ? [`the peer gets ${line.peer_wrong_pairs} of ${line.pairs} pairs wrong`] : []),
    ...(line.peer_wrong_queries ? [`the peer gets ${line.peer_wrong_queries} queries wrong`] : []),
    ...(plan === undefined ? [] : [plan]),
  ];
  return [
    work,
    spectrum,
    peer ?? '',
    time(ours_s),
    time(peer_s),
    ratio === null ? '' : `${ratio.toFixed(1)}×`,
    size(ours_extra_mb),
    peer === null ? '' : size(peer_extra_mb),
    notes.join('; '),
  ];
}

const HEADS = ['work', 'data', 'peer', 'ours', 'peer’s', 'ratio', 'ours, MB more', 'peer’s, MB more', ''];

function linePrinter() {
  const widths = [17, 9, 13, 10, 10, 7, 14, 16, 0];
  const print = (row) =>
    process.stdout.write(
      `${row
        .map((cell, i) => cell.padEnd(widths[i]))
        .join(' ')
        .trimEnd()}\n`,
    );
  let begun = false;
  return {
    line: (line) => {
      if (!begun) print(HEADS);
      begun = true;
      print(cells(line));
    },
    end: () => {},
  };
}

function markdownPrinter({ title, command, where, memory }) {
  const lines = [];
  return {
    line: (line) => lines.push(line),
    end: () => {
      const row = (entries) => `| ${entries.join(' | ')} |`;
      const rounds = [...new Set(lines.map(({ work, rounds: n }) => `${work} ${n}`))].join(', ');
      process.stdout.write(
        [
          `# ${title}`,
          '',
          `Written by \`${command}\`; what each side does is in [README.md](README.md). ${where}, ${new Date().toISOString().slice(0, 10)}. ` +
            `Medians of alternating rounds (${rounds}); ratio = the peer's time over ours; ${memory}.`,
          '',
          row(HEADS),
          row(HEADS.map(() => '---')),
          ...lines.map((line) => row(cells(line))),
          '',
        ].join('\n'),
      );
    },
  };
}
