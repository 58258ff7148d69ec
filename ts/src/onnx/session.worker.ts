import { createSession, fromOrt, runSession, type SessionHandle, toOrt } from './runtime.ts';
import { type Reply, serve } from './serve.ts';
import type { OnnxTensor } from './tensor.ts';

let session: SessionHandle | undefined;

interface RunCall {
  readonly inputs: Readonly<Record<string, OnnxTensor>>;
  readonly outputs?: readonly string[] | undefined;
}

async function open(options: {
  model: string | Uint8Array;
  providers: readonly string[];
  threads: number;
  dataFolder?: string | undefined;
}): Promise<Reply> {
  const { model, ...rest } = options;
  session = await createSession(model, { ...rest, optimize: true, spin: false });
  return { result: { inputs: session.inputs, outputs: session.outputs } };
}

async function run({ inputs, outputs: wanted }: RunCall): Promise<Reply> {
  const feeds = Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, toOrt(tensor)]));
  const outputs = await runSession(session!, feeds, wanted);
  const result = Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, fromOrt(tensor)]));
  return { result, transfer: Object.values(result).map(({ data }) => data.buffer as ArrayBuffer) };
}

async function dispose(): Promise<Reply> {
  await session?.release();
  session = undefined;
  return {};
}

serve({ open, run, dispose });
