/**
 * Ctrl-C for a command: the first SIGINT or SIGTERM aborts `signal`, so that the work in hand stops at a point from
 * which it can go on; the second ends the process at once, by the signal itself, as if it had never been caught.
 */
export interface Interrupt {
  readonly signal: AbortSignal;
  readonly interrupted: boolean;
  /** Gives the signals back to Node. */
  dispose(): void;
}

/** Exit code of a command that was interrupted and can be resumed (128 + SIGINT, as shells have it). */
export const INTERRUPTED = 130;

// Not SIGHUP: a handler would undo what nohup asked for, and a killed command can be resumed too.
const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/** @param onFirst Told once, when the work has been asked to stop. */
export function catchInterrupt(onFirst: () => void = () => undefined): Interrupt {
  const controller = new AbortController();
  const handle = (name: NodeJS.Signals) => {
    if (controller.signal.aborted) {
      // process.exit would wait for threads that are deep in a native call.
      dispose();
      process.kill(process.pid, name);
      return;
    }
    onFirst();
    controller.abort();
  };
  const dispose = () => {
    for (const name of SIGNALS) process.off(name, handle);
  };
  for (const name of SIGNALS) process.on(name, handle);
  return {
    signal: controller.signal,
    get interrupted() {
      return controller.signal.aborted;
    },
    dispose,
  };
}
