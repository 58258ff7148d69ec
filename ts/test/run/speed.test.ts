import { describe, expect, it } from 'vitest';
import { describeSpeed, SpeedMeter, speedNotes } from '../../src/run/speed.ts';

describe('SpeedMeter', () => {
  it('sums up all steps but the first, which nothing was prepared for', () => {
    const meter = new SpeedMeter();
    expect(meter.total).toBeUndefined();
    expect(meter.add({ rows: 100, seconds: 10, waited: 9, worked: 8 })).toEqual({
      items: 10,
      step: 100,
      loader: 12.5,
      waited: 9,
    });
    expect(meter.total).toEqual({ items: 10, step: 100, loader: 12.5, waitedShare: 0.9 });
    meter.add({ rows: 100, seconds: 1, waited: 0, worked: 0.5 });
    meter.add({ rows: 100, seconds: 3, waited: 1, worked: 1.5 });
    expect(meter.total).toEqual({ items: 50, step: 200 / 3, loader: 100, waitedShare: 0.25 });
  });

  it("takes the loader's rate over some steps, one of which may have been ready before", () => {
    const meter = new SpeedMeter();
    const rates = [1, 0, 2, 1, 3].map(
      (worked) => meter.add({ rows: 10, seconds: 1, waited: 0, worked }).loader,
    );
    expect(rates).toEqual([10, 20, 10, 10, 40 / 6]);
    expect(Number.isFinite(new SpeedMeter().add({ rows: 1, seconds: 1, waited: 0, worked: 0 }).loader)).toBe(
      true,
    );
  });
});

describe('what is said of speed', () => {
  it('names the bottleneck, and what helps', () => {
    expect(describeSpeed({ items: 1850, step: 1852, loader: 3210, waitedShare: 0.001 })).toBe(
      '1,850 images/s on average: the step is the bottleneck (alone the step would do 1,852 images/s, the loader 3,210)',
    );
    const cached = describeSpeed({ items: 18, step: 18, loader: 56e6, waitedShare: 0 });
    expect(cached).toMatch(/the loader over a hundred times as many\)$/);
    const held = describeSpeed({ items: 310, step: 1850, loader: 312, waitedShare: 0.83 });
    expect(held).toMatch(/^310 images\/s on average: the loader is the bottleneck/);
    expect(held).toMatch(/the step waited for images 83 % of the time.*--threads.*cacheBytes/);
    const model = describeSpeed({ items: 310, step: 1850, loader: 312, waitedShare: 0.83 }, 'model');
    // The progress has said how fast it was: one speed is enough.
    expect(model).toMatch(/^the loader is the bottleneck, the model waited/);
    expect(model).not.toMatch(/cacheBytes/);
  });

  it('is short in the progress, and of the last steps', () => {
    const note = speedNotes();
    expect(note({ items: 100, step: 100, loader: 400, waited: 0 })).toBe(
      '100 images/s, loader could do 400/s',
    );
    const bare = speedNotes({ rate: false });
    expect(bare({ items: 100, step: 100, loader: 400, waited: 0 })).toBe('loader could do 400/s');
    for (let at = 0; at < 40; at++) note({ items: 50, step: 100, loader: 80, waited: 1 });
    expect(note({ items: 50, step: 100, loader: 80, waited: 1 })).toMatch(
      /^5\d images\/s, waits for images (49|50) %$/,
    );
  });
});
