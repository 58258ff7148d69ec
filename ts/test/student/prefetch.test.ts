import { describe, expect, it } from 'vitest';
import { CidError } from '../../src/native/errors.ts';
import { Prefetch } from '../../src/student/prefetch.ts';
import { describeSpeed, SpeedMeter, stepNotes } from '../../src/student/speed.ts';
import type { BatchSource } from '../../src/student/types.ts';

/** A source whose batches are done when the test says so. */
function source(batchBytes?: number) {
  const asked: string[] = [];
  const open = new Map<string, { done: () => void; fail: (error: Error) => void }>();
  const batches: BatchSource<string> = {
    stepsPerEpoch: 3,
    batchSize: 10,
    ...(batchBytes !== undefined && { batchBytes }),
    batch: (epoch, step, signal) =>
      new Promise((resolve, reject) => {
        const name = `${epoch}.${step}`;
        asked.push(name);
        open.set(name, { done: () => resolve(name), fail: reject });
        signal?.addEventListener('abort', () => reject(new CidError('ABORTED', 'stopped')), { once: true });
      }),
  };
  return { batches, asked, done: (name: string) => open.get(name)!.done(), open };
}

describe('Prefetch', () => {
  it('gives the batches in order, epoch after epoch, and no more than there are', async () => {
    const { batches, done } = source();
    const prefetch = new Prefetch(batches, 2, 5, 0);
    for (const name of ['0.2', '1.0', '1.1']) {
      done(name);
      expect((await prefetch.next()).batch).toBe(name);
    }
    await expect(prefetch.next()).rejects.toMatchObject({ code: 'INTERNAL' });
  });

  it.each<[number | undefined, number, number]>([
    [undefined, 1e9, 1],
    [100, 99, 1],
    [100, 100, 1],
    [100, 350, 3],
    [100, 1e9, 8],
  ])('prepares as many as fit: batches of %s bytes in %i are %i', async (batchBytes, bytes, ahead) => {
    const { batches, asked, done } = source(batchBytes);
    const prefetch = new Prefetch(batches, 0, 30, bytes);
    expect(asked).toHaveLength(ahead);
    done('0.0');
    await prefetch.next();
    expect(asked).toHaveLength(ahead + 1);
    // The one in use is not counted, and another only begins when one is taken.
    await new Promise((resolve) => setImmediate(resolve));
    expect(asked).toHaveLength(ahead + 1);
    await prefetch.close();
  });

  it('waits for the one that is next, also when a later one is done before', async () => {
    const { batches, done } = source(1);
    const prefetch = new Prefetch(batches, 0, 6, 10);
    done('0.1');
    let got: string | undefined;
    const first = prefetch.next().then(({ batch }) => (got = batch));
    await new Promise((resolve) => setImmediate(resolve));
    expect(got).toBeUndefined();
    done('0.0');
    expect(await first).toBe('0.0');
    const second = await prefetch.next();
    expect(second.batch).toBe('0.1');
    expect(Number.isFinite(second.rate)).toBe(true);
    await prefetch.close();
  });

  it('fails when the broken one is asked for, not before', async () => {
    const { batches, done, open } = source(1);
    const prefetch = new Prefetch(batches, 0, 6, 2);
    open.get('0.1')!.fail(new Error('no image'));
    await new Promise((resolve) => setImmediate(resolve));
    done('0.0');
    expect((await prefetch.next()).batch).toBe('0.0');
    await expect(prefetch.next()).rejects.toThrow('no image');
    await prefetch.close();
  });

  it('stops what is under way when it is closed or aborted', async () => {
    const { batches } = source(1);
    const closed = new Prefetch(batches, 0, 6, 4);
    const waiting = closed.next();
    await closed.close();
    await expect(waiting).rejects.toMatchObject({ code: 'ABORTED' });
    await closed.close();
    const controller = new AbortController();
    const aborted = new Prefetch(batches, 0, 6, 4, controller.signal);
    controller.abort();
    await expect(aborted.next()).rejects.toMatchObject({ code: 'ABORTED' });
    await aborted.close();
  });
});

describe('speed', () => {
  const step = (seconds: number, waited: number, loader: number) => ({
    items: 100 / seconds,
    step: 100 / (seconds - waited),
    loader,
    waited,
  });

  it('sums up all steps but the first, which nothing was prepared for', () => {
    const meter = new SpeedMeter();
    expect(meter.total).toBeUndefined();
    meter.add(step(10, 9, 12));
    expect(meter.total).toEqual({ items: 10, step: 100, loader: 12, waitedShare: 0.9 });
    meter.add(step(1, 0, 300));
    meter.add(step(3, 1, 100));
    const { items, step: own, loader, waitedShare } = meter.total!;
    expect([items, own, loader, waitedShare]).toEqual(
      [50, 200 / 3, 150, 0.25].map((value) => expect.closeTo(value, 9)),
    );
  });

  it('says which is the bottleneck, and what helps', () => {
    expect(describeSpeed({ items: 1850, step: 1852, loader: 3210, waitedShare: 0.001 })).toBe(
      '1,850 images/s (loader 3,210, step 1,852): the step is the bottleneck',
    );
    const held = describeSpeed({ items: 310, step: 1850, loader: 312, waitedShare: 0.83 });
    expect(held).toMatch(/^310 images\/s \(loader 312, step 1,850\): the loader is the bottleneck/);
    expect(held).toMatch(/83 % of the time.*--threads.*cacheBytes/);
  });

  it('notes on the last steps for the progress', () => {
    const note = stepNotes();
    const report = (at: number, speed: ReturnType<typeof step>) =>
      note({ step: at, steps: 9, epoch: 0, rate: 1, gradientNorm: 1, terms: { total: 2.5 }, speed });
    expect(report(1, step(1, 0, 400))).toBe('loss 2.500, 100 images/s, loader 400/s');
    for (let at = 2; at < 40; at++) report(at, step(2, 1, 80));
    expect(report(40, step(2, 1, 80))).toMatch(/^loss 2.500, 5\d images\/s, waits for images (49|50) %$/);
  });
});
