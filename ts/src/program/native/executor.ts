import { DeviceTensor } from '../../kernels/device-tensor.ts';
import type {
  NativeAddon,
  NativeContext,
  NativeDeviceRows,
  NativeEngine,
  NativeProgramSpec,
  NativeStaged,
} from '../../native/addon.ts';
import { fromNative, runNative } from '../../native/context.ts';
import { chooseDevice, type Device, threads as processThreads } from '../../native/devices.ts';
import { CidError } from '../../native/errors.ts';
import { loadAddon } from '../../native/loader.ts';
import type { TensorData } from '../../onnx/tensor.ts';
import { checkGradients, checkInputs, checkOptions } from '../checks.ts';
import type {
  AnyTensors,
  Executor,
  ExecutorOptions,
  ExecutorState,
  Tensor,
  Tensors,
  UpdateOptions,
} from '../executor.ts';
import { groupsOf, layOut, startsOf } from '../parameters.ts';
import type { Precision } from '../precision.ts';
import type { InputDims } from '../static.ts';
import { describeUnsupported } from './lowering.ts';
import { type DeviceTraits, type NativeProgram, planProgram } from './program.ts';

/** Inputs that are sent ahead of their calls: one arrives while another is used. */
const MOST_AHEAD = 2;

/** Rows, columns and pixels that a GPU's kernels number: in 31 bits, with room for a tile behind the last. */
export const GPU_LINES = 2 ** 31 - 4097;

/** Programs kept: a few shapes of a few graphs. */
const LARGEST_CACHE = 24;

interface Loaded {
  readonly id: number;
  readonly program: NativeProgram;
}

/** Activations that a forward pass left for the backward pass on the same inputs. */
interface Kept {
  readonly loaded: Loaded;
  readonly inputs: Tensors;
}

/** Inputs that are on their way to the device, for the next call with them. */
interface Staged {
  readonly inputs: Tensors;
  readonly staged: Promise<NativeStaged | undefined>;
}

/**
 * The executor that runs on our own operations. Graphs are differentiated and planned when a shape first appears; parameters,
 * gradients and the optimiser's state stay in the native core. The result of a step depends on its inputs and the processor alone,
 * and not on the number of threads. Precision 'bf16' runs on every processor, slowly where that has no instructions for it.
 *
 * Fails with a `TypeError` or `RangeError` when parameters and graphs don't fit together. What it has no operation for shows at the
 * first call that needs it, as `MODEL_UNSUPPORTED`.
 */
export async function createNativeExecutor(options: ExecutorOptions): Promise<Executor> {
  const { parameters, threads, maxDeviceMemory } = options;
  const { device } = chooseDevice((options.device ?? 'cpu') as Device);
  checkOptions(options);
  const slots = layOut(parameters);
  const count = slots.reduce((sum, { length }) => sum + length, 0);
  const values = new Float32Array(count);
  for (const [i, { offset }] of slots.entries()) values.set(parameters[i]!.value, offset);
  const call = <T>(work: (addon: NativeAddon, context: NativeContext) => Promise<T>): Promise<T> =>
    runNative(
      {
        device: device as Device,
        ...(threads === undefined ? {} : { threads }),
        ...(maxDeviceMemory === undefined ? {} : { maxDeviceMemory }),
      },
      0,
      work,
    );
  const engine = await call((addon, context) => addon.engineCreate(context, values));
  return new NativeExecutor(options, device, engine, call);
}

type Call = <T>(work: (addon: NativeAddon, context: NativeContext) => Promise<T>) => Promise<T>;

class NativeExecutor implements Executor {
  readonly kind = 'native';
  readonly parameters: Executor['parameters'];
  readonly #graphs: ExecutorOptions['graphs'];
  readonly #engine: NativeEngine;
  readonly #call: Call;
  readonly #traits: DeviceTraits;
  readonly #starts: ReadonlyMap<string, number>;
  readonly #learned: ReadonlySet<string>;
  readonly #groups: ReturnType<typeof groupsOf>;
  readonly #clamps: readonly { offset: number; length: number; least: number; most: number }[];
  readonly #maxActivationMemory: number | undefined;
  readonly #precision: Precision;
  readonly #programs = new Map<string, Loaded>();
  readonly #kept = new Map<string, Kept>();
  /** Whether the device takes inputs while it works. */
  readonly #sends: boolean;
  /** Of the next call of a graph. */
  readonly #staged = new Map<string, Staged>();
  /** Inputs that were sent and not used yet. */
  #onTheWay = 0;
  /** Calls that were made and have not ended. */
  #waiting = 0;
  #step = 0;
  /** What was called last: the next call waits for it. */
  #last: Promise<unknown> = Promise.resolve();
  #disposed = false;

