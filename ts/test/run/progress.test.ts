import { describe, expect, test } from 'vitest';
import { formatDuration, showProgress } from '../../src/run/progress.ts';

function display(isTTY: boolean, quiet = false) {
  let text = '';
  let time = 0;
  const shown = showProgress({
    quiet,
    now: () => time,
    stream: {
      isTTY,
      columns: 80,
      write: (part: string) => {
        text += part;
      },
    },
  });
  return {
    shown,
    at: (milliseconds: number, done: number, label = 'embed') => {
      time = milliseconds;
      shown.update({ label, done, total: 1000, unit: 'images' });
    },
    text: () => text,
  };
}

describe('plain lines', () => {
  test('one every five seconds with rate and time left, and the last one always', () => {
    const { at, text } = display(false);
    for (let i = 0; i <= 120; i++) at(i * 100, i * 8);
    at(12_500, 1000);
    expect(text().trimEnd().split('\n')).toEqual([
      'embed   40%  400/1,000 images  80.0/s  0:08 left',
      'embed   80%  800/1,000 images  80.0/s  0:03 left',
      'embed  100%  1,000/1,000 images  80.0/s',
    ]);
  });

  test('the rate of a resumed stage counts from where it goes on', () => {
    const { at, text } = display(false);
    at(0, 900);
    at(5000, 950);
    expect(text()).toContain('10.0/s  0:05 left');
  });

  test('quiet shows only what is logged', () => {
    const { at, text, shown } = display(false, true);
    at(0, 1);
    at(6000, 1000);
    shown.log('a warning');
    shown.end();
    expect(text()).toBe('a warning\n');
  });
});

describe('terminal', () => {
  test('one line in place; a log line goes above it; another label begins a new line', () => {
    const { at, text, shown } = display(true);
    at(0, 0);
    at(50, 5);
    at(300, 30);
    shown.log('skipped x.png');
    at(400, 0, 'balance');
    shown.end();
    shown.end();
    expect(text().match(/\r/g)!.length).toBeGreaterThan(3);
    const lines = text().split('\n');
    expect(lines[0]).toContain('skipped x.png');
    expect(lines[1]).toMatch(/30\/1,000 images/);
    expect(lines[2]).toMatch(/balance/);
    expect(lines).toHaveLength(4);
    for (const line of text().split(/[\r\n]/)) expect(line.length).toBeLessThan(90);
  });
});

test('durations', () => {
  expect([0, 42, 723, 11045].map(formatDuration)).toEqual(['0:00', '0:42', '12:03', '3:04:05']);
});
