import { parentPort, type Transferable } from 'node:worker_threads';
import type { ChannelCall, ChannelReply } from './channel.ts';

/** A result with the buffers that move to the caller instead of being copied. */
export interface Reply {
  readonly result?: unknown;
  readonly transfer?: readonly Transferable[];
}

export type Methods = Readonly<Record<string, (argument: never) => Promise<Reply>>>;

/** The worker's side of `WorkerChannel`: runs calls one after the other, in the order they come. */
export function serve(methods: Methods): void {
  let tail: Promise<unknown> = Promise.resolve();
  parentPort!.on('message', (call: ChannelCall) => {
    tail = tail.then(() => answer(methods, call));
  });
}

async function answer(methods: Methods, { id, method, argument }: ChannelCall): Promise<void> {
  try {
    const { result, transfer } = await methods[method]!(argument as never);
    parentPort!.postMessage({ id, result } satisfies ChannelReply, transfer ?? []);
  } catch (error) {
    const { name, message, code } = error as { name: string; message: string; code?: string };
    const stable = name === 'CidError' ? { code } : {};
    parentPort!.postMessage({ id, error: { name, message, ...stable } });
  }
}