  constructor(options: ExecutorOptions, device: string, engine: NativeEngine, call: Call) {
    const { graphs, parameters, maxActivationMemory, precision = 'float32' } = options;
    this.parameters = layOut(parameters);
    this.#graphs = graphs;
    this.#engine = engine;
    this.#call = call;
    const addon = loadAddon();
    this.#sends = addon.engineStages(engine);
    this.#traits = {
      parts: device === 'cpu',
      operations: addon.engineOperations(),
      threads: device === 'cpu' ? (options.threads ?? processThreads()) : 1,
      mostLines: device === 'cpu' ? Number.POSITIVE_INFINITY : GPU_LINES,
      packedFloats: (n, k, precision) => addon.enginePackedFloats(engine, n, k, precision === 'bf16'),
    };
    this.#starts = startsOf(parameters);
    this.#learned = new Set(parameters.filter(({ trainable }) => trainable).map(({ name }) => name));
    this.#groups = groupsOf(parameters);
    this.#maxActivationMemory = maxActivationMemory;
    this.#precision = precision;
    this.#clamps = parameters.flatMap(({ min = -Infinity, max = Infinity }, i) => {
      const { offset, length } = this.parameters[i]!;
      return min === -Infinity && max === Infinity ? [] : [{ offset, length, least: min, most: max }];
    });
  }

  async prefetch(graph: string, inputs: Tensors): Promise<void> {
    if (this.#disposed) return;
    checkInputs(this.#graphs, graph, inputs);
    // Others than before take their place.
    if (this.#staged.delete(graph)) this.#onTheWay--;
    const staged = this.#send(graph, inputs);
    if (!staged) return;
    this.#staged.set(graph, { inputs, staged });
    await staged;
  }

  forward(
    graph: string,
    inputs: Tensors,
    options: Parameters<Executor['forward']>[2] = {},
  ): Promise<Record<string, Tensor>> {
    // All outputs are asked for on the host.
    return this.#forward(graph, inputs, options, false) as Promise<Record<string, Tensor>>;
  }

  forwardOnDevice(
    graph: string,
    inputs: Tensors,
    options: { keep?: boolean; training?: boolean } = {},
  ): Promise<AnyTensors> {
    return this.#forward(graph, inputs, options, true);
  }

  concatenate(parts: readonly DeviceTensor[]): Promise<DeviceTensor> {
    return this.#queued(async () => {
      const natives = parts.map((part) => this.#whole(part, 'rows to concatenate'));
      const joined = await this.#call((addon, context) =>
        addon.engineConcatenate(context, this.#engine, natives),
      );
      return DeviceTensor.of(joined, this.#engine);
    });
  }

  #forward(
    graph: string,
    inputs: Tensors,
    options: NonNullable<Parameters<Executor['forward']>[2]>,
    onDevice: boolean,
  ): Promise<AnyTensors> {
    const { keep = false, training = keep, parameters = 'current' } = options;
    const ahead = this.#ahead(graph, inputs);
    return this.#queued(async () => {
      const staged = await this.#arrived(ahead);
      checkInputs(this.#graphs, graph, inputs);
      // The program of the gradient computes the same outputs, and holds what it needs for the rest.
      const holds = keep && training && parameters === 'current';
      const loaded = this.#program(graph, inputs, holds ? 'gradient' : training ? 'training' : 'inference');
      const { program, id } = loaded;
      const given = program.inputs.map(({ name }) => inputs[name]!.data);
      const average = parameters === 'ema';
      const rows = program.outputs.map(({ type, dims }) =>
        onDevice && type === 'float32' && dims.length === 2 ? dims[0]! : 0,
      );
      this.#drop(graph);
      const made = await this.#call((addon, context) =>
        addon.engineForward(context, this.#engine, id, given, { average, keep: holds, rows, staged }),
      );
      if (holds) this.#kept.set(graph, { loaded, inputs });
      return Object.fromEntries(
        program.outputs.map(({ name, type, dims }, i) => {
          const value = made[i]!;
          if (!(value instanceof ArrayBuffer)) return [name, DeviceTensor.of(value, this.#engine)];
          return [name, { type, dims, data: viewOf(type, value) } as Tensor];
        }),
      );
    });
  }

  backward(graph: string, inputs: Tensors, outputGradients: AnyTensors): Promise<void> {
    const held = this.#kept.get(graph);
    const ahead = held && sameInputs(held.inputs, inputs) ? undefined : this.#ahead(graph, inputs);
    return this.#queued(async () => {
      const staged = await this.#arrived(ahead);
      checkInputs(this.#graphs, graph, inputs);
      checkGradients(this.#graphs[graph]!, outputGradients);
      const kept = this.#kept.get(graph);
      // Activations of other inputs, or of another shape, are of no use.
      if (kept && !sameInputs(kept.inputs, inputs)) this.#drop(graph);
      this.#kept.delete(graph);
      const { program, id } = this.#program(graph, inputs, 'gradient');
      const given = program.inputs.map(({ name }) => inputs[name]!.data);
      const gradients = program.outputGradients.map(({ name, dims, bytes }) => {
        const tensor = outputGradients[name];
        if (!tensor || bytes === 0) return undefined;
        if (tensor.dims.join() !== dims.join()) {
          throw new RangeError(
            `Expected shape [${dims}] for the gradient of ${name} but received [${tensor.dims}]`,
          );
        }
        return 'data' in tensor
          ? (tensor.data as Float32Array)
          : this.#rows(tensor, `the gradient of ${name}`);
      });
      await this.#call((addon, context) =>
        addon.engineBackward(context, this.#engine, id, given, gradients, staged),
      );
    });
  }

  addGradient(name: string, value: Float32Array | DeviceTensor): Promise<void> {
    return this.#queued(async () => {
      const slot = this.parameters.find((parameter) => parameter.name === name);
      if (!slot) throw new RangeError(`Expected the name of a parameter but received ${name}`);
      const onDevice = value instanceof DeviceTensor;
      const length = onDevice ? value.dims[0] * value.dims[1] : value.length;
      if (length !== slot.length) {
        throw new RangeError(
          `Expected ${slot.length} values for the gradient of ${name} but received ${length}`,
        );
      }
      const values = onDevice ? this.#whole(value, `the gradient of ${name}`) : value;
      await this.#call((addon, context) =>
        addon.engineAddGradient(context, this.#engine, slot.offset, values),
      );
    });
  }

  update(options: UpdateOptions): Promise<{ gradientNorm: number }> {
    return this.#queued(async () => {
      const { rate, decay, betas, epsilon, clip, ema } = options;
      this.#kept.clear();
      const gradientNorm = await this.#call((addon, context) =>
        addon.engineUpdate(
          context,
          this.#engine,
          {
            step: this.#step + 1,
            rate,
            decay,
            beta1: betas[0],
            beta2: betas[1],
            epsilon,
            clip: clip ?? 0,
            emaDecay: ema ?? 0,
            groups: this.#groups,
            average: ema !== undefined,
          },
          this.#clamps,
        ),
      );
      // Only a step that was taken counts: the optimiser leaves everything as it was when it fails.
      this.#step++;
      return { gradientNorm };
    });
  }

  save(): Promise<ExecutorState> {
    return this.#queued(async () => {
      const state = await this.#call((addon, context) => addon.engineSave(context, this.#engine));
      return { step: this.#step, ...state };
    });
  }

  load(state: ExecutorState): Promise<void> {
    return this.#queued(async () => {
      const total = this.parameters.reduce((sum, { length }) => sum + length, 0);
      for (const name of ['parameters', 'first', 'second', 'ema'] as const) {
        const received = state[name];
        if ((received || name !== 'ema') && received?.length !== total) {
          const what = received ? `${received.length} values` : 'none';
          throw new RangeError(`Expected ${total} values for state.${name} but received ${what}`);
        }
      }
      this.#kept.clear();
      await this.#call((addon, context) => addon.engineRestore(context, this.#engine, state));
      this.#step = state.step;
    });
  }

  async dispose(): Promise<void> {
    if (this.#disposed) {
      await this.#last;
      return;
    }
    this.#disposed = true;
    await this.#last.catch(() => undefined);
    this.#staged.clear();
    loadAddon().engineDispose(this.#engine);
  }

  /** Rows that this executor has. */
  #rows(tensor: DeviceTensor, name: string): NativeDeviceRows {
    if (tensor.engine !== this.#engine) throw new TypeError(`Expected ${name} to be this executor's`);
    return { matrix: tensor.native, row: tensor.row, rows: tensor.dims[0] };
  }

  #whole(tensor: DeviceTensor, name: string): NativeDeviceRows['matrix'] {
    if (!tensor.whole) throw new RangeError(`Expected ${name} to be all rows of a tensor`);
    return this.#rows(tensor, name).matrix;
  }

  /** Calls run one after the other, in the order made. */
  #queued<T>(work: () => Promise<T>): Promise<T> {
    if (this.#disposed) return Promise.reject(new CidError('DISPOSED', 'The executor was disposed'));
    this.#waiting++;
    const result = this.#last.then(work).finally(() => {
      this.#waiting--;
    });
    this.#last = result.catch(() => undefined);
    return result;
  }

  /** Begins to bring inputs to a device that works meanwhile; undefined where there is none, or enough is on its way. */
  #send(graph: string, inputs: Tensors): Promise<NativeStaged | undefined> | undefined {
    if (!this.#sends || this.#onTheWay >= MOST_AHEAD) return undefined;
    const order = this.#graphs[graph]!.inputs.map(({ name }) => inputs[name]!.data);
    this.#onTheWay++;
    // What fails here fails again, and is told, where the inputs are used.
    return this.#call((addon, context) => addon.engineStage(context, this.#engine, order)).catch(
      () => undefined,
    );
  }

  /** Inputs of a call that is made now: those that were sent ahead for it, or that go ahead because others run before it. */
  #ahead(graph: string, inputs: Tensors): Promise<NativeStaged | undefined> | undefined {
    const known = this.#staged.get(graph);
    if (known && sameInputs(known.inputs, inputs)) {
      this.#staged.delete(graph);
      return known.staged;
    }
    if (this.#disposed || this.#waiting === 0) return undefined;
    try {
      checkInputs(this.#graphs, graph, inputs);
    } catch {
      return undefined; // as the call itself will say
    }
    return this.#send(graph, inputs);
  }

  async #arrived(ahead: Promise<NativeStaged | undefined> | undefined): Promise<NativeStaged | undefined> {
    if (!ahead) return undefined;
    const staged = await ahead;
    this.#onTheWay--;
    return staged;
  }

  #drop(graph: string): void {
    const kept = this.#kept.get(graph);
    if (!kept) return;
    this.#kept.delete(graph);
    loadAddon().engineRelease(this.#engine, kept.loaded.id);
  }

  #program(name: string, inputs: Tensors, mode: 'gradient' | 'training' | 'inference'): Loaded {
    const graph = this.#graphs[name]!;
    const dims: InputDims = Object.fromEntries(
      graph.inputs.map((input) => [input.name, inputs[input.name]!.dims]),
    );
    const key = `${name}|${mode}|${JSON.stringify(dims)}`;
    const known = this.#programs.get(key);
    if (known) {
      // The one used last goes to the end, the first is dropped first.
      this.#programs.delete(key);
      this.#programs.set(key, known);
      return known;
    }
    const program = planProgram(graph, {
      dims,
      training: mode !== 'inference',
      // What is measured and chosen by is what is exported, which is float32.
      precision: mode === 'inference' ? 'float32' : this.#precision,
      ...(mode === 'gradient'
        ? { learned: this.#learned, maxActivationMemory: this.#maxActivationMemory }
        : {}),
      starts: this.#starts,
      traits: this.#traits,
    });
    if (program.unsupported.length > 0) {
      const list = program.unsupported.map(describeUnsupported).join(', ');
      throw new CidError('MODEL_UNSUPPORTED', `The native executor cannot run graph '${name}': ${list}`);
    }
    const { phases, forwardPhases, memory, code, constants, outputGradients } = program;
    let begin = 0;
    const id = this.#load({
      code,
      phases: phases.map(({ drafts, parts, apart }) => {
        const phase = { begin, end: begin + drafts.length, parts, apart };
        begin = phase.end;
        return phase;
      }),
      forwardPhases,
      arenaBytes: memory.arenaBytes,
      ownBytes: memory.ownBytes,
      constants,
      inputs: program.inputs,
      outputs: program.outputs,
      outputGradients,
    });
    const loaded = { id, program };
    this.#programs.set(key, loaded);
    if (this.#programs.size > LARGEST_CACHE) {
      const [oldest, { id: first }] = this.#programs.entries().next().value!;
      this.#programs.delete(oldest);
      for (const [graphName, kept] of this.#kept) if (kept.loaded.id === first) this.#kept.delete(graphName);
      loadAddon().engineUnload(this.#engine, first);
    }
    return loaded;
  }

  #load(program: NativeProgramSpec): number {
    try {
      return loadAddon().engineLoad(this.#engine, program);
    } catch (error) {
      throw fromNative(error);
    }
  }
}

/** Elements of a type in a buffer. */
function viewOf(type: string, buffer: ArrayBuffer): TensorData {
  switch (type) {
    case 'int64':
      return new BigInt64Array(buffer);
    case 'int32':
      return new Int32Array(buffer);
    case 'bool':
    case 'uint8':
      return new Uint8Array(buffer);
    default:
      return new Float32Array(buffer);
  }
}

/** The same memory, which nobody is to have changed between. */
function sameInputs(a: Tensors, b: Tensors): boolean {
  const names = Object.keys(a);
  return (
    names.length === Object.keys(b).length &&
    names.every((name) => {
      const [x, y] = [a[name]!, b[name]];
      return (
        y !== undefined &&
        x.dims.join() === y.dims.join() &&
        x.data.buffer === y.data.buffer &&
        x.data.byteOffset === y.data.byteOffset &&
        x.data.length === y.data.length
      );
    })
  );
}
