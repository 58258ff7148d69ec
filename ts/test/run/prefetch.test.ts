import { describe, expect, it } from 'vitest';
import { CidError } from '../../src/native/errors.ts';
import { Prefetch } from '../../src/run/prefetch.ts';

/** Pieces that are done when the test says so. */
function pieces(from: number, to: number, ahead: number, signal?: AbortSignal) {
  const asked: number[] = [];
  const open = new Map<number, { done: () => void; fail: (error: Error) => void }>();
  const prepare = (index: number, stop: AbortSignal) =>
    new Promise<number>((resolve, reject) => {
      asked.push(index);
      open.set(index, { done: () => resolve(index), fail: reject });
      stop.addEventListener('abort', () => reject(new CidError('ABORTED', 'stopped')), { once: true });
    });
  const prefetch = new Prefetch({ prepare, from, to, ahead, signal });
  return { prefetch, asked, done: (index: number) => open.get(index)!.done(), open };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

describe('Prefetch', () => {
  it('gives the pieces in order, and no more than there are', async () => {
    const { prefetch, done } = pieces(2, 5, 1);
    for (const index of [2, 3, 4]) {
      done(index);
      expect((await prefetch.next()).value).toBe(index);
    }
    await expect(prefetch.next()).rejects.toMatchObject({ code: 'INTERNAL' });
  });

  it('shows the next piece where it is ready, and leaves it to be taken', async () => {
    const { prefetch, done } = pieces(0, 2, 1);
    expect(prefetch.ready()).toBeUndefined();
    done(0);
    await turn();
    expect(await prefetch.ready()).toBe(0);
    expect((await prefetch.next()).value).toBe(0);
    expect(prefetch.ready()).toBeUndefined();
    done(1);
    await prefetch.next();
    expect(prefetch.ready()).toBeUndefined();
  });

  it('prepares so many beside the one in use', async () => {
    const { prefetch, asked, done } = pieces(0, 30, 3);
    expect(asked).toEqual([0, 1, 2]);
    done(0);
    await prefetch.next();
    expect(asked).toEqual([0, 1, 2, 3]);
    done(1);
    await turn();
    // Another only begins when one is taken.
    expect(asked).toEqual([0, 1, 2, 3]);
    await prefetch.close();
  });

  it('waits for the one that is next, also when a later one is done before', async () => {
    const { prefetch, done } = pieces(0, 6, 4);
    done(1);
    let got: number | undefined;
    const first = prefetch.next().then(({ value }) => (got = value));
    await turn();
    expect(got).toBeUndefined();
    done(0);
    expect(await first).toBe(0);
    const second = await prefetch.next();
    expect(second.value).toBe(1);
    expect(second.worked).toBe(0);
    await prefetch.close();
  });

  it('tells how long it worked and was waited for, once for what went on at the same time', async () => {
    const { prefetch, done } = pieces(0, 4, 2);
    const start = performance.now();
    while (performance.now() - start < 20) await turn();
    done(0);
    done(1);
    const [first, second] = [await prefetch.next(), await prefetch.next()];
    const seconds = (performance.now() - start) / 1000;
    expect(first.worked).toBeGreaterThanOrEqual(0.019);
    expect(first.worked + second.worked).toBeLessThanOrEqual(seconds + 1e-3);
    expect(first.waited).toBeLessThanOrEqual(seconds);
    await prefetch.close();
  });

  it('fails when the broken one is asked for, not before', async () => {
    const { prefetch, done, open } = pieces(0, 6, 2);
    open.get(1)!.fail(new Error('no image'));
    await turn();
    done(0);
    expect((await prefetch.next()).value).toBe(0);
    await expect(prefetch.next()).rejects.toThrow('no image');
    await prefetch.close();
  });

  it('stops what is under way when it is closed or aborted', async () => {
    const closed = pieces(0, 6, 4);
    const waiting = closed.prefetch.next();
    await closed.prefetch.close();
    await expect(waiting).rejects.toMatchObject({ code: 'ABORTED' });
    await closed.prefetch.close();
    const controller = new AbortController();
    const aborted = pieces(0, 6, 4, controller.signal);
    controller.abort();
    await expect(aborted.prefetch.next()).rejects.toMatchObject({ code: 'ABORTED' });
    await aborted.prefetch.close();
  });
});
