import { adamw, type ParameterGroup } from '../../kernels/adamw.ts';
import type { ExecutorState, Parameter, Tensor, UpdateOptions } from '../executor.ts';
import { groupsOf, layOut, type Slot } from '../parameters.ts';

interface Entry extends Slot {
  readonly parameter: Omit<Parameter, 'value'>;
  readonly value: Float32Array;
  readonly gradient: Float32Array;
}

/** The flat buffers of an executor: parameters, gradients, optimiser state. */
export class ParameterStore {
  readonly #entries = new Map<string, Entry>();
  readonly #threads: number;
  readonly #groups: readonly Required<ParameterGroup>[];
  readonly #parameters: Float32Array;
  readonly #gradients: Float32Array;
  readonly #first: Float32Array;
  readonly #second: Float32Array;
  #ema: Float32Array | undefined;
  #step = 0;

  constructor(parameters: readonly Parameter[], threads: number) {
    const slots = layOut(parameters);
    const total = slots.reduce((sum, { length }) => sum + length, 0);
    this.#threads = threads;
    this.#groups = groupsOf(parameters);
    this.#parameters = new Float32Array(total);
    this.#gradients = new Float32Array(total);
    this.#first = new Float32Array(total);
    this.#second = new Float32Array(total);
    for (const [i, slot] of slots.entries()) {
      const end = slot.offset + slot.length;
      const value = this.#parameters.subarray(slot.offset, end);
      value.set(parameters[i]!.value);
      const gradient = this.#gradients.subarray(slot.offset, end);
      this.#entries.set(slot.name, { ...slot, parameter: parameters[i]!, value, gradient });
    }
  }

  /** Names of what gradients are taken by. */
  get learned(): Set<string> {
    return new Set(
      [...this.#entries.values()].filter(({ parameter }) => parameter.trainable).map(({ name }) => name),
    );
  }

  /** A view of a parameter's values; of its moving average when asked for and there is one. */
  value(name: string, which: 'current' | 'ema' = 'current'): Float32Array {
    const { value, offset, length } = this.#entry(name);
    return which === 'ema' && this.#ema ? this.#ema.subarray(offset, offset + length) : value;
  }

  /** The gradient gathered so far, in place. */
  gradient(name: string): Tensor & { readonly data: Float32Array } {
    const { gradient, dims } = this.#entry(name);
    return { type: 'float32', dims, data: gradient };
  }

  addGradient(name: string, values: Float32Array): void {
    const { gradient, length } = this.#entry(name);
    if (values.length !== length) {
      throw new RangeError(
        `Expected ${length} values for the gradient of ${name} but received ${values.length}`,
      );
    }
    for (let i = 0; i < values.length; i++) gradient[i] = gradient[i]! + values[i]!;
  }

  /** Adds row i of `rows` to row `indices[i]` of the gradient, in order. Negative indices count from the end. */
  addRows(name: string, indices: ArrayLike<number | bigint>, rows: Float32Array): void {
    const entry = this.#entry(name);
    const count = entry.dims[0]!;
    const width = entry.length / count;
    for (let i = 0; i < indices.length; i++) {
      const index = Number(indices[i]);
      const to = (index < 0 ? index + count : index) * width;
      for (let j = 0; j < width; j++) {
        entry.gradient[to + j] = entry.gradient[to + j]! + rows[i * width + j]!;
      }
    }
  }

  /** value ← momentum · value + (1 − momentum) · factor · batch */
  average(name: string, batch: Float32Array, momentum: number, factor: number): void {
    const { value } = this.#entry(name);
    for (let i = 0; i < value.length; i++) {
      value[i] = momentum * value[i]! + (1 - momentum) * factor * batch[i]!;
    }
  }

  async update(options: UpdateOptions): Promise<{ gradientNorm: number }> {
    if (options.ema !== undefined) this.#ema ??= this.#parameters.slice();
    const result = await adamw(
      {
        parameters: this.#parameters,
        gradients: this.#gradients,
        first: this.#first,
        second: this.#second,
        ...(options.ema === undefined ? {} : { ema: this.#ema! }),
      },
      {
        device: 'cpu',
        threads: this.#threads,
        step: this.#step + 1,
        rate: options.rate,
        decay: options.decay,
        betas: options.betas,
        epsilon: options.epsilon,
        ...(options.clip === undefined ? {} : { clip: options.clip }),
        ...(options.ema === undefined ? {} : { ema: options.ema }),
        groups: this.#groups,
      },
    );
    // Only a step that was taken counts: adamw leaves everything as it was when it fails.
    this.#step++;
    for (const entry of this.#entries.values()) clamp(entry);
    return result;
  }

  save(): ExecutorState {
    return {
      step: this.#step,
      parameters: this.#parameters.slice(),
      first: this.#first.slice(),
      second: this.#second.slice(),
      ...(this.#ema ? { ema: this.#ema.slice() } : {}),
    };
  }

  /** Gradients gathered so far are dropped. */
  load(state: ExecutorState): void {
    const total = this.#parameters.length;
    for (const name of ['parameters', 'first', 'second', 'ema'] as const) {
      const received = state[name];
      if ((received || name !== 'ema') && received?.length !== total) {
        const what = received ? `${received.length} values` : 'none';
        throw new RangeError(`Expected ${total} values for state.${name} but received ${what}`);
      }
    }
    this.#step = state.step;
    this.#parameters.set(state.parameters);
    this.#first.set(state.first);
    this.#second.set(state.second);
    this.#ema = state.ema?.slice();
    this.#gradients.fill(0);
  }

  #entry(name: string): Entry {
    const entry = this.#entries.get(name);
    if (!entry) throw new RangeError(`Expected the name of a parameter but received ${name}`);
    return entry;
  }
}

function clamp({ value, parameter }: Entry): void {
  const { min = Number.NEGATIVE_INFINITY, max = Number.POSITIVE_INFINITY } = parameter;
  if (min === Number.NEGATIVE_INFINITY && max === Number.POSITIVE_INFINITY) return;
  for (let i = 0; i < value.length; i++) value[i] = Math.min(Math.max(value[i]!, min), max);
}
